//! The stored form of a state: its sections one after the other, each behind its tag and its version.
//!
//! A tag never changes, and no other section ever gets it. A section whose stored form changes gets a new version here,
//! and a decoder for each older one. A state is written in the versions of its feature level, so the binaries of all
//! members can read each other's snapshots while they differ by one level. A tag or a version that this binary does not
//! know is an error: nothing of a state is ever skipped.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error, SeqAccess, Visitor},
    ser::SerializeTuple,
};

use super::State;

/// More sections than any version will have.
const MOST_SECTIONS: usize = 255;

/// Tag and version, before each section.
type Head = (u16, u16);

const BASICS: Head = (1, 1);
const FLEET: Head = (2, 1);
const WORK: Head = (3, 1);
const ACCESS: Head = (4, 1);
const FILES: Head = (5, 1);
const ENVIRONMENTS: Head = (6, 1);
const KEYS: Head = (7, 1);
const JOURNAL: Head = (8, 1);
const REQUESTS: Head = (9, 1);
const COUNT: u16 = 9;

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut parts = serializer.serialize_tuple(1 + 2 * usize::from(COUNT))?;
        parts.serialize_element(&COUNT)?;
        let mut sections = Sections(&mut parts);
        sections.write(BASICS, &self.basics)?;
        sections.write(FLEET, &self.fleet)?;
        sections.write(WORK, &self.work)?;
        sections.write(ACCESS, &self.access)?;
        sections.write(FILES, &self.files)?;
        sections.write(ENVIRONMENTS, &self.environments)?;
        sections.write(KEYS, &self.keys)?;
        sections.write(JOURNAL, &self.journal)?;
        sections.write(REQUESTS, &self.requests)?;
        parts.end()
    }
}

struct Sections<'a, T>(&'a mut T);

impl<T: SerializeTuple> Sections<'_, T> {
    fn write<V: Serialize>(&mut self, head: Head, section: &V) -> Result<(), T::Error> {
        self.0.serialize_element(&head)?;
        self.0.serialize_element(section)
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<State, D::Error> {
        deserializer.deserialize_tuple(1 + 2 * MOST_SECTIONS, Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = State;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sections of a state")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<State, A::Error> {
        let mut state = State::default();
        for _ in 0..next::<u16, A>(&mut parts)? {
            match next::<Head, A>(&mut parts)? {
                BASICS => state.basics = next(&mut parts)?,
                FLEET => state.fleet = next(&mut parts)?,
                WORK => state.work = next(&mut parts)?,
                ACCESS => state.access = next(&mut parts)?,
                FILES => state.files = next(&mut parts)?,
                ENVIRONMENTS => state.environments = next(&mut parts)?,
                KEYS => state.keys = next(&mut parts)?,
                JOURNAL => state.journal = next(&mut parts)?,
                REQUESTS => state.requests = next(&mut parts)?,
                (tag, version) => {
                    let why = "which this version of wharf does not know: a newer one wrote it";
                    return Err(A::Error::custom(format!("section {tag} of the state has version {version}, {why}")));
                }
            }
        }
        Ok(state)
    }
}

fn next<'de, T: DeserializeOwned, A: SeqAccess<'de>>(parts: &mut A) -> Result<T, A::Error> {
    parts.next_element()?.ok_or_else(|| A::Error::custom("a section of the state is missing"))
}

#[cfg(test)]
mod tests {
    use common::codec;

    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn a_state_is_read_back_whole() {
        let state = Fixture::of_hosts(3).cluster;
        let bytes = codec::encode(&state).expect("it is written");
        assert_eq!(codec::decode::<State>(&bytes).expect("it is read"), state);
        assert_eq!(codec::encode(&codec::decode::<State>(&bytes).expect("it is read")).expect("it is written"), bytes);
    }

    #[test]
    fn an_unknown_section_or_version_is_refused_by_its_number() {
        for head in [(77, 1), (KEYS.0, KEYS.1 + 1)] {
            let bytes = codec::encode(&(1_u16, head)).expect("it is written");
            let why = codec::decode::<State>(&bytes).expect_err("nobody knows it").to_string();
            assert!(why.contains(&format!("section {} of the state has version {}", head.0, head.1)), "{why}");
        }
        let short = codec::encode(&2_u16).expect("it is written");
        assert!(codec::decode::<State>(&short).is_err(), "it ends early");
    }
}
