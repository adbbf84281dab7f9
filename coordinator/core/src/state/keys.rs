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

/// The section of keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Keys {
    /// By environment and key.
    entries: OrdMap<(Name, Arc<str>), Key>,
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
                .why(format!("a key has 1 to {MAX_KEY} bytes and a value at most {MAX_VALUE}")));
        }
        let modify_index = self.touch();
        self.keys.entries.insert((environment.clone(), key.clone()), Key { value: value.clone(), modify_index });
        self.done()
    }

    pub(super) fn remove_key(&mut self, environment: &Name, key: &Arc<str>) -> Applied {
        self.keys.entries.remove(&(environment.clone(), key.clone())).ok_or_else(|| not_found("key", key))?;
        self.touch();
        self.done()
    }
}
