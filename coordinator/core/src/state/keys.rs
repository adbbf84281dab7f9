//! The key/value stores of the environments, in their first form: whole values, last writer wins.

use std::sync::Arc;

use common::{
    error::{Code, Problem},
    name::Name,
};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{Applied, State, not_found};

/// Longest key, in bytes.
pub const MAX_KEY: usize = 512;
/// Largest value, in bytes.
pub const MAX_VALUE: usize = 64 << 10;

/// Most keys of all environments.
const MAX_KEYS: usize = 200_000;
/// Most bytes of all keys and values together.
const MAX_BYTES: usize = 64 << 20;

/// The section of keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Keys {
    /// By environment and key.
    entries: OrdMap<(Name, Arc<str>), Key>,
    /// The bytes of all keys and values together.
    bytes: usize,
}

impl Keys {
    fn put(&mut self, id: (Name, Arc<str>), key: Key) {
        let (length, size) = (id.1.len(), key.value.len());
        let before = self.entries.insert(id, key).map_or(0, |before| length + before.value.len());
        self.bytes = self.bytes + length + size - before;
    }

    fn remove(&mut self, id: &(Name, Arc<str>)) -> bool {
        let removed = self.entries.remove(id);
        self.bytes -= removed.as_ref().map_or(0, |key| id.1.len() + key.value.len());
        removed.is_some()
    }
}

/// A value and when it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The value.
    pub value: Arc<[u8]>,
    /// The index at which it was last written.
    pub modify_index: u64,
}

impl State {
    /// The key/value stores, by environment and key.
    pub fn keys(&self) -> &OrdMap<(Name, Arc<str>), Key> {
        &self.keys.entries
    }

    pub(super) fn put_key(&mut self, environment: &Name, key: &Arc<str>, value: &Arc<[u8]>) -> Applied {
        self.known_environment(environment)?;
        if key.is_empty() || key.len() > MAX_KEY || value.len() > MAX_VALUE {
            return Err(Problem::new(Code::InvalidRequest, "The key was not written")
                .why(format!("a key must have 1 to {MAX_KEY} bytes, and a value at most {MAX_VALUE}")));
        }
        let id = (environment.clone(), key.clone());
        let before = self.keys.entries.get(&id).map(|known| key.len() + known.value.len());
        let bytes = self.keys.bytes - before.unwrap_or(0) + key.len() + value.len();
        if before.is_none() && self.keys.entries.len() >= MAX_KEYS {
            return Err(too_many(format!("there are already {MAX_KEYS} keys, which is the limit")));
        }
        if bytes > MAX_BYTES {
            return Err(too_many(format!(
                "all keys and values would take {bytes} bytes, and the limit is {MAX_BYTES}"
            )));
        }
        let modify_index = self.touch();
        self.keys.put(id, Key { value: value.clone(), modify_index });
        self.done()
    }

    pub(super) fn remove_key(&mut self, environment: &Name, key: &Arc<str>) -> Applied {
        if !self.keys.remove(&(environment.clone(), key.clone())) {
            return Err(not_found("key", key));
        }
        self.touch();
        self.done()
    }
}

fn too_many(why: String) -> Problem {
    Problem::new(Code::TooLarge, "The key was not written")
        .why(why)
        .fix("Remove unused keys, or store large values elsewhere")
}

#[cfg(test)]
mod tests {
    use common::name::default_environment;

    use super::*;
    use crate::{Command, testing::Fixture};

    #[test]
    fn all_keys_together_have_a_limit_that_removing_them_gives_back() {
        let mut fixture = Fixture::of_hosts(1);
        let value: Arc<[u8]> = vec![7; MAX_VALUE].into();
        let put = |number: usize| Command::PutKey {
            environment: default_environment(),
            key: format!("key-{number:06}").into(),
            value: value.clone(),
        };
        let room = MAX_BYTES / (MAX_VALUE + "key-000000".len());
        for number in 0..room {
            fixture.done(put(number));
        }
        let refused = fixture.refused(put(room));
        assert!(refused.contains(&format!("and the limit is {MAX_BYTES}")), "{refused}");
        fixture.done(put(0));
        fixture.done(Command::RemoveKey { environment: default_environment(), key: "key-000001".into() });
        fixture.done(put(room));
        let counted: usize = fixture.cluster.keys().iter().map(|((_, key), entry)| key.len() + entry.value.len()).sum();
        assert_eq!(fixture.cluster.keys.bytes, counted);
    }
    #[test]
    fn a_value_may_become_shorter() {
        let mut fixture = Fixture::of_hosts(1);
        let put =
            |value: &[u8]| Command::PutKey { environment: default_environment(), key: "k".into(), value: value.into() };
        fixture.done(put(b"long"));
        fixture.done(put(b"s"));
        assert_eq!(fixture.cluster.keys.bytes, 2);
        fixture.done(Command::RemoveKey { environment: default_environment(), key: "k".into() });
        assert_eq!(fixture.cluster.keys.bytes, 0);
    }
}
