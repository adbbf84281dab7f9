//! The stored form of a state: its sections one after the other, each behind its tag and its version.
//!
//! A tag never changes, and no other section ever gets it. A section whose stored form changes gets a new version here,
//! and a decoder for each older one. A state is written in the versions of its feature level, so the binaries of all
//! members can read each other's snapshots while they differ by one level. A tag or a version that this binary does not
//! know is an error: nothing of a state is ever skipped.

use std::fmt;

use common::codec::{self, CodecError};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, SeqAccess, Visitor},
    ser::{Error as _, SerializeTuple},
};

use super::{State, access::Version1, fleet};
use crate::level;

/// More sections than any version will have.
const MOST_SECTIONS: usize = 255;

/// Tag and version, before each section.
type Head = (u16, u16);

const BASICS: Head = (1, 1);
const FLEET: Head = (2, 2);
/// Up to the level before [`level::HOST_CLAIMS`].
const FLEET_1: Head = (2, 1);
const WORK: Head = (3, 1);
const ACCESS: Head = (4, 2);
/// Up to the level before [`level::ROLES`].
const ACCESS_1: Head = (4, 1);
const FILES: Head = (5, 1);
const ENVIRONMENTS: Head = (6, 1);
const KEYS: Head = (7, 1);
const JOURNAL: Head = (8, 1);
const REQUESTS: Head = (9, 1);
/// From [`level::TRUST`] on.
const TRUST: Head = (10, 1);
/// From [`level::BACKUPS`] on.
const BACKUPS: Head = (11, 1);
/// From [`level::UPGRADES`] on.
const BINARIES: Head = (12, 1);
/// From [`level::AUDIT`] on.
const AUDIT: Head = (13, 1);

/// How many sections a state of a level has: those of the first level, and those that a later one brought.
fn count(level: u16) -> u16 {
    let brought = [level::TRUST, level::BACKUPS, level::UPGRADES, level::AUDIT];
    9 + brought.iter().map(|brought| u16::from(level >= *brought)).sum::<u16>()
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let count = count(self.basics.level);
        let mut parts = serializer.serialize_tuple(1 + 2 * usize::from(count))?;
        parts.serialize_element(&count)?;
        let mut sections = Sections(&mut parts);
        self.write_decisive(&mut sections)?;
        sections.write(JOURNAL, &self.journal)?;
        sections.write(REQUESTS, &self.requests)?;
        parts.end()
    }
}

impl State {
    /// Writes the sections that decide what happens next: all but events and remembered outcomes.
    fn write_decisive<T: SerializeTuple>(&self, sections: &mut Sections<'_, T>) -> Result<(), T::Error> {
        sections.write(BASICS, &self.basics)?;
        if self.basics.level < level::HOST_CLAIMS {
            sections.write(FLEET_1, &fleet::Version1::from(&self.fleet))?;
        } else {
            sections.write(FLEET, &self.fleet)?;
        }
        sections.write(WORK, &self.work)?;
        if self.basics.level < level::ROLES {
            sections.write(ACCESS_1, &Version1::try_from(&self.access).map_err(T::Error::custom)?)?;
        } else {
            sections.write(ACCESS, &self.access)?;
        }
        sections.write(FILES, &self.files)?;
        sections.write(ENVIRONMENTS, &self.environments)?;
        sections.write(KEYS, &self.keys)?;
        if self.basics.level >= level::TRUST {
            sections.write(TRUST, &self.trust)?;
        }
        if self.basics.level >= level::BACKUPS {
            sections.write(BACKUPS, &self.backups)?;
        }
        if self.basics.level >= level::UPGRADES {
            sections.write(BINARIES, &self.binaries)?;
        }
        if self.basics.level >= level::AUDIT {
            sections.write(AUDIT, &self.audit)?;
        }
        Ok(())
    }

    /// A hash of all that decides what happens next. Members that applied the same log have the same hash, also if they
    /// run different versions of wharf: events and remembered outcomes hold sentences, whose wording may differ, so of
    /// these only the number of changes counts.
    pub fn hash(&self) -> Result<StateHash, CodecError> {
        codec::hash(&Decisive(self)).map(StateHash)
    }
}

