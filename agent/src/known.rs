//! What names, addresses and rules of a host follow from.

use agent_core::network::{Live, Residents};
use common::{assignment::Assignment, directory::Directory, network::Overlay};
use tokio::sync::watch;

/// What an agent knows of the cluster and of its own host; each changes by itself.
#[derive(Clone)]
pub struct Known {
    /// What the cluster says of this host, and where the others are.
    pub assignment: watch::Receiver<Assignment>,
    /// What the cluster says of all services and instances.
    pub directory: watch::Receiver<Directory>,
    /// The host's own instances, which it knows first; none until it has looked.
    pub residents: watch::Receiver<Option<Residents>>,
}

impl Known {
    /// How containers of this host reach those of others, if there is an overlay.
    pub fn overlay(&self) -> Option<Overlay> {
        self.assignment.borrow().overlay().cloned()
    }

    /// What of the rules changes as instances come and go.
    pub fn live(&mut self) -> Live {
        let residents = self.residents.borrow_and_update();
        Live::of(&self.directory.borrow_and_update(), residents.as_ref().unwrap_or(&Residents::new()))
    }
}
