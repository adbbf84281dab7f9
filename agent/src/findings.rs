//! What is wrong with this host now, gathered from those that notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::finding::Finding;
use tokio::sync::watch;

/// Who notices.
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
    /// The look at what is nearly full.
    Limits,
    /// The look at the host's certificate.
    Certificate,
    /// The session: it hears what time it is elsewhere.
    Clock,
}

/// All findings; clones share them.
#[derive(Clone, Default)]
pub struct Findings(Arc<watch::Sender<BTreeMap<Source, BTreeSet<Finding>>>>);

impl Findings {
    /// Replaces what one source has found; nothing, if all is well. Whether that is news.
    pub fn put(&self, source: Source, found: impl IntoIterator<Item = Finding>) -> bool {
        let found: BTreeSet<Finding> = found.into_iter().collect();
        self.0.send_if_modified(|all| {
            let differs = all.get(&source).map_or(!found.is_empty(), |before| *before != found);
            all.insert(source, found);
            differs
        })
    }

    /// Tells when they change.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<Source, BTreeSet<Finding>>> {
        self.0.subscribe()
    }

    /// All of them now.
    pub fn all(&self) -> Vec<Finding> {
        self.0.borrow().values().flatten().cloned().collect()
    }
}