/// A SHA-256 of a state; see [`State::hash`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateHash(pub [u8; 32]);

impl fmt::Display for StateHash {
    /// Its beginning, which is enough to tell two of them apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is hashed of a state.
struct Decisive<'a>(&'a State);

impl Serialize for Decisive<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut parts = serializer.serialize_tuple(1 + 2 * usize::from(count(self.0.basics.level)))?;
        self.0.write_decisive(&mut Sections(&mut parts))?;
        parts.serialize_element(&self.0.index())?;
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
                FLEET_1 => state.fleet = next::<fleet::Version1, A>(&mut parts)?.into(),
                WORK => state.work = next(&mut parts)?,
                ACCESS => state.access = next(&mut parts)?,
                ACCESS_1 => state.access = next::<Version1, A>(&mut parts)?.into(),
                FILES => state.files = next(&mut parts)?,
                ENVIRONMENTS => state.environments = next(&mut parts)?,
                KEYS => state.keys = next(&mut parts)?,
                BACKUPS => state.backups = next(&mut parts)?,
                JOURNAL => state.journal = next(&mut parts)?,
                TRUST => state.trust = next(&mut parts)?,
                REQUESTS => state.requests = next(&mut parts)?,
                BINARIES => state.binaries = next(&mut parts)?,
                AUDIT => state.audit = next(&mut parts)?,
                (tag, version) => {
                    let what = format!("section {tag} of the state has version {version}, which is not known here");
                    return Err(A::Error::custom(format!("{what}{}", codec::NEWER)));
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
    use common::{
        role::{Grant, Role},
        token::{SecretHash, TokenId},
    };

    use super::*;
    use crate::{
        Command,
        command::Access,
        testing::{Fixture, name},
    };

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

    #[test]
    fn below_the_level_of_roles_tokens_are_stored_as_level_1_reads_them() {
        let mut fixture = Fixture::of_hosts(1);
        let (id, secret) = (TokenId([1; 5]), SecretHash([1; 32]));
        fixture.done(Command::PutApiToken { id, name: name("ci"), access: Access::Viewer, secret });
        let mut state = fixture.cluster.clone();
        for level in [1, level::ROLES] {
            state.basics.level = level;
            let bytes = codec::encode(&state).expect("it is written");
            assert_eq!(codec::decode::<State>(&bytes).expect("it is read").access, state.access, "level {level}");
        }
        state.basics.level = 1;
        let bytes = codec::encode(&(1_u16, ACCESS_1, Version1::try_from(&state.access).expect("it fits")));
        let read: State = codec::decode(&bytes.expect("it is written")).expect("it is read");
        assert_eq!(read.access, state.access);
        fixture = Fixture::of_hosts(1);
        let operator = Grant::of_cluster(Role::Operator);
        fixture.done(Command::PutToken { id, name: name("ci"), grant: operator, secret });
        fixture.cluster.basics.level = 1;
        let why = codec::encode(&fixture.cluster).expect_err("level 1 has no operator").to_string();
        assert!(why.contains("level 1 has no operator"), "{why}");
    }

    #[test]
    fn the_hash_is_that_of_what_decides() {
        let mut fixture = Fixture::of_hosts(3);
        let (first, before) = (fixture.cluster.clone(), fixture.cluster.hash().expect("it is hashed"));
        assert_eq!(first.hash().expect("it is hashed"), before);
        let mut reworded = first.clone();
        reworded.record("cluster", "reason", "one wording");
        let mut other = first.clone();
        other.record("cluster", "reason", "another wording");
        assert_eq!(reworded.hash().expect("it is hashed"), other.hash().expect("it is hashed"));
        assert_ne!(reworded.hash().expect("it is hashed"), before, "a change more");
        fixture.done(Command::PutEnvironment(name("staging")));
        assert_ne!(fixture.cluster.hash().expect("it is hashed"), before);
    }
}
