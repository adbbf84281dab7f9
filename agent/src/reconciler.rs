//! The loop of a host: look, decide, act, report.

mod perform;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use agent_core::{
    Action, ActionResult, Container, Memory, Situation, Work,
    network::{Residents, residents},
    reconcile, without_docker,
    work::kept,
};
use common::{
    assignment::Assignment, directory::Directory, id::BootId, output::LastLines, part::PartId, report::Report,
    spec::template::Node,
};
use futures::{StreamExt, stream};
use link::clock::now;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    facts, files::Files, images::Images, leases::Leases, ledger::Ledger, processes::Processes, publish::publish,
    runtime::ContainerRuntime,
};
use perform::{Host, perform};

/// The longest time between two looks at the host.
const TICK: Duration = Duration::from_secs(15);
/// How long changes are gathered before a look: each look asks Docker, and most are written to disk.
const GATHER: Duration = Duration::from_millis(5);
/// The time until the next look after Docker failed to answer.
const RETRY: Duration = Duration::from_secs(1);
/// How long Docker may take to answer before the kernel is asked whether the processes are there.
const SILENCE: Duration = Duration::from_secs(1);
/// How many containers' output is read at a time.
const READS: usize = 8;

/// The parts of the host that the loop works with.
pub struct HostParts {
    /// Configs and secrets.
    pub files: Files,
    /// The leases of strict singletons.
    pub leases: Arc<Leases>,
    /// The way to the task that removes images.
    pub images: Images,
    /// The instances to which callers are led.
    pub directory: watch::Receiver<Directory>,
    /// Where the loop publishes the owners of the addresses on this host, before they start.
    pub residents: watch::Sender<Option<Residents>>,
    /// The instances that the rules of the host's network know; none if there are no such rules.
    pub admitted: watch::Receiver<Option<Residents>>,
    /// The last assignment and the memory, on disk.
    pub ledger: Ledger,
    /// The kernel's boot.
    pub boot: BootId,
}

/// The loop and its state.
pub struct Reconciler<R: ?Sized> {
    host: Arc<Host<R>>,
    residents: watch::Sender<Option<Residents>>,
    ledger: Ledger,
    memory: Memory,
    assignment: watch::Receiver<Assignment>,
    reports: watch::Sender<Report>,
    boot: BootId,
    actions: JoinSet<(Action, ActionResult)>,
    busy: BTreeSet<PartId>,
    blind: bool,
    processes: Processes,
    /// Whether the files are removed that an earlier process had no time to remove.
    swept: bool,
}

impl<R: ContainerRuntime + ?Sized> Reconciler<R> {
    /// A loop that has not begun.
    pub fn new(
        runtime: Arc<R>,
        parts: HostParts,
        assignment: watch::Receiver<Assignment>,
        reports: watch::Sender<Report>,
    ) -> Reconciler<R> {
        let HostParts { files, leases, images, directory, residents, admitted, ledger, boot } = parts;
        let memory = ledger.contents().memory.clone();
        Reconciler {
            host: Arc::new(Host { runtime, files, leases, images, directory, admitted }),
            residents,
            ledger,
            memory,
            assignment,
            reports,
            boot,
            actions: JoinSet::new(),
            busy: BTreeSet::new(),
            blind: false,
            processes: Processes::default(),
            swept: false,
        }
    }

