//! Faults of three coordinators on one machine, at random moments: processes are killed, stopped or paused, and packets
//! between them are dropped in one direction or in both. Clients reach all of them at any time.
//!
//! Packets are dropped by a table of nftables in a network namespace of its own, which `history` makes: the machine's own
//! rules are never touched.

use std::{
    collections::BTreeSet,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use common::api::ClusterView;
use simulation::random::Random;
use tokio::time::Instant;

use super::history::Recorder;
use crate::{
    http::Endpoint,
    processes::{Group, Member},
};

/// The number of coordinators.
pub const MEMBERS: usize = 3;
/// Most faults at a time.
const AT_ONCE: usize = 2;
const TICK: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(300);

/// The address of a member.
fn address(member: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 11 + member as u8)
}

/// The addresses of all members. Clients have another one, so that they reach every member.
pub fn addresses() -> [IpAddr; MEMBERS] {
    std::array::from_fn(|member| address(member).into())
}

/// The network between the members.
pub struct Network(());

impl Network {
    /// Takes the network namespace of this process, which must be its own.
    pub fn take() -> anyhow::Result<Network> {
        // In a new namespace of processes, made together with that of the network.
        ensure!(std::process::id() == 1, "this process has no namespaces of its own");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip")?;
        ensure!(up.success(), "the loopback interface stays down");
        let network = Network(());
        network.rule("add table inet cut\nadd chain inet cut in { type filter hook input priority 0; }\n")?;
        Ok(network)
    }

    /// Drops all packets from the first to the second of each pair, and no others.
    fn cut(&self, pairs: &BTreeSet<(usize, usize)>) -> anyhow::Result<()> {
        let drop = |(from, to): &(usize, usize)| {
            format!("add rule inet cut in ip saddr {} ip daddr {} drop\n", address(*from), address(*to))
        };
        self.rule(&format!("flush chain inet cut in\n{}", pairs.iter().map(drop).collect::<String>()))
    }

    fn rule(&self, text: &str) -> anyhow::Result<()> {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("nft")?;
        nft.stdin.take().context("it is piped")?.write_all(text.as_bytes())?;
        ensure!(nft.wait()?.success(), "nft refused {text}");
        Ok(())
    }
}

/// Something that goes wrong for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// A member is killed, and started again at the end.
    Kill(usize),
    /// All members are killed at once.
    KillAll,
    /// A member is asked to end, and started again.
    Stop(usize),
    /// A member is paused (SIGSTOP).
    Pause(usize),
    /// No packet passes from the first to the second of each pair.
    Cut(BTreeSet<(usize, usize)>),
}

/// Which pairs a cut has: the ways are by far the most of what can happen between three.
fn cut(random: &mut Random, member: usize) -> BTreeSet<(usize, usize)> {
    let others: Vec<usize> = (0..MEMBERS).filter(|other| *other != member).collect();
    let other = others[random.below(others.len())];
    let outward = others.iter().map(|other| (member, *other));
    let inward = others.iter().map(|other| (*other, member));
    match random.below(6) {
        0 => [(member, other)].into(),
        1 => [(other, member)].into(),
        2 => outward.collect(),
        3 => inward.collect(),
        4 => [(member, other), (other, member)].into(),
        _ => outward.chain(inward).collect(),
    }
}

/// The faults of a round.
pub struct Faults<'a> {
    network: &'a Network,
    endpoint: Endpoint,
    random: Random,
    active: Vec<(Instant, Fault)>,
    /// The number of starts so far: each log is kept under one.
    starts: usize,
    /// What happened, with the microseconds of the history.
    pub events: Vec<String>,
    /// What must not happen, whatever goes wrong outside.
    pub complaints: Vec<String>,
}

