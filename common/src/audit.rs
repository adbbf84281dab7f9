//! The audit: who changed what, each entry bound to all before it by their hashes.
//!
//! An entry that is changed, left out or put in breaks the chain there. Who keeps a hash outside of the cluster can show
//! later that nothing up to it was rewritten.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    codec::{self, CodecError},
    hex,
    name::Name,
    time::Timestamp,
    token::TokenId,
};

/// The SHA-256 of an entry, and so of all before it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditHash(pub [u8; 32]);

/// The text is not the hash of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the hash of an audit entry has 64 hexadecimal digits")]
pub struct InvalidAuditHash;

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AuditHash {
    type Err = InvalidAuditHash;
    fn from_str(text: &str) -> Result<AuditHash, InvalidAuditHash> {
        hex::decode(text).and_then(|bytes| bytes.try_into().ok()).map(AuditHash).ok_or(InvalidAuditHash)
    }
}

impl Serialize for AuditHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for AuditHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AuditHash, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(AuditHash)
        }
    }
}

impl utoipa::PartialSchema for AuditHash {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        <String as utoipa::PartialSchema>::schema()
    }
}

impl ToSchema for AuditHash {}

/// A change of the cluster. It holds no secret and no wording: of its bytes the hash is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// One more than that of the entry before.
    pub number: u64,
    /// When it was applied, by the cluster's time.
    pub at: Timestamp,
    /// The API token that asked for it, or the join token of a host; none if the cluster acted by itself.
    pub token: Option<TokenId>,
    /// What the API token was called.
    pub name: Option<Name>,
    /// The address from which it was asked for.
    /// The address from which it was asked for.
    #[schema(value_type = Option<String>)]
    pub from: Option<IpAddr>,
    /// The tag of the command; 0 if the cluster began again from a backup, or from one coordinator.
    pub command: u16,
    /// What the command was about.
    pub subject: String,
    /// The index of the state after it.
    pub index: u64,
    /// The hash of the entry before; zeros before the first one.
    pub previous: AuditHash,
}

impl AuditEntry {
    /// The hash of this entry.
    pub fn hash(&self) -> Result<AuditHash, CodecError> {
        codec::hash(self).map(AuditHash)
    }
}

/// An entry as the API and the files of the audit show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditLine {
    /// The entry.
    #[serde(flatten)]
    pub entry: AuditEntry,
    /// The command in words; not part of what is hashed.
    pub what: String,
    /// The entry's hash.
    pub hash: AuditHash,
}

/// A part of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The entries, the oldest first.
    pub entries: Vec<AuditLine>,
    /// The number of the oldest entry that the state still holds; 0 if there is none.
    pub oldest: u64,
    /// The number of the newest one; 0 if there is none.
    pub newest: u64,
    /// The hash of the newest one.
    pub hash: AuditHash,
}

/// Where a chain is broken, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An entry does not have the hash that it says it has.
    #[error("entry {0} was changed: it does not have its hash")]
    Changed(u64),
    /// Entries are missing between two that follow each other.
    #[error("the entries after {after} and before {before} are missing")]
    Missing {
        /// The last one before the gap.
        after: u64,
        /// The first one after it.
        before: u64,
    },
    /// An entry does not name the hash of the one before.
    #[error("entry {0} does not follow the entry before it: one of the two was replaced")]
    Replaced(u64),
    /// An entry of the same number is another one elsewhere.
    #[error("entry {0} is not the one that the cluster has")]
    Other(u64),
    /// There is an entry that the cluster does not have.
    #[error("the cluster has no entry {0}: it was restored from an earlier state, or its audit was cut")]
    Unknown(u64),
}

/// Checks that entries have their hashes and follow each other without a gap.
pub fn check(lines: &[AuditLine]) -> Result<(), Broken> {
    for line in lines {
        if line.entry.hash().ok() != Some(line.hash) {
            return Err(Broken::Changed(line.entry.number));
        }
    }
    for (before, next) in lines.iter().zip(lines.iter().skip(1)) {
        let (after, number) = (before.entry.number, next.entry.number);
        if number > after + 1 {
            return Err(Broken::Missing { after, before: number });
        }
        if number != after + 1 || next.entry.previous != before.hash {
            return Err(Broken::Replaced(number));
        }
    }
    Ok(())
}