    /// Runs until `stop`, and drops the actions under way: the next process sees what Docker has made of them.
    pub async fn run(mut self, wake: Arc<Notify>, stop: CancellationToken) {
        loop {
            let next_look = self.pass().await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // The session keeps the sender as long as this loop runs.
                _ = self.assignment.changed() => {}
                () = wake.notified() => {}
                Some(done) = self.actions.join_next() => self.learn(done),
                () = tokio::time::sleep_until(next_look) => {}
            }
            tokio::time::sleep(GATHER).await;
            while let Some(done) = self.actions.try_join_next() {
                self.learn(done);
            }
        }
    }

    /// Looks once and begins the actions that follow; returns when to look again at the latest.
    pub async fn pass(&mut self) -> Instant {
        let assignment = self.assignment.borrow_and_update().clone();
        let mut containers = match self.look().await {
            Ok(containers) => containers,
            Err(reason) => {
                if !std::mem::replace(&mut self.blind, true) {
                    warn!(reason, "Docker does not answer; the state of containers is unknown");
                }
                self.look_without_docker();
                return Instant::now() + RETRY;
            }
        };
        self.processes.learn(&containers);
        if std::mem::take(&mut self.blind) {
            info!("Docker answers again");
        }
        self.sweep(&assignment, &containers);
        self.read_output(&mut containers).await;
        publish(&self.residents, Some(residents(&containers)));
        let now = now();
        let leases = self.host.leases.by_wall_clock();
        let (busy, boot) = (&self.busy, self.boot);
        let situation =
            Situation { assignment: &assignment, containers: &containers, busy, leases: &leases, boot, now };
        let next = reconcile(situation, &mut self.memory);
        // The ledger has it on disk before anything is done or reported.
        if let Err(error) = self.ledger.update(&assignment, &self.memory).await {
            warn!(%error, "the ledger cannot be written; actions wait until it can");
            return Instant::now() + RETRY;
        }
        for action in next.actions {
            self.begin(action, &assignment, &containers);
        }
        publish(&self.reports, next.report);
        let until_wake = next.wake_at.map_or(TICK, |at| at.since(now).duration()).min(TICK);
        Instant::now() + until_wake
    }

    /// Returns the containers that Docker shows. While Docker does not answer, reports what the kernel shows.
    async fn look(&self) -> Result<BTreeMap<PartId, Container>, String> {
        let mut looking = std::pin::pin!(self.host.runtime.observe());
        loop {
            match tokio::time::timeout(SILENCE, &mut looking).await {
                Ok(seen) => return seen,
                Err(_) => self.look_without_docker(),
            }
        }
    }

    /// Reports the processes that are gone although Docker does not say so, so that callers are led elsewhere.
    fn look_without_docker(&self) {
        let gone = self.processes.gone();
        let next = without_docker(&self.reports.borrow(), &gone);
        publish(&self.reports, next);
    }

    /// Removes, once, the files that an earlier process left behind, and takes up its leases.
    fn sweep(&mut self, assignment: &Assignment, containers: &BTreeMap<PartId, Container>) {
        if std::mem::replace(&mut self.swept, true) {
            return;
        }
        self.host.leases.adopt(containers.keys().map(|id| &id.instance));
        if let Err(error) = self.host.files.places().sweep(&kept(assignment, containers)) {
            warn!(%error, "configs and secrets of removed instances could not be deleted");
        }
    }

    /// Reads the last output of the programs that have ended since the last look.
    async fn read_output(&self, containers: &mut BTreeMap<PartId, Container>) {
        let ended = self.memory.new_ends(containers).map(|(id, container)| (id.clone(), container.id.clone()));
        let ended: Vec<(PartId, String)> = ended.collect();
        let reading = ended.into_iter().map(|(id, container)| {
            let runtime = self.host.runtime.clone();
            async move { (id, runtime.tail(&container).await) }
        });
        let read: Vec<(PartId, LastLines)> = stream::iter(reading).buffer_unordered(READS).collect().await;
        for (id, output) in read {
            if let Some(container) = containers.get_mut(&id) {
                container.output = output;
            }
        }
    }

    fn begin(&mut self, action: Action, assignment: &Assignment, containers: &BTreeMap<PartId, Container>) {
        self.busy.insert(action.part().clone());
        info!(instance = %action.part(), action = action.verb(), "acting");
        let work = Work::of(&action, assignment, containers, &node(assignment));
        let host = self.host.clone();
        self.actions.spawn(async move {
            let result = match work {
                Ok(work) => perform(&host, &action, &work).await,
                Err(result) => result,
            };
            (action, result)
        });
    }

    fn learn(&mut self, done: Result<(Action, ActionResult), tokio::task::JoinError>) {
        match done {
            Ok((action, result)) => {
                if let ActionResult::Failed(why) | ActionResult::Impossible(why) = &result {
                    warn!(instance = %action.part(), action = action.verb(), why, "an action failed");
                }
                let known = self.memory.0.get(action.part()).map(|local| local.observed.message.as_str());
                if let ActionResult::Waits(why) = &result
                    && known != Some(why)
                {
                    info!(instance = %action.part(), action = action.verb(), why, "an action waits");
                }
                self.busy.remove(action.part());
                self.memory.learn(&action, &result, now());
            }
            Err(error) => {
                // The panic does not say which action it was. Once all have ended, none is under way.
                warn!(%error, "an action panicked");
                if self.actions.is_empty() {
                    self.busy.clear();
                }
            }
        }
    }
}

/// This host, as templates see it.
fn node(assignment: &Assignment) -> Node {
    Node {
        id: assignment.host.to_string(),
        hostname: facts::hostname(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
    }
}
