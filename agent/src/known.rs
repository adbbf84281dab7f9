//! The inputs from which names, addresses and rules of a host follow.

use agent_core::network::{Live, Residents};
use common::{
    assignment::Assignment,
    directory::Directory,
    network::{NetworkPlan, Peers, Subnet},
};
use tokio::sync::watch;

/// An agent's knowledge of the cluster and of its own host; each part changes by itself.
#[derive(Clone)]
pub struct Known {
    /// The assignment of this host.
    pub assignment: watch::Receiver<Assignment>,
    /// The directory of all services, instances and hosts.
    pub directory: watch::Receiver<Directory>,
    /// The host's own instances, which it knows first; none until it has looked.
    pub residents: watch::Receiver<Option<Residents>>,
}

impl Known {
    /// How the cluster's containers are addressed, if there is an overlay.
    pub fn plan(&self) -> Option<NetworkPlan> {
        self.assignment.borrow().overlay().map(|overlay| overlay.plan)
    }

    /// The other hosts of the overlay; none until the directory names them.
    pub fn peers(&self) -> Option<Peers> {
        let own = self.assignment.borrow().overlay()?.own;
        self.directory.borrow().peers(own)
    }

    /// The part of the rules that changes as instances come and go, and the residents that it was rendered from.
    pub fn live(&mut self) -> (Live, Residents) {
        let residents = self.residents.borrow_and_update().clone();
        (Live::of(&self.directory.borrow_and_update(), residents.as_ref()), residents.unwrap_or_default())
    }
}

/// Works for the subnet of this host, and begins again when the host gets another one or the work has ended.
pub(crate) async fn for_own_subnet<F: Future<Output = ()>>(
    mut assignment: watch::Receiver<Assignment>,
    work: impl Fn(Subnet) -> F,
) {
    loop {
        let own = assignment.borrow_and_update().overlay().map(|overlay| overlay.own);
        let moved = assignment.wait_for(|next| next.overlay().map(|overlay| overlay.own) != own);
        let working = async {
            match own {
                Some(own) => work(own).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            moved = moved => if moved.is_err() { return },
            () = working => {}
        }
    }
}
