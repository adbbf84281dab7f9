//! The host's network: brings the kernel and Docker to what the overlay needs, and looks every other second
//! whether they still are. Nothing is taken down when the agent ends: packets go on without it.

mod netlink;
mod nft;

use std::{fs, io::ErrorKind, net::IpAddr, sync::Arc, time::Duration};

use agent_core::network::{BRIDGE, Change, HostNetwork, TUNNEL, changes, render};
use common::{
    assignment::Assignment,
    network::{Network, Overlay},
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::runtime::{ContainerRuntime, HostBridge};
use netlink::Netlink;
pub use nft::missing_programs;

/// How often is looked whether all is as it should be.
const LOOK: Duration = Duration::from_secs(2);
/// How long one look, with all that it finds to do, may take.
const LONGEST: Duration = Duration::from_secs(60);

/// Keeps a host's network as it should be.
pub struct NetworkKeeper<R> {
    runtime: Arc<R>,
    assignment: watch::Receiver<Assignment>,
    /// The address under which other hosts reach this one.
    address: watch::Receiver<Option<IpAddr>>,
    /// The rules that were loaded last, and how the kernel showed them then.
    loaded: Option<(String, String)>,
    /// What the runtime was told of the bridge.
    told: Option<HostBridge>,
}

impl<R: ContainerRuntime> NetworkKeeper<R> {
    /// For a host.
    pub fn new(
        runtime: Arc<R>,
        assignment: watch::Receiver<Assignment>,
        address: watch::Receiver<Option<IpAddr>>,
    ) -> NetworkKeeper<R> {
        NetworkKeeper { runtime, assignment, address, loaded: None, told: None }
    }

    /// Keeps it for as long as it is awaited.
    pub async fn run(mut self) {
        let mut problem: Option<String> = None;
        loop {
            let network = known_network(&self.assignment.borrow_and_update()).cloned();
            let address = *self.address.borrow_and_update();
            let done = match (&network, address) {
                (None, _) => Ok(()),
                (Some(Network::Bridge), _) => self.tell(HostBridge::Docker).await,
                // What the kernel holds goes on until it is known where the host is.
                (Some(Network::Overlay(_)), None) => Ok(()),
                (Some(Network::Overlay(overlay)), Some(address)) => {
                    let passed = tokio::time::timeout(LONGEST, self.ensure(overlay, address)).await;
                    passed.unwrap_or_else(|_| Err(format!("it could not be looked after within {LONGEST:?}")))
                }
            };
            if let (Err(why), before) = (&done, &problem)
                && before.as_ref() != Some(why)
            {
                warn!(%why, "this host's network is not as it should be");
            } else if done.is_ok() && problem.is_some() {
                info!("this host's network is as it should be again");
            }
            problem = done.err();
            if let Some(why) = &problem {
                self.runtime.lacks_bridge(why);
            }
            let changed = tokio::select! {
                changed = self.assignment.wait_for(|next| known_network(next) != network.as_ref()) => changed.map(drop),
                changed = self.address.changed() => changed,
                () = tokio::time::sleep(LOOK) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn ensure(&mut self, overlay: &Overlay, address: IpAddr) -> Result<(), String> {
        let IpAddr::V4(address) = address else {
            return Err(format!("others reach this host at {address}, and the overlay needs an IPv4 address"));
        };
        let netlink = Netlink::open().map_err(|error| format!("the kernel's netlink socket: {error}"))?;
        let wanted = render(overlay, netlink.underlay(address).await?);
        let mut observed = netlink.observe().await?;
        observed.has_rules = self.has_rules(&wanted.rules).await;
        let changes = changes(&wanted, &observed);
        for change in &changes {
            info!(?change, "the overlay changes");
            self.apply(&netlink, change, &wanted).await?;
        }
        // From here on containers may start: the rules are there.
        if !netlink.has_bridge().await? {
            self.told = None;
        }
        self.tell(HostBridge::Overlay { subnet: overlay.own, mtu: wanted.tunnel.mtu() }).await?;
        // Containers of this host reach each other by way of its routing.
        switch(&format!("ipv4/conf/{BRIDGE}/proxy_arp_pvlan"), "1")?;
        switch(&format!("ipv4/conf/{BRIDGE}/send_redirects"), "0")?;
        switch("ipv4/ip_forward", "1")?;
        nft::admit_overlay().await
    }

    /// Tells the runtime of the bridge, unless it knows.
    async fn tell(&mut self, bridge: HostBridge) -> Result<(), String> {
        if self.told != Some(bridge) {
            self.runtime.ensure_bridge(bridge).await?;
            self.told = Some(bridge);
        }
        Ok(())
    }

    async fn apply(&mut self, netlink: &Netlink, change: &Change, wanted: &HostNetwork) -> Result<(), String> {
        match change {
            Change::LoadRules => {
                nft::load(&wanted.rules).await?;
                self.loaded = Some((wanted.rules.clone(), nft::list().await?));
                Ok(())
            }
            Change::MakeTunnel => {
                netlink.apply(change, wanted.tunnel).await?;
                // The overlay is IPv4 alone.
                switch(&format!("ipv6/conf/{TUNNEL}/disable_ipv6"), "1")
            }
            _ => netlink.apply(change, wanted.tunnel).await,
        }
    }

    /// Whether the kernel holds the rules as they were loaded. What an earlier process has loaded is loaded
    /// again, which no packet notices.
    async fn has_rules(&self, wanted: &str) -> bool {
        match &self.loaded {
            Some((rules, listed)) if rules == wanted => nft::list().await.as_ref() == Ok(listed),
            _ => false,
        }
    }
}

/// What the cluster has said of the host's network.
fn known_network(assignment: &Assignment) -> Option<&Network> {
    assignment.is_known().then_some(&assignment.network)
}

/// Sets a switch of the kernel's network, below `/proc/sys/net`.
fn switch(name: &str, value: &str) -> Result<(), String> {
    let path = format!("/proc/sys/net/{name}");
    let failed = |error: std::io::Error| format!("{path}: {error}");
    match fs::read_to_string(&path) {
        Ok(now) if now.trim() == value => Ok(()),
        Ok(_) => fs::write(&path, value).map_err(failed),
        // A kernel without IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound && name.starts_with("ipv6/") => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Removes all of it from this host, once no container hangs on it any more: what went wrong.
pub async fn remove() -> Vec<String> {
    let tunnel = match Netlink::open() {
        Ok(netlink) => netlink.remove_tunnel().await,
        Err(error) => Err(format!("the kernel's netlink socket: {error}")),
    };
    [tunnel, nft::remove().await, nft::forget_overlay().await].into_iter().filter_map(Result::err).collect()
}
