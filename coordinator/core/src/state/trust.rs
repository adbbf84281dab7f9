//! The keys that the cluster itself depends on: which one seals, and how one is put in the place of another.
//!
//! A change goes through phases, each of which is in the state: whoever leads goes on where the one before it ended.

mod root;

use std::{borrow::Cow, fmt, sync::Arc};

use common::{
    assignment::RegistryCredentials,
    codec,
    error::{Code, Problem},
    id::MemberId,
    secret::Secret,
};
use imbl::OrdSet;
use serde::{Deserialize, Serialize};

use super::{Applied, ClusterIdentity, MemberState, State};
use crate::{
    command::{Authority, Resealed, SealedPlace},
    sealed::{self, KeyId},
};

pub use root::{RootChange, RootPhase};

/// How many keys that were removed are remembered: a coordinator that was away for that many changes still removes them.
const MOST_RETIRED: usize = 16;

/// The section of trust.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Trust {
    /// The key that seals; absent until the keys of the certificate authority are sealed.
    sealing: Option<KeyId>,
    change: Option<SealingChange>,
    /// Keys that coordinators remove, the newest last.
    retired: Vec<KeyId>,
    root_change: Option<RootChange>,
    /// The newest root as the one before it has signed it (DER).
    cross: Option<Vec<u8>>,
}

/// How far the change of the sealing key is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SealingChange {
    /// All members are to store the new key.
    Share {
        /// The new key.
        next: KeyId,
        /// The members that have stored it.
        holders: OrdSet<MemberId>,
    },
    /// The new key seals, and what the old one has sealed is sealed again.
    Reseal {
        /// The old key.
        old: KeyId,
    },
}

/// The hash by which a text is compared with what it was.
pub(super) fn hash_of(text: &[u8]) -> [u8; 32] {
    codec::hash(&text).unwrap_or_default()
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::new(Code::Conflict, "The keys were not changed").why(why))
}

impl State {
    /// The key that seals, if texts say which one they need.
    pub fn sealing_key(&self) -> Option<KeyId> {
        self.trust.sealing
    }

    /// The change of the sealing key, while there is one.
    pub fn sealing_change(&self) -> Option<&SealingChange> {
        self.trust.change.as_ref()
    }

    /// Keys that no coordinator may keep.
    pub fn retired_keys(&self) -> &[KeyId] {
        &self.trust.retired
    }

    /// The keys that each coordinator needs now.
    pub fn needed_keys(&self) -> impl Iterator<Item = KeyId> {
        let other = self.trust.change.as_ref().map(|change| match change {
            SealingChange::Share { next, .. } => *next,
            SealingChange::Reseal { old } => *old,
        });
        self.trust.sealing.into_iter().chain(other)
    }

    /// The members that have not stored the new sealing key.
    pub fn without_new_key(&self) -> Vec<MemberId> {
        let Some(SealingChange::Share { holders, .. }) = &self.trust.change else { return Vec::new() };
        let present = self.members().iter().filter(|(_, member)| member.state == MemberState::Present);
        present.map(|(id, _)| *id).filter(|id| !holders.contains(id)).collect()
    }

    /// All sealed texts that need another key than the one that seals.
    pub fn old_texts(&self) -> impl Iterator<Item = (SealedPlace, Cow<'_, [u8]>)> {
        let secrets =
            self.sealed_files().map(|(id, version, text)| (SealedPlace::Secret { id: id.clone(), version }, text));
        let authority = self.basics.identity.iter().flat_map(|identity| {
            let authority = &identity.authority;
            [(SealedPlace::RootKey, &authority.key), (SealedPlace::JoinKey, &authority.join_key)]
        });
        let own = authority.map(|(place, key)| (place, key.expose().as_slice()));
        let present = self.trust.sealing;
        let next = self.next_root_key().map(|key| (SealedPlace::NextRootKey, key.expose().as_slice()));
        let borrowed = secrets.chain(own).chain(next).map(|(place, text)| (place, Cow::Borrowed(text)));
        let passwords = self.registries().values().filter_map(|credentials| {
            let place = SealedPlace::Password { registry: credentials.registry.clone() };
            Some((place, Cow::Owned(sealed::of_password(&credentials.password)?)))
        });
        borrowed.chain(passwords).filter(move |(_, text)| present.is_some() && is_old(text, present))
    }

    /// The credentials whose password lies open although there is a key that seals.
    pub fn open_passwords(&self) -> impl Iterator<Item = &RegistryCredentials> {
        let seals = self.trust.sealing.is_some();
        self.registries().values().filter(move |one| seals && sealed::of_password(&one.password).is_none())
    }

    /// Takes the key that seals from the authority's own keys.
    pub(super) fn note_sealing_key(&mut self) {
        let key = self.basics.identity.as_ref().and_then(|identity| sealed::key_of(identity.authority.key.expose()));
        self.trust.sealing = key;
    }

    /// Refuses a text of a key that is not in use: its author was behind.
    pub(super) fn check_sealed(&self, what: impl fmt::Display, text: &[u8]) -> Result<(), Problem> {
        if self.trust.sealing.is_none() || self.is_of_a_known_key(text) {
            return Ok(());
        }
        Err(Problem::new(Code::Conflict, format!("{what} was not set"))
            .why("the sealing key was changed meanwhile")
            .fix("Set it again"))
    }

    fn is_of_a_known_key(&self, text: &[u8]) -> bool {
        match sealed::key_of(text) {
            Some(key) => {
                Some(key) == self.trust.sealing || self.trust.change == Some(SealingChange::Reseal { old: key })
            }
            // The form of the first key.
            None => self.trust.retired.is_empty() && !sealed::is_lost(text),
        }
    }

