//! The change of the cluster's root: first all hosts come to trust both roots, then each gets a certificate of the new
//! one, and then the old one goes.

use std::sync::Arc;

use common::{
    host::Liveness,
    id::HostId,
    secret::Secret,
    wire::{RootId, RootsHeld, TrustedRoots},
};
use imbl::OrdSet;
use serde::{Deserialize, Serialize};

use super::{hash_of, refuse};
use crate::{
    command::{Authority, NewRoot},
    sealed,
    state::{Applied, ClusterIdentity, Host, State},
};

/// How far the change of the root is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootChange {
    /// What hosts have to do now.
    pub phase: RootPhase,
    /// The hosts that have done it.
    pub done: OrdSet<HostId>,
}

/// What hosts have to do while the root is changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RootPhase {
    /// To trust the new root beside the old one, which still issues certificates.
    Announce {
        /// The new root (DER).
        certificate: Vec<u8>,
        /// Its key, sealed.
        key: Secret<Vec<u8>>,
    },
    /// To get a certificate of the new root.
    Renew {
        /// The old root (DER), which is still trusted.
        old: Vec<u8>,
    },
}

impl State {
    /// The change of the root, while there is one.
    pub fn root_change(&self) -> Option<&RootChange> {
        self.trust.root_change.as_ref()
    }

    /// The roots that every host trusts now; absent while a level is in force that does not know of several.
    pub fn trusted_roots(&self) -> Option<TrustedRoots> {
        let identity = self.basics.identity.as_ref().filter(|_| self.trust.sealing.is_some())?;
        let other = self.trust.root_change.as_ref().map(|change| match &change.phase {
            RootPhase::Announce { certificate, .. } => certificate.clone(),
            RootPhase::Renew { old } => old.clone(),
        });
        Some(TrustedRoots {
            issuer: identity.authority.certificate.clone(),
            others: other.into_iter().collect(),
            cross: self.trust.cross.clone(),
        })
    }

    /// The hosts that have not done yet what the change of the root asks of them.
    pub fn awaited_by_root(&self) -> impl Iterator<Item = (HostId, &Host)> {
        let done = self.trust.root_change.as_ref().map(|change| &change.done);
        let awaited = self.hosts().iter().filter(move |(id, _)| done.is_some_and(|done| !done.contains(*id)));
        awaited.map(|(id, host)| (*id, host))
    }

    /// Why the change of the root cannot go on, if it cannot; `without` leaves out hosts that are away.
    pub fn holds_root_up(&self, without: bool) -> Option<String> {
        let change = self.trust.root_change.as_ref()?;
        // Hosts that are away can be told later of a root that is still there, but not of one that is gone.
        let spares_away = without || matches!(change.phase, RootPhase::Announce { .. });
        let missing = self.awaited_by_root().find(|(_, host)| !(spares_away && is_away(host)));
        missing.map(|(_, host)| format!("host {} has not done its part yet", host.name))
    }

    /// The key of the root that is to come, sealed.
    pub(super) fn next_root_key(&self) -> Option<&Secret<Vec<u8>>> {
        match &self.trust.root_change.as_ref()?.phase {
            RootPhase::Announce { key, .. } => Some(key),
            RootPhase::Renew { .. } => None,
        }
    }

    pub(super) fn replace_next_root_key(&mut self, before: [u8; 32], text: &[u8]) {
        if let Some(RootChange { phase: RootPhase::Announce { key, .. }, .. }) = &mut self.trust.root_change
            && hash_of(key.expose()) == before
        {
            *key = Secret::new(text.to_vec());
        }
    }

    pub(in crate::state) fn rotate_root(&mut self, new: &NewRoot) -> Applied {
        if self.trust.root_change.is_some() {
            return refuse("the last change of the root is not complete: wharf rotate status");
        }
        if sealed::key_of(new.key.expose()).is_none() || !self.is_of_a_known_key(new.key.expose()) {
            return refuse("the new root's key is not sealed with the present sealing key: try again");
        }
        let phase = RootPhase::Announce { certificate: new.certificate.clone(), key: new.key.clone() };
        self.trust.root_change = Some(RootChange { phase, done: OrdSet::new() });
        self.trust.cross = Some(new.cross.clone());
        self.record("cluster", "root-made", "hosts are to trust the new root beside the old one");
        self.done()
    }

    pub(in crate::state) fn host_trusts(&mut self, host: HostId, held: &RootsHeld) -> Applied {
        let present = self.basics.identity.as_ref().map(|identity| RootId::of(&identity.authority.certificate));
        let is_known = self.hosts().contains_key(&host);
        if let Some(change) = self.trust.root_change.as_mut().filter(|_| is_known) {
            let has_done = match &change.phase {
                RootPhase::Announce { certificate, .. } => held.roots.contains(&RootId::of(certificate)),
                RootPhase::Renew { .. } => Some(held.issuer) == present,
            };
            if has_done {
                change.done.insert(host);
            }
        }
        self.done()
    }

