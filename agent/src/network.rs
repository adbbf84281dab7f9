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
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_core::network::{
    BRIDGE, Carrier, Change, FlowLook, HostBridge, HostEnd, HostNetwork, Knowledge, Live, Loaded, Residents, Rules,
    Setting, TUNNEL, Upkeep, assigned_network, bridge_settings, changes, render, tools, tunnel_setting,
};
use common::{
    finding::Finding,
    network::{Backend, Network, Overlay, Peers},
};
use tokio::{sync::watch, task::spawn_blocking};
use tracing::{info, warn};

use crate::{
    findings::{Findings, Source},
    known::Known,
    publish::publish,
    runtime::ContainerRuntime,
    tunnel,
};
use netlink::Netlink;
use program::is_there;
pub use routes::routes;
pub use wireguard::OwnKey;

/// The time between two looks at everything.
const LOOK: Duration = Duration::from_secs(2);
/// How long one look, with all that it finds to do, may take.
const LONGEST: Duration = Duration::from_secs(60);

/// Keeps a host's network as it should be.
pub struct NetworkKeeper<R: ?Sized> {
    runtime: Arc<R>,
    known: Known,
    /// The host's own key of WireGuard.
    key: OwnKey,
    /// The address under which other hosts reach this one.
    address: watch::Receiver<Option<IpAddr>>,
    /// Where the keeper publishes the residents that the rules know; none if there are no rules.
    admitted: watch::Sender<Option<Residents>>,
    /// Where it reports what is wrong.
    findings: Findings,
    /// The rules that were loaded last.
    loaded: Option<Loaded>,
    /// The bridge that the runtime was asked for last.
    bridge: Option<HostBridge>,
    /// When the last look through all connections ended, and how long it took.
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
        // No instance starts until there are rules, or none are wanted.
        admitted.send_replace(Some(Residents::new()));
        NetworkKeeper { runtime, known, key, address, admitted, findings, loaded: None, bridge: None, looked: None }
    }

    /// Keeps it for as long as it is awaited.
    pub async fn run(mut self) {
        let mut problem: Option<String> = None;
        let began = Instant::now();
        loop {
            let network = assigned_network(&self.known.assignment.borrow_and_update());
            let peers = self.known.peers();
            let knowledge = Knowledge {
                network,
                address: *self.address.borrow_and_update(),
                peers: peers.as_ref(),
                knows_residents: self.known.residents.borrow_and_update().is_some(),
                runs_for: began.elapsed(),
            };
            let done = self.keep(knowledge).await;
            if let (Err(why), before) = (&done, &problem)
                && before.as_ref() != Some(why)
            {
                warn!(%why, "this host's network cannot be set up");
            } else if done.is_ok() && problem.is_some() {
                info!("this host's network works again");
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

    async fn keep(&mut self, knowledge: Knowledge<'_>) -> Result<(), String> {
        match knowledge.upkeep()? {
            Upkeep::LeaveAlone => Ok(()),
            Upkeep::Bridge => {
                self.admitted.send_replace(None);
                self.make_bridge(HostBridge::Docker, true).await
            }
            Upkeep::Overlay { overlay, peers, address } => {
                let passed = tokio::time::timeout(LONGEST, self.ensure(overlay, peers, address)).await;
                passed.unwrap_or_else(|_| Err(format!("it could not be checked within {LONGEST:?}")))
            }
        }
    }

    /// Waits until the next look at everything, and follows the directory and the residents meanwhile.
    async fn wait(&mut self, network: Option<Network>, peers: Option<Peers>) -> Result<(), watch::error::RecvError> {
        let look = tokio::time::sleep(LOOK);
        tokio::pin!(look);
        while self.known.peers() == peers {
            tokio::select! {
                moved = self.known.assignment.wait_for(|next| assigned_network(next) != network) => {
                    return moved.map(drop);
                }
                changed = self.address.changed() => return changed,
                () = &mut look => return Ok(()),
                changed = self.known.directory.changed() => changed?,
                changed = self.known.residents.changed() => changed?,
            }
            if let Err(why) = self.follow().await {
                info!(why, "the live part of the rules is loaded with all the rest");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Updates the live part of the rules that were loaded.
    async fn follow(&mut self) -> Result<(), String> {
        let netlink = open()?;
        let (live, residents) = self.live(&netlink).await?;
        let held = self.loaded.take().ok_or("no rules are loaded yet")?;
        let rules = held.rules.living(live);
        let load = rules.load(Some(&held.rules));
        let mut listed = held.listed;
        if !load.script.is_empty() {
            nft::load(&load.script).await?;
            listed = listed.updated(nft::list().await?)?;
        }
        self.loaded = Some(Loaded { rules, listed });
        self.admit(residents);
        if load.ends_flows {
            self.forget_stale(&netlink).await;
        }
        Ok(())
    }

    /// Has the kernel forget connections that could not begin any more. A kernel that cannot keeps them until they end.
    async fn forget_stale(&mut self, netlink: &Netlink) {
        let began = Instant::now();
        match self.try_forget(netlink).await {
            Ok(0) => {}
            Ok(forgotten) => info!(forgotten, "connections that could not begin any more are forgotten"),
            Err(error) => warn!(error, "the kernel's connection table cannot be read"),
        }
        self.looked = Some((Instant::now(), began.elapsed()));
    }

    async fn try_forget(&self, netlink: &Netlink) -> Result<usize, String> {
        let Some(rules) = self.loaded.as_ref().map(|loaded| loaded.rules.clone()) else { return Ok(0) };
        let addresses = netlink.own_addresses().await?;
        let forgetting = spawn_blocking(move || conntrack::forget(|flow| rules.is_stale(flow, &addresses)));
        let forgotten = forgetting.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        forgotten.map_err(|error| error.to_string())
    }

    /// The part of the rules that changes as instances come and go, and the residents that it was rendered from.
    async fn live(&mut self, netlink: &Netlink) -> Result<(Live, Residents), String> {
        let (live, residents) = self.known.live();
        let bindings = netlink.bindings(&residents).await?;
        Ok((live.bound(bindings), residents))
    }

    /// Publishes the residents that the loaded rules know.
    fn admit(&self, residents: Residents) {
        publish(&self.admitted, Some(residents));
    }

    async fn ensure(&mut self, overlay: Overlay, peers: &Peers, address: Ipv4Addr) -> Result<(), String> {
        let netlink = open()?;
        let (live, residents) = self.live(&netlink).await?;
        let end = HostEnd { underlay: netlink.underlay(address).await?, key: self.key.usable() };
        let wanted = render(overlay, peers.clone(), live, end)?;
        let mut observed = netlink.observe(wanted.own).await?;
        observed.has_rules = self.has_rules(&wanted.rules).await;
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
        let (mtu, next) = (wanted.tunnel.mtu, overlay.next(peers));
        let bridge = HostBridge::Overlay { subnet: overlay.own, mtu, next };
        self.make_bridge(bridge, netlink.has_bridge().await?).await?;
        let last = self.looked.map(|(at, took)| FlowLook { ago: at.elapsed(), took });
        if self.loaded.as_ref().is_some_and(|loaded| loaded.rules.need_a_look(last)) {
            self.forget_stale(&netlink).await;
        }
        bridge_settings(&ports(BRIDGE)?).iter().try_for_each(set)?;
        nft::admit_overlay().await
    }

    /// Has the runtime make the bridge, unless it has done so and the bridge is still there.
    async fn make_bridge(&mut self, bridge: HostBridge, is_there: bool) -> Result<(), String> {
        if bridge.has_to_be_made(self.bridge, is_there) {
            self.bridge = None;
            self.runtime.ensure_bridge(bridge).await?;
            self.bridge = Some(bridge);
        }
        Ok(())
    }

    /// Whether the kernel holds these rules, as far as this process has loaded them.
    async fn has_rules(&mut self, rules: &Rules) -> bool {
        if self.loaded.is_some() {
            let shown = nft::list().await.ok();
            self.loaded = self.loaded.take().and_then(|loaded| loaded.still_there(shown.as_ref()));
        }
        self.loaded.as_ref().is_some_and(|loaded| loaded.rules == *rules)
    }

    async fn apply(&mut self, netlink: &Netlink, change: &Change, wanted: &HostNetwork) -> Result<(), String> {
        match change {
            Change::LoadRules => {
                let held = self.loaded.take();
                let load = wanted.rules.load(held.as_ref().map(|held| &held.rules));
                nft::load(&load.script).await?;
                self.loaded = Some(Loaded { rules: wanted.rules.clone(), listed: nft::list().await? });
                if load.ends_flows {
                    self.forget_stale(netlink).await;
                }
                Ok(())
            }
            Change::MakeTunnel => {
                netlink.apply(change, wanted).await?;
                set(&tunnel_setting())?;
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
}

/// The names of the tools that an overlay needs and this host does not have.
pub fn missing(backend: Backend) -> Vec<&'static str> {
    let missing = tools::needed(backend).into_iter().filter(|tool| !is_there(*tool));
    missing.map(tools::Tool::name).collect()
}

fn open() -> Result<Netlink, String> {
    Netlink::open().map_err(|error| format!("the kernel's netlink socket: {error}"))
}

/// The names of the ports of a bridge.
fn ports(bridge: &str) -> Result<Vec<String>, String> {
    let folder = format!("/sys/class/net/{bridge}/brif");
    let failed = |error: io::Error| format!("{folder}: {error}");
    let entries = fs::read_dir(&folder).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(failed)).collect()
}

/// Gives the kernel a value, unless it has it already.
fn set(setting: &Setting) -> Result<(), String> {
    let path = Path::new(&setting.path);
    let written = match fs::read_to_string(path) {
        Ok(now) if now.trim() == setting.value => Ok(()),
        Ok(_) => fs::write(path, setting.value),
        Err(error) => Err(error),
    };
    written.or_else(|error| match error.kind() {
        ErrorKind::NotFound if setting.may_lack => Ok(()),
        _ => Err(format!("{}: {error}", setting.path)),
    })
}

/// Removes everything of ours from this host's network, once no container uses it any more; returns the errors.
pub async fn remove() -> Vec<String> {
    let removed = match open() {
        Ok(netlink) => netlink.remove_tunnel().await,
        Err(why) => Err(why),
    };
    let forgotten = [removed, tunnel::forget(TUNNEL), nft::remove().await, nft::forget_overlay().await];
    forgotten.into_iter().filter_map(Result::err).collect()
}