    pub(super) fn rotate_join_key(&mut self, certificate: &[u8], key: &Secret<Vec<u8>>) -> Applied {
        let Some(identity) = self.basics.identity.clone() else { return refuse("there is no cluster yet") };
        if sealed::key_of(key.expose()).is_none() || !self.is_of_a_known_key(key.expose()) {
            return refuse("the new key is not sealed with the present sealing key: try again");
        }
        let authority =
            Authority { join_certificate: certificate.to_vec(), join_key: key.clone(), ..identity.authority.clone() };
        self.basics.identity = Some(Arc::new(ClusterIdentity { id: identity.id, authority }));
        self.record("cluster", "join-key-changed", "lines that were printed before admit no host any more");
        self.done()
    }

    pub(super) fn seal_authority(&mut self, key: &Secret<Vec<u8>>, join_key: &Secret<Vec<u8>>) -> Applied {
        let Some(identity) = self.basics.identity.clone() else { return refuse("there is no cluster yet") };
        if self.trust.sealing.is_some() {
            return refuse("they are sealed already");
        }
        let of = |text: &Secret<Vec<u8>>| sealed::key_of(text.expose());
        if of(key).is_none() || of(key) != of(join_key) {
            return refuse("both are sealed with one key, which they name");
        }
        let authority = Authority { key: key.clone(), join_key: join_key.clone(), ..identity.authority.clone() };
        self.basics.identity = Some(Arc::new(ClusterIdentity { id: identity.id, authority }));
        self.note_sealing_key();
        self.record("cluster", "authority-sealed", "the keys of the certificate authority are sealed");
        self.done()
    }

    pub(super) fn rotate_sealing_key(&mut self, next: KeyId, member: MemberId) -> Applied {
        let Some(present) = self.trust.sealing else {
            return refuse("the keys of the certificate authority are not sealed yet: try again in a moment");
        };
        // While a new key is only made known, nothing needs it: another one may take its place.
        if matches!(self.trust.change, Some(SealingChange::Reseal { .. })) {
            return refuse("the last change of the sealing key is not complete: wharf rotate status");
        }
        if next == present || self.trust.retired.contains(&next) {
            return refuse("the key is not new");
        }
        self.trust.change = Some(SealingChange::Share { next, holders: OrdSet::unit(member) });
        self.record("cluster", "sealing-key-made", format!("{next}: all coordinators are to store it"));
        self.done()
    }

    pub(super) fn holds_sealing_key(&mut self, member: MemberId, key: KeyId) -> Applied {
        match &mut self.trust.change {
            Some(SealingChange::Share { next, holders }) if *next == key => {
                holders.insert(member);
                self.done()
            }
            _ => refuse("no such key is shared"),
        }
    }

    pub(super) fn use_sealing_key(&mut self, key: KeyId) -> Applied {
        let (Some(SealingChange::Share { next, .. }), Some(old)) = (&self.trust.change, self.trust.sealing) else {
            return refuse("no key is shared");
        };
        if *next != key {
            return refuse("another key is shared");
        }
        if let Some(member) = self.without_new_key().first() {
            return refuse(format!("member {member} has not stored the new key"));
        }
        self.trust.sealing = Some(key);
        self.trust.change = Some(SealingChange::Reseal { old });
        self.record("cluster", "sealing-key-used", format!("{key} seals; what {old} has sealed is sealed again"));
        self.done()
    }

    pub(super) fn reseal(&mut self, texts: &[Resealed]) -> Applied {
        let Some(present) = self.trust.sealing else { return refuse("no key seals") };
        for Resealed { place, before, text } in texts {
            if is_old(text, Some(present)) {
                return refuse("a text is not sealed with the present key");
            }
            match place {
                SealedPlace::Secret { id, version } => self.replace_sealed((id, *version), *before, text),
                SealedPlace::NextRootKey => self.replace_next_root_key(*before, text),
                SealedPlace::RootKey | SealedPlace::JoinKey => self.replace_key(place, *before, text),
                SealedPlace::Password { registry } => self.replace_password(registry, *before, text),
            }
        }
        self.done()
    }

    fn replace_key(&mut self, place: &SealedPlace, before: [u8; 32], text: &[u8]) {
        let Some(identity) = &self.basics.identity else { return };
        let mut authority = identity.authority.clone();
        let key = if *place == SealedPlace::RootKey { &mut authority.key } else { &mut authority.join_key };
        if hash_of(key.expose()) == before {
            *key = Secret::new(text.to_vec());
            self.basics.identity = Some(Arc::new(ClusterIdentity { id: identity.id, authority }));
        }
    }

    pub(super) fn end_sealing_key(&mut self, old: KeyId) -> Applied {
        if self.trust.change != Some(SealingChange::Reseal { old }) {
            return refuse("the key is not being replaced");
        }
        let left = self.old_texts().count();
        if left > 0 {
            return refuse(format!("{left} texts are not sealed with the new key yet"));
        }
        self.trust.change = None;
        self.trust.retired.push(old);
        let surplus = self.trust.retired.len().saturating_sub(MOST_RETIRED);
        self.trust.retired.drain(..surplus);
        self.record("cluster", "sealing-key-removed", format!("nothing needs {old} any more"));
        self.done()
    }
}

/// Whether a text has to be sealed again.
fn is_old(text: &[u8], present: Option<KeyId>) -> bool {
    sealed::key_of(text) != present && !sealed::is_lost(text)
}