/// Checks that a copy of entries, itself [checked](check), belongs to the chain that the cluster has.
pub fn check_copy(copy: &[AuditLine], cluster: &[AuditLine]) -> Result<(), Broken> {
    let Some((newest, oldest)) = copy.last().zip(cluster.first()) else { return Ok(()) };
    if newest.entry.number < oldest.entry.number {
        // The cluster no longer holds these entries, but its oldest one may still name the copy's newest.
        let meets = newest.entry.number + 1 == oldest.entry.number;
        return if meets && oldest.entry.previous != newest.hash {
            Err(Broken::Other(newest.entry.number))
        } else {
            Ok(())
        };
    }
    // The hash of an entry stands for all before it: the newest that both have decides, and names the first that differs.
    let of_cluster = |number: u64| cluster.iter().find(|line| line.entry.number == number);
    let differs = copy.iter().find(|line| of_cluster(line.entry.number).is_some_and(|other| other.hash != line.hash));
    match (differs, of_cluster(newest.entry.number)) {
        (Some(line), _) => Err(Broken::Other(line.entry.number)),
        (None, None) => Err(Broken::Unknown(newest.entry.number)),
        (None, Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(numbers: std::ops::RangeInclusive<u64>) -> Vec<AuditLine> {
        let mut previous = AuditHash::default();
        let line = |number: u64| {
            let entry = AuditEntry {
                number,
                at: Timestamp(1_000 + number),
                token: Some(TokenId([1; 5])),
                name: Name::parse("ann").ok(),
                from: Some([10, 0, 0, 9].into()),
                command: 3,
                subject: "default/shop".into(),
                index: number * 2,
                previous,
            };
            previous = entry.hash().expect("it is encoded");
            AuditLine { entry, what: "put stack".into(), hash: previous }
        };
        numbers.map(line).collect()
    }

    #[test]
    fn a_changed_missing_or_added_entry_breaks_the_chain_there() {
        let whole = chain(1..=9);
        assert_eq!(check(&whole), Ok(()));
        assert_eq!(check(&whole[4..]), Ok(()), "older ones may be gone");
        let changes: [fn(&mut AuditEntry); 8] = [
            |entry| entry.at.0 += 1,
            |entry| entry.token = None,
            |entry| entry.name = None,
            |entry| entry.from = None,
            |entry| entry.command += 1,
            |entry| entry.subject.push('s'),
            |entry| entry.index += 1,
            |entry| entry.previous.0[0] ^= 1,
        ];
        for change in changes {
            let mut changed = whole.clone();
            change(&mut changed[4].entry);
            assert_eq!(check(&changed), Err(Broken::Changed(5)));
            changed[4].hash = changed[4].entry.hash().expect("it is encoded");
            let found = check(&changed).expect_err("its hash was made to fit");
            assert!(matches!(found, Broken::Replaced(5 | 6)), "{found}");
        }
        let mut missing = whole.clone();
        missing.remove(4);
        assert_eq!(check(&missing), Err(Broken::Missing { after: 4, before: 6 }));
        let mut twice = whole.clone();
        twice.insert(4, whole[3].clone());
        assert_eq!(check(&twice), Err(Broken::Replaced(4)));
    }

    #[test]
    fn a_copy_shows_what_the_cluster_rewrote() {
        let cluster = chain(1..=9);
        assert_eq!(check_copy(&cluster[2..7], &cluster), Ok(()));
        assert_eq!(check_copy(&cluster[..4], &cluster[4..]), Ok(()), "it is met by the oldest that is left");
        assert_eq!(check_copy(&cluster[..2], &cluster[4..]), Ok(()), "nothing is known of it");
        assert_eq!(check_copy(&cluster, &cluster[..7]), Err(Broken::Unknown(9)));
        let mut rewritten = chain(1..=5);
        rewritten[4].entry.subject = "default/other".into();
        rewritten[4].hash = rewritten[4].entry.hash().expect("it is encoded");
        assert_eq!(check_copy(&rewritten, &cluster), Err(Broken::Other(5)));
        assert_eq!(check_copy(&rewritten, &cluster[5..]), Err(Broken::Other(5)));
    }

    #[test]
    fn json_and_stored_form_have_one_hash() {
        let line = chain(1..=3).pop().expect("there are three");
        let json = serde_json::to_string(&line).expect("it is json");
        let read: AuditLine = serde_json::from_str(&json).expect("it is read");
        assert_eq!(read, line);
        assert_eq!(read.entry.hash().expect("it is encoded"), line.hash, "{json}");
        let stored = codec::encode(&line.entry).expect("it is encoded");
        assert_eq!(codec::decode::<AuditEntry>(&stored).expect("it is whole"), line.entry);
    }
}