impl Faults<'_> {
    /// The faults that a seed leads to.
    pub fn new<'a>(network: &'a Network, group: &Group, seed: u64) -> Faults<'a> {
        let random = Random::new(seed ^ 0x5eed);
        let (events, complaints) = (Vec::new(), Vec::new());
        Faults { network, endpoint: group.endpoint(), random, active: Vec::new(), starts: 0, events, complaints }
    }

    /// Lets faults begin and end until a time, and ends all of them then.
    pub async fn run(&mut self, group: &mut Group, recorder: &Recorder, end: Instant) -> anyhow::Result<()> {
        let mut next = Instant::now() + self.span(100, 900);
        while Instant::now() < end {
            tokio::time::sleep(TICK).await;
            let now = Instant::now();
            while let Some(over) = self.active.iter().position(|(end, _)| *end <= now) {
                let (_, fault) = self.active.remove(over);
                self.finish(group, recorder, fault)?;
            }
            self.look_at(group);
            if now >= next && self.active.len() < AT_ONCE {
                let fault = self.choose().await;
                self.begin(group, recorder, fault)?;
                next = Instant::now() + self.span(100, 1600);
            }
        }
        for (_, fault) in std::mem::take(&mut self.active) {
            self.finish(group, recorder, fault)?;
        }
        Ok(())
    }

    fn span(&mut self, least: usize, most: usize) -> Duration {
        Duration::from_millis((least + self.random.below(most - least)) as u64)
    }

    async fn choose(&mut self) -> Fault {
        let leader = self.leader().await;
        let any = self.random.below(MEMBERS);
        let member = leader.filter(|_| self.random.chance(55)).unwrap_or(any);
        match self.random.below(100) {
            0..20 => Fault::Kill(member),
            20..24 => Fault::KillAll,
            24..32 => Fault::Stop(member),
            32..58 => Fault::Pause(member),
            _ => Fault::Cut(cut(&mut self.random, member)),
        }
    }

    /// Who leads, by the first member that says so.
    async fn leader(&self) -> Option<usize> {
        for member in 0..MEMBERS {
            let asked = async {
                let mut client = self.endpoint.connect(member).await.ok()?;
                let path = "/api/v1/cluster";
                let (_, body) = client.send(hyper::Method::GET, path, bytes::Bytes::new(), None, LOOK).await.ok()?;
                let view: ClusterView = serde_json::from_slice(&body).ok()?;
                let leads = view.members.iter().find(|member| Some(member.id) == view.leader)?.address;
                self.endpoint.servers.iter().position(|server| *server == leads)
            };
            if let Ok(Some(leader)) = tokio::time::timeout(LOOK, asked).await {
                return Some(leader);
            }
        }
        None
    }

    /// Whether a fault of its process is under way.
    fn is_struck(&self, member: usize) -> bool {
        self.active.iter().any(|(_, fault)| match fault {
            Fault::Kill(other) | Fault::Stop(other) | Fault::Pause(other) => *other == member,
            Fault::KillAll => true,
            Fault::Cut(_) => false,
        })
    }

    fn begin(&mut self, group: &mut Group, recorder: &Recorder, fault: Fault) -> anyhow::Result<()> {
        let is_possible = match &fault {
            Fault::Kill(member) | Fault::Stop(member) | Fault::Pause(member) => !self.is_struck(*member),
            Fault::KillAll => (0..MEMBERS).all(|member| !self.is_struck(member)),
            Fault::Cut(_) => true,
        };
        if !is_possible {
            return Ok(());
        }
        self.tell(recorder, "begins", &fault);
        match &fault {
            Fault::Kill(member) => group.members[*member].kill(),
            Fault::KillAll => group.members.iter_mut().for_each(Member::kill),
            Fault::Stop(member) => tokio::task::block_in_place(|| group.members[*member].stop()),
            Fault::Pause(member) => group.members[*member].pause(),
            Fault::Cut(_) => {}
        }
        let most = if self.random.chance(20) { 8000 } else { 3500 };
        let lasts = if fault == Fault::KillAll { self.span(50, 800) } else { self.span(150, most) };
        self.active.push((Instant::now() + lasts, fault));
        self.network.cut(&self.cuts())
    }

    fn finish(&mut self, group: &mut Group, recorder: &Recorder, fault: Fault) -> anyhow::Result<()> {
        match &fault {
            Fault::Kill(member) | Fault::Stop(member) => self.start(group, *member),
            Fault::KillAll => (0..MEMBERS).for_each(|member| self.start(group, member)),
            Fault::Pause(member) => group.members[*member].resume(),
            Fault::Cut(_) => {}
        }
        self.tell(recorder, "ends", &fault);
        self.network.cut(&self.cuts())
    }

    fn cuts(&self) -> BTreeSet<(usize, usize)> {
        let pairs = self.active.iter().filter_map(|(_, fault)| match fault {
            Fault::Cut(pairs) => Some(pairs),
            _ => None,
        });
        pairs.flatten().copied().collect()
    }

    fn start(&mut self, group: &mut Group, member: usize) {
        self.starts += 1;
        let member = &mut group.members[member];
        let log = member.folder().join("wharf.log");
        // Its log up to now; the new process begins a new one.
        if let Err(error) = std::fs::rename(&log, log.with_extension(format!("{}.log", self.starts))) {
            self.complaints.push(format!("{}: {error}", log.display()));
        }
        member.start(&group.binary);
    }

    /// Complains of members that ended by themselves, and starts them again.
    fn look_at(&mut self, group: &mut Group) {
        for member in 0..MEMBERS {
            if !self.is_struck(member) && !group.members[member].runs() {
                self.complaints.push(format!(
                    "member {} ended by itself:\n{}",
                    member + 1,
                    group.members[member].log()
                ));
                self.start(group, member);
            }
        }
    }

    fn tell(&mut self, recorder: &Recorder, what: &str, fault: &Fault) {
        self.events.push(format!("{:>9} {what} {fault:?}", recorder.now()));
    }
}
