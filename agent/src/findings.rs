//! The present problems of this host, gathered from the tasks that notice them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::finding::Finding;
use tokio::sync::watch;

/// The task that notices a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The network's keeper.
    Network,
    /// The server of names.
    Names,
    /// The probes between hosts.
    Probes,
    /// The questions to other hosts' instances, and to services.
    Instances,
    /// The look at disks and tables that are nearly full.
    Limits,
    /// The look at the host's certificate.
    Certificate,
    /// The session: it learns the leader's time.
    Clock,
}

/// All findings; clones share them.
#[derive(Clone, Default)]
pub struct Findings(Arc<watch::Sender<BTreeMap<Source, BTreeSet<Finding>>>>);

impl Findings {
    /// Replaces the findings of one source, which are none if all is well; returns whether they differ.
    pub fn put(&self, source: Source, found: impl IntoIterator<Item = Finding>) -> bool {
        let found: BTreeSet<Finding> = found.into_iter().collect();
        self.0.send_if_modified(|all| {
            let differs = all.get(&source).map_or(!found.is_empty(), |before| *before != found);
            all.insert(source, found);
            differs
        })
    }

    /// A receiver that notices their changes.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<Source, BTreeSet<Finding>>> {
        self.0.subscribe()
    }

    /// All of them now.
    pub fn all(&self) -> Vec<Finding> {
        self.0.borrow().values().flatten().cloned().collect()
    }
}