    pub(in crate::state) fn move_root(&mut self, without: bool) -> Applied {
        let (Some(change), Some(identity)) = (self.trust.root_change.clone(), self.basics.identity.clone()) else {
            return refuse("the root is not being changed");
        };
        if let Some(why) = self.holds_root_up(without) {
            return refuse(why);
        }
        match change.phase {
            RootPhase::Announce { certificate, key } => {
                let old = identity.authority.certificate.clone();
                let authority = Authority { certificate, key, ..identity.authority.clone() };
                self.basics.identity = Some(Arc::new(ClusterIdentity { id: identity.id, authority }));
                self.trust.root_change = Some(RootChange { phase: RootPhase::Renew { old }, done: OrdSet::new() });
                self.record("cluster", "root-used", "the new root issues certificates; hosts are to renew theirs");
            }
            RootPhase::Renew { .. } => {
                self.trust.root_change = None;
                self.record("cluster", "root-removed", "certificates of the old root are refused");
            }
        }
        self.done()
    }
}

/// Whether a host cannot be expected to do anything now.
fn is_away(host: &Host) -> bool {
    matches!(host.liveness, Liveness::Down { .. } | Liveness::Joining)
}

#[cfg(test)]
mod tests {
    use common::time::Timestamp;

    use super::*;
    use crate::{
        Command,
        sealed::WITH_KEY,
        testing::{Fixture, host},
        trust::{Step, next_step},
    };

    fn key() -> Secret<Vec<u8>> {
        Secret::new([&[WITH_KEY][..], &[1; 8], b"key"].concat())
    }

    fn new_root() -> Command {
        Command::RotateRoot(Box::new(NewRoot { certificate: vec![2], key: key(), cross: vec![12] }))
    }

    fn has(fixture: &mut Fixture, number: u8, roots: &[&[u8]], issuer: &[u8]) {
        let roots = roots.iter().map(|root| RootId::of(root)).collect();
        let held = RootsHeld { roots, issuer: RootId::of(issuer) };
        fixture.done(Command::HostTrusts { host: host(number), held });
    }

    fn liveness(fixture: &mut Fixture, number: u8, liveness: Liveness) {
        fixture.done(Command::HostLiveness { host: host(number), liveness });
    }

    #[test]
    fn the_old_root_goes_when_all_hosts_have_a_certificate_of_the_new_one() {
        let mut fixture = Fixture::of_hosts(3);
        let early = fixture.refused(new_root());
        assert!(early.contains("not sealed with the present sealing key"), "{early}");
        fixture.done(Command::SealAuthority { key: key(), join_key: key() });
        fixture.done(new_root());
        let again = fixture.refused(new_root());
        assert!(again.contains("not complete"), "{again}");
        let old: &[u8] = &[];
        has(&mut fixture, 1, &[old, &[2]], old);
        has(&mut fixture, 2, &[old], old);
        assert_eq!(next_step(&fixture.cluster), None);
        let missing = fixture.refused(Command::MoveRoot { without: false });
        assert!(missing.contains("host h2 has not done its part"), "{missing}");
        has(&mut fixture, 2, &[old, &[2]], old);
        // One that is away hears of it when it is back.
        liveness(&mut fixture, 3, Liveness::Down { since: Timestamp(1) });
        assert_eq!(next_step(&fixture.cluster), Some(Step::MoveRoot));
        fixture.done(Command::MoveRoot { without: false });
        let roots = fixture.cluster.trusted_roots().expect("there are some");
        assert_eq!((roots.issuer, roots.others, roots.cross), (vec![2], vec![old.to_vec()], Some(vec![12])));

        has(&mut fixture, 1, &[&[2], old], &[2]);
        has(&mut fixture, 2, &[&[2], old], old);
        assert_eq!(fixture.cluster.awaited_by_root().count(), 2, "one has renewed its certificate");
        let present = fixture.refused(Command::MoveRoot { without: true });
        assert!(present.contains("host h2"), "{present}");
        has(&mut fixture, 2, &[&[2], old], &[2]);
        assert_eq!(next_step(&fixture.cluster), None, "one that is away has not");
        let mut forced = Fixture { cluster: fixture.cluster.clone(), now: fixture.now };
        forced.done(Command::MoveRoot { without: true });
        assert!(forced.cluster.root_change().is_none());
        liveness(&mut fixture, 3, Liveness::Ready);
        has(&mut fixture, 3, &[&[2], old], &[2]);
        assert_eq!(next_step(&fixture.cluster), Some(Step::MoveRoot));
        fixture.done(Command::MoveRoot { without: false });
        let roots = fixture.cluster.trusted_roots().expect("there are some");
        assert_eq!((roots.issuer, roots.others.len()), (vec![2], 0));
        let bytes = common::codec::encode(&fixture.cluster).expect("it is written");
        assert_eq!(common::codec::decode::<State>(&bytes).expect("it is read"), fixture.cluster);
    }
}
