//! The host's network: brings the kernel and Docker to what the overlay needs, and looks every other second
//! whether they still are. Nothing is taken down when the agent ends: packets go on without it.

mod conntrack;
mod netlink;
mod nft;
mod program;
mod routes;
mod wireguard;

use std::{
    fs,
    io::{self, ErrorKind},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_core::network::{BRIDGE, Carrier, Change, HostNetwork, Live, Residents, Rules, TUNNEL, changes, render};
use common::{
    assignment::Assignment,
    finding::Finding,
    network::{Backend, Network, Overlay, Peers},
};
use tokio::{sync::watch, task::spawn_blocking};
use tracing::{info, warn};

use crate::{
    findings::{Findings, Source},
    known::Known,
    runtime::{ContainerRuntime, HostBridge},
    tunnel,
};
use netlink::Netlink;
use nft::Listed;
use program::has;
pub use routes::routes;
pub use wireguard::OwnKey;

/// How often is looked whether all is as it should be.
const LOOK: Duration = Duration::from_secs(2);
/// How long one look, with all that it finds to do, may take.
const LONGEST: Duration = Duration::from_secs(60);

/// How often stale connections to published ports are looked for, where datagrams are taken: what Docker does to its own
/// rules is not seen here.
const LOOK_AT_FLOWS: Duration = Duration::from_secs(3);
/// A look at them takes at most one part in so many of the time.
const SHARE_OF_TIME: u32 = 50;

/// How long rules that an earlier process has loaded are left alone while it is not known which instances are here.
const LEFT_ALONE: Duration = Duration::from_secs(5);

/// Keeps a host's network as it should be.
pub struct NetworkKeeper<R: ?Sized> {
    runtime: Arc<R>,
    known: Known,
    /// The host's own key of WireGuard.
    key: OwnKey,
    /// The address under which other hosts reach this one.
    address: watch::Receiver<Option<IpAddr>>,
    /// Where it is told which residents the rules know; none if there are no rules.
    admitted: watch::Sender<Option<Residents>>,
    /// Where it is told what is wrong.
    findings: Findings,
    /// The rules that were loaded last, and how the kernel showed them then.
    loaded: Option<(Rules, Listed)>,
    /// What the runtime was told of the bridge.
    told: Option<HostBridge>,
    /// When all connections were looked through last, and how long that took.
    looked: Option<(Instant, Duration)>,
}

impl<R: ContainerRuntime + ?Sized> NetworkKeeper<R> {
    /// For a host.
    pub fn new(
        runtime: Arc<R>,
        known: Known,
        key: OwnKey,
        address: watch::Receiver<Option<IpAddr>>,
        admitted: watch::Sender<Option<Residents>>,
        findings: Findings,
    ) -> NetworkKeeper<R> {
        // Nobody is let in until there are rules, or none are wanted.
        admitted.send_replace(Some(Residents::new()));
        NetworkKeeper { runtime, known, key, address, admitted, findings, loaded: None, told: None, looked: None }
    }

    /// Keeps it for as long as it is awaited.
    pub async fn run(mut self) {
        let mut problem: Option<String> = None;
        let began = Instant::now();
        loop {
            let network = known_network(&self.known.assignment.borrow_and_update());
            let peers = self.known.peers();
            let address = *self.address.borrow_and_update();
            let knows_residents = self.known.residents.borrow_and_update().is_some();
            let done = match (network, address, &peers) {
                (None, ..) => Ok(()),
                (Some(Network::Bridge), ..) => {
                    self.admitted.send_replace(None);
                    self.tell(HostBridge::Docker).await
                }
                (Some(Network::Overlay(_)), ..) if !knows_residents && began.elapsed() < LEFT_ALONE => Ok(()),
                (Some(Network::Overlay(overlay)), Some(address), Some(peers)) => {
                    let passed = tokio::time::timeout(LONGEST, self.ensure(overlay, peers, address)).await;
                    passed.unwrap_or_else(|_| Err(format!("it could not be looked after within {LONGEST:?}")))
                }
                // What the kernel holds goes on until it is known where the hosts are, and who is here.
                (Some(Network::Overlay(_)), ..) => Ok(()),
            };
            if let (Err(why), before) = (&done, &problem)
                && before.as_ref() != Some(why)
            {
                warn!(%why, "this host's network is not as it should be");
            } else if done.is_ok() && problem.is_some() {
                info!("this host's network is as it should be again");
            }
            problem = done.err();
            self.findings.put(Source::Network, problem.clone().map(|why| Finding::Network { why }));
            if let Some(why) = &problem {
                self.runtime.lacks_bridge(why);
            }
            if self.wait(network, peers).await.is_err() {
                return;
            }
        }
    }

    /// Waits until all has to be looked at, and follows where services lead meanwhile.
    async fn wait(&mut self, network: Option<Network>, peers: Option<Peers>) -> Result<(), watch::error::RecvError> {
        let look = tokio::time::sleep(LOOK);
        tokio::pin!(look);
        while self.known.peers() == peers {
            tokio::select! {
                changed = self.known.assignment.wait_for(|next| known_network(next) != network) => return changed.map(drop),
                changed = self.address.changed() => return changed,
                () = &mut look => return Ok(()),
                changed = self.known.directory.changed() => changed?,
                changed = self.known.residents.changed() => changed?,
            }
            if let Err(why) = self.follow().await {
                info!(why, "what is live is loaded with all the rest");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Brings what is live to what it is now, on top of the rules that were loaded.
    async fn follow(&mut self) -> Result<(), String> {
        let netlink = open()?;
        let (live, residents) = self.live(&netlink).await?;
        let (held, listed) = self.loaded.take().ok_or("no rules are loaded yet")?;
        let wanted = held.living(live);
        let ends = wanted.end_something_of(&held);
        let update = wanted.update_from(&held).filter(|script| !script.is_empty());
        let listed = match update {
            None => listed,
            Some(script) => {
                nft::load(&script).await?;
                let now = nft::list().await?;
                if now.fixed != listed.fixed {
                    return Err("something else has changed them".to_owned());
                }
                now
            }
        };
        self.loaded = Some((wanted, listed));
        self.admit(residents);
        if ends {
            self.forget_stale(&netlink).await;
        }
        Ok(())
    }

    /// Has the kernel forget connections that would not be begun any more. One that cannot keeps them until they end.
    async fn forget_stale(&mut self, netlink: &Netlink) {
        let began = Instant::now();
        match self.try_forget(netlink).await {
            Ok(0) => {}
            Ok(forgotten) => info!(forgotten, "connections that would not be begun any more are forgotten"),
            Err(error) => warn!(error, "the kernel's table of connections cannot be looked through"),
        }
        self.looked = Some((Instant::now(), began.elapsed()));
    }

    async fn try_forget(&self, netlink: &Netlink) -> Result<usize, String> {
        let Some(rules) = self.loaded.as_ref().map(|(rules, _)| rules.clone()) else { return Ok(0) };
        let addresses = netlink.own_addresses().await?;
        let forgetting = spawn_blocking(move || conntrack::forget(|flow| rules.is_stale(flow, &addresses)));
        let forgotten = forgetting.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        forgotten.map_err(|error| error.to_string())
    }

    /// Whether connections to published ports are to be looked at again.
    fn is_to_look_at_flows(&self) -> bool {
        let takes_datagrams = self.loaded.as_ref().is_some_and(|(rules, _)| rules.take_datagrams());
        let pause = |took: Duration| (took * SHARE_OF_TIME).max(LOOK_AT_FLOWS);
        takes_datagrams && self.looked.is_none_or(|(at, took)| at.elapsed() >= pause(took))
    }

    /// What of the rules changes as instances come and go, and the residents by which it is so.
    async fn live(&mut self, netlink: &Netlink) -> Result<(Live, Residents), String> {
        let (live, residents) = self.known.live();
        let bindings = netlink.bindings(&residents).await?;
        Ok((live.bound(bindings), residents))
    }

    /// Tells whom the rules know that are loaded now.
    fn admit(&self, residents: Residents) {
        self.admitted.send_if_modified(|admitted| {
            let differs = admitted.as_ref() != Some(&residents);
            *admitted = Some(residents);
            differs
        });
    }

    async fn ensure(&mut self, overlay: Overlay, peers: &Peers, address: IpAddr) -> Result<(), String> {
        let IpAddr::V4(address) = address else {
            return Err(format!("others reach this host at {address}, and the overlay needs an IPv4 address"));
        };
        let netlink = open()?;
        let (live, residents) = self.live(&netlink).await?;
        let wanted = render(overlay, peers.clone(), live, netlink.underlay(address).await?, self.key.usable())?;
        let mut observed = netlink.observe(wanted.own).await?;
        self.check_rules().await;
        observed.has_rules = self.loaded.as_ref().is_some_and(|(rules, _)| *rules == wanted.rules);
        let changes = changes(&wanted, &observed);
        for change in &changes {
            info!(?change, "the overlay changes");
            self.apply(&netlink, change, &wanted).await?;
        }
        // Once routes lead to them.
        for change in &changes {
            if let Change::Admit(peers) = change {
                wireguard::greet(peers).await?;
            }
        }
        self.admit(residents);
        // From here on containers may start: the rules are there.
        if !netlink.has_bridge().await? {
            self.told = None;
        }
        let (mtu, next) = (wanted.tunnel.mtu, overlay.next(peers));
        self.tell(HostBridge::Overlay { subnet: overlay.own, mtu, next }).await?;
        if self.is_to_look_at_flows() {
            self.forget_stale(&netlink).await;
        }
        // Containers of this host reach each other by way of its routing, which answers for all of them at once.
        switch(&format!("ipv4/conf/{BRIDGE}/proxy_arp_pvlan"), "1")?;
        switch(&format!("ipv4/neigh/{BRIDGE}/proxy_delay"), "0")?;
        switch(&format!("ipv4/conf/{BRIDGE}/send_redirects"), "0")?;
        // What asks for its own service may be led to itself.
        for port in ports(BRIDGE)? {
            write(&port.join("hairpin_mode"), "1")?;
        }
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
                let held = self.loaded.take().map(|(held, _)| held);
                let update = held.as_ref().and_then(|held| wanted.rules.update_from(held));
                nft::load(&update.unwrap_or_else(|| wanted.rules.whole())).await?;
                self.loaded = Some((wanted.rules.clone(), nft::list().await?));
                // Nobody knows what an earlier process let pass.
                let ends = held.is_none_or(|held| wanted.rules.end_something_of(&held));
                if ends {
                    self.forget_stale(netlink).await;
                }
                Ok(())
            }
            Change::MakeTunnel => {
                netlink.apply(change, wanted).await?;
                // The overlay is IPv4 alone.
                switch(&format!("ipv6/conf/{TUNNEL}/disable_ipv6"), "1")?;
                match wanted.tunnel.carrier {
                    Carrier::Vxlan { .. } => Ok(()),
                    Carrier::Wireguard { .. } => wireguard::set_up(&self.key).await,
                }
            }
            Change::Admit(peers) => wireguard::admit(peers).await,
            Change::Dismiss(keys) => wireguard::dismiss(keys).await,
            _ => netlink.apply(change, wanted).await,
        }
    }

    /// Forgets what was loaded if the kernel does not hold it any more. What an earlier process has loaded is
    /// loaded again, which no packet notices.
    async fn check_rules(&mut self) {
        if let Some((_, listed)) = &self.loaded
            && nft::list().await.as_ref() != Ok(listed)
        {
            self.loaded = None;
        }
    }
}

/// What an overlay needs and this host does not have, as a person would look for it.
pub fn missing(backend: Backend) -> Vec<&'static str> {
    let programs = ["nft", "iptables"].into_iter().filter(|program| !has(program));
    match backend {
        Backend::None => vec![],
        Backend::Vxlan => programs.collect(),
        Backend::Wireguard => programs.chain(wireguard::missing()).collect(),
    }
}

fn open() -> Result<Netlink, String> {
    Netlink::open().map_err(|error| format!("the kernel's netlink socket: {error}"))
}

/// What the cluster has said of the host's network.
fn known_network(assignment: &Assignment) -> Option<Network> {
    assignment.is_known().then_some(assignment.network)
}

/// The ports of a bridge, as folders.
fn ports(bridge: &str) -> Result<Vec<PathBuf>, String> {
    let folder = format!("/sys/class/net/{bridge}/brif");
    let failed = |error: io::Error| format!("{folder}: {error}");
    let entries = fs::read_dir(&folder).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

/// Sets a switch of the kernel's network, below `/proc/sys/net`. A kernel without IPv6 has none of its own.
fn switch(name: &str, value: &str) -> Result<(), String> {
    let path = Path::new("/proc/sys/net").join(name);
    if name.starts_with("ipv6/") && !path.exists() { Ok(()) } else { write(&path, value) }
}

/// Writes a value of the kernel's, unless it is that already. What has gone away meanwhile needs none.
fn write(path: &Path, value: &str) -> Result<(), String> {
    let written = match fs::read_to_string(path) {
        Ok(now) if now.trim() == value => Ok(()),
        Ok(_) => fs::write(path, value),
        Err(error) => Err(error),
    };
    written.or_else(|error| match error.kind() {
        ErrorKind::NotFound if path.starts_with("/sys") => Ok(()),
        _ => Err(format!("{}: {error}", path.display())),
    })
}

/// Removes all of it from this host, once no container hangs on it any more: what went wrong.
pub async fn remove() -> Vec<String> {
    let removed = match open() {
        Ok(netlink) => netlink.remove_tunnel().await,
        Err(why) => Err(why),
    };
    let forgotten = [removed, tunnel::forget(TUNNEL), nft::remove().await, nft::forget_overlay().await];
    forgotten.into_iter().filter_map(Result::err).collect()
}
