//! The loop of a host: look, decide, act, tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use agent_core::{
    Action, ActionResult, Container, ContainerState, Memory, Situation,
    network::{Resident, Residents},
    reconcile, without_docker,
};
use common::{
    assignment::{AssignedInstance, Assignment},
    directory::Directory,
    id::{BootId, InstanceId},
    output::LastLines,
    part::{Part, PartId},
    report::Report,
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

use crate::{facts, files::Files, leases::Leases, ledger::Ledger, processes::Processes, runtime::ContainerRuntime};

/// How often the host is looked at even if nothing seems to have happened.
const TICK: Duration = Duration::from_secs(15);
/// What happens within so long is looked at together: each look asks Docker, and most are written to disk.
const GATHER: Duration = Duration::from_millis(5);
/// How soon after Docker failed to answer.
const RETRY: Duration = Duration::from_secs(1);
/// How long Docker is waited for before it is looked at whether the processes are there.
const SILENCE: Duration = Duration::from_secs(1);
/// Containers whose output is read at a time.
const READS: usize = 8;
/// How long an instance that is to end may go on because others are led to it.
const UNLISTED_WITHIN: Duration = Duration::from_secs(3);
/// How long an instance that is to start waits until the host's rules know it.
const ADMITTED_WITHIN: Duration = Duration::from_secs(5);
/// How much later other hosts may hear of it.
const HEARD_ELSEWHERE: Duration = Duration::from_millis(500);

/// What of the host the loop works with.
pub struct HostParts {
    /// Configs and secrets.
    pub files: Files,
    /// The leases of strict singletons.
    pub leases: Arc<Leases>,
    /// Where others are led.
    pub directory: watch::Receiver<Directory>,
    /// Where it is told which instances are here, before they start.
    pub residents: watch::Sender<Option<Residents>>,
    /// The instances that the rules of the host's network know; none if there are no such rules.
    pub admitted: watch::Receiver<Option<Residents>>,
    /// What the agent was told and remembers.
    pub ledger: Ledger,
    /// The kernel's boot.
    pub boot: BootId,
}

/// The loop and its state.
pub struct Reconciler<R: ?Sized> {
    runtime: Arc<R>,
    files: Files,
    leases: Arc<Leases>,
    directory: watch::Receiver<Directory>,
    residents: watch::Sender<Option<Residents>>,
    admitted: watch::Receiver<Option<Residents>>,
    ledger: Ledger,
    memory: Memory,
    assignment: watch::Receiver<Assignment>,
    reports: watch::Sender<Report>,
    boot: BootId,
    actions: JoinSet<(Action, ActionResult)>,
    busy: BTreeSet<PartId>,
    blind: bool,
    processes: Processes,
    /// Whether files were removed that an earlier process had no time to remove.
    swept: bool,
}

impl<R: ContainerRuntime + ?Sized> Reconciler<R> {
    /// A loop that has not begun.
    pub fn new(
        runtime: Arc<R>,
        host: HostParts,
        assignment: watch::Receiver<Assignment>,
        reports: watch::Sender<Report>,
    ) -> Reconciler<R> {
        let HostParts { files, leases, directory, residents, admitted, ledger, boot } = host;
        let memory = ledger.contents().memory.clone();
        Reconciler {
            runtime,
            files,
            leases,
            directory,
            residents,
            admitted,
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

    /// Runs until `stop`. Actions under way are dropped; what Docker makes of them is seen after
    /// the next start.
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

    /// Looks once and begins what is to be done; returns when to look again at the latest.
    pub async fn pass(&mut self) -> Instant {
        let assignment = self.assignment.borrow_and_update().clone();
        let mut containers = match self.look().await {
            Ok(containers) => containers,
            Err(reason) => {
                if !std::mem::replace(&mut self.blind, true) {
                    warn!(reason, "Docker does not answer; nothing is concluded from that");
                }
                self.look_without_docker();
                return Instant::now() + RETRY;
            }
        };
        self.processes.learn(&containers);
        if std::mem::take(&mut self.blind) {
            info!("Docker answers again");
        }
        if !std::mem::replace(&mut self.swept, true) {
            let assigned = assignment.instances.iter().map(|instance| &instance.id);
            let found = || containers.keys().map(|id| &id.instance);
            let kept = assigned.chain(found()).cloned().collect();
            self.leases.adopt(found());
            if let Err(error) = self.files.places().sweep(&kept) {
                warn!(%error, "configs and secrets of instances that are gone could not be removed");
            }
        }
        self.read_output(&mut containers).await;
        self.tell_residents(&containers);
        let now = now();
        let leases = self.leases.by_wall_clock();
        let (busy, boot) = (&self.busy, self.boot);
        let situation =
            Situation { assignment: &assignment, containers: &containers, busy, leases: &leases, boot, now };
        let next = reconcile(situation, &mut self.memory);
        // On disk before it is done or told.
        if let Err(error) = self.ledger.update(&assignment, &self.memory).await {
            warn!(%error, "the ledger cannot be written; nothing is done until it can");
            return Instant::now() + RETRY;
        }
        for action in next.actions {
            let resident = containers.get(action.part()).and_then(|container| resident(action.part(), container));
            self.begin(action, resident, &assignment);
        }
        self.reports.send_if_modified(|report| {
            let changed = *report != next.report;
            *report = next.report;
            changed
        });
        let until_wake = next.wake_at.map_or(TICK, |at| at.since(now).duration()).min(TICK);
        Instant::now() + until_wake
    }

    /// What Docker shows. While it takes its time, what the kernel shows is told.
    async fn look(&self) -> Result<BTreeMap<PartId, Container>, String> {
        let mut looking = std::pin::pin!(self.runtime.observe());
        loop {
            match tokio::time::timeout(SILENCE, &mut looking).await {
                Ok(seen) => return seen,
                Err(_) => self.look_without_docker(),
            }
        }
    }

    /// Tells of what is gone although Docker does not say so: nobody is to be led there.
    fn look_without_docker(&self) {
        let gone = self.processes.gone();
        self.reports.send_if_modified(|report| {
            let told = without_docker(report, &gone);
            let differs = *report != told;
            *report = told;
            differs
        });
    }

    /// Reads what programs printed last that have ended since the last look: their failure is told with it, and
    /// their containers may be removed after that.
    async fn read_output(&self, containers: &mut BTreeMap<PartId, Container>) {
        let known_end = |id: &PartId| self.memory.0.get(id).and_then(|local| local.ended_run);
        let ended = containers.iter().filter_map(|(id, container)| match container.state {
            ContainerState::Exited { started_at, .. } if known_end(id) != Some(started_at) => {
                Some((id.clone(), container.id.clone()))
            }
            _ => None,
        });
        let ended: Vec<(PartId, String)> = ended.collect();
        let reading = ended.into_iter().map(|(id, container)| {
            let runtime = self.runtime.clone();
            async move { (id, runtime.tail(&container).await) }
        });
        let read: Vec<(PartId, LastLines)> = stream::iter(reading).buffer_unordered(READS).collect().await;
        for (id, output) in read {
            if let Some(container) = containers.get_mut(&id) {
                container.output = output;
            }
        }
    }

    /// Tells which instances have which addresses here.
    fn tell_residents(&self, containers: &BTreeMap<PartId, Container>) {
        let found: Residents = containers.iter().filter_map(|(id, container)| resident(id, container)).collect();
        self.residents.send_if_modified(|residents| {
            let differs = residents.as_ref() != Some(&found);
            *residents = Some(found);
            differs
        });
    }

    fn begin(&mut self, action: Action, resident: Option<(Ipv4Addr, Resident)>, assignment: &Assignment) {
        self.busy.insert(action.part().clone());
        let of = &action.part().instance;
        let instance = assignment.instances.iter().find(|instance| instance.id == *of).cloned();
        let (instance, unfilled) = match instance.clone().map(|instance| instance.filled(&node(assignment))) {
            Some(Err(why)) => (instance, Some(why)),
            Some(Ok(filled)) => (Some(filled), None),
            None => (None, None),
        };
        info!(instance = %action.part(), action = word(&action), "acting");
        let (host, directory) = ((self.files.clone(), self.leases.clone()), self.directory.clone());
        let (runtime, admitted) = (self.runtime.clone(), self.admitted.clone());
        self.actions.spawn(async move {
            match (&action, resident) {
                (Action::Create(_), _) if let Some(why) = unfilled => return (action, ActionResult::Impossible(why)),
                (Action::Stop { .. }, _) => wait_until_unlisted(directory, &action.part().instance).await,
                (Action::Start { .. }, Some((address, resident)))
                    if !is_admitted(admitted, address, &resident).await =>
                {
                    let why = "the rules of its host's network do not know it yet: wharf doctor";
                    return (action, ActionResult::Waits(why.to_owned()));
                }
                _ => {}
            }
            act(runtime, host, action, instance).await
        });
    }

    fn learn(&mut self, done: Result<(Action, ActionResult), tokio::task::JoinError>) {
        match done {
            Ok((action, result)) => {
                if let ActionResult::Failed(why) | ActionResult::Impossible(why) = &result {
                    warn!(instance = %action.part(), action = word(&action), why, "an action failed");
                }
                let known = self.memory.0.get(action.part()).map(|local| local.observed.message.as_str());
                if let ActionResult::Waits(why) = &result
                    && known != Some(why)
                {
                    info!(instance = %action.part(), action = word(&action), why, "an action waits");
                }
                self.busy.remove(action.part());
                self.memory.learn(&action, &result, now());
            }
            Err(error) => {
                // Which action it was is lost with it; none is under way any more if all are done.
                warn!(%error, "an action panicked");
                if self.actions.is_empty() {
                    self.busy.clear();
                }
            }
        }
    }
}

async fn act<R: ContainerRuntime + ?Sized>(
    runtime: Arc<R>,
    (files, leases): (Files, Arc<Leases>),
    action: Action,
    instance: Option<AssignedInstance>,
) -> (Action, ActionResult) {
    let result = match ensure_beside(&files, &leases, &action, instance.as_ref()).await {
        Err(missing) => missing,
        Ok(()) => perform(&*runtime, &action, instance.as_ref()).await,
    };
    if let (Action::Remove { part, .. }, ActionResult::Done) = (&action, &result)
        && is_last(part, instance.as_ref())
    {
        leases.forget(&part.instance);
        if let Err(error) = files.places().remove(&part.instance) {
            warn!(instance = %part.instance, %error, "its configs and secrets could not be removed");
        }
    }
    (action, result)
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

/// Who has which address by a container, if it has one.
fn resident(id: &PartId, container: &Container) -> Option<(Ipv4Addr, Resident)> {
    let (instance, published) = (id.instance.clone(), container.published.clone());
    Some((container.address?, Resident { instance, sender: container.sender, published }))
}

/// Whether the rules know an instance by its address, which takes a moment: what starts before that reaches nobody, or
/// whom the one reached that had the address before, or is not heard as long as the address belongs to the port of a
/// container that has ended.
async fn is_admitted(mut admitted: watch::Receiver<Option<Residents>>, address: Ipv4Addr, resident: &Resident) -> bool {
    let known = admitted.wait_for(|known| known.as_ref().is_none_or(|known| known.get(&address) == Some(resident)));
    tokio::time::timeout(ADMITTED_WITHIN, known).await.is_ok_and(|known| known.is_ok())
}

/// Waits until others are led elsewhere, if there is an elsewhere: what is asked then is answered.
async fn wait_until_unlisted(mut directory: watch::Receiver<Directory>, id: &InstanceId) {
    let serves = |directory: &Directory| directory.instance(id).is_some_and(|endpoint| endpoint.serves);
    let others_serve =
        |directory: &Directory| directory.instances_of(id.service()).any(|(other, e)| other != id && e.serves);
    if !others_serve(&directory.borrow()) {
        return;
    }
    // Without a coordinator nobody says so; then it ends all the same.
    let unlisted = directory.wait_for(|now| !serves(now) || !others_serve(now));
    let is_unlisted = tokio::time::timeout(UNLISTED_WITHIN, unlisted).await.is_ok();
    if is_unlisted {
        tokio::time::sleep(HEARD_ELSEWHERE).await;
    }
}

/// Whether all parts of an instance have ended once this one is removed.
fn is_last(part: &PartId, instance: Option<&AssignedInstance>) -> bool {
    match part.part {
        Part::Network => true,
        Part::Main => instance.is_none_or(|instance| !instance.spec.has_network_part()),
        Part::Step(_) | Part::Sidekick(_) => false,
    }
}

/// Has what lies beside a container in its place before the container is made or started: its configs, its
/// secrets, its lease, and the program that holds its network.
async fn ensure_beside(
    files: &Files,
    leases: &Leases,
    action: &Action,
    instance: Option<&AssignedInstance>,
) -> Result<(), ActionResult> {
    let (Action::Prepare(_) | Action::Create(_) | Action::Start { .. }, Some(instance)) = (action, instance) else {
        return Ok(());
    };
    if action.part().part == Part::Network {
        let failed = |error| ActionResult::Failed(format!("the holder of its network cannot be kept: {error}"));
        return files.places().ensure_binary().map_err(failed);
    }
    files.ensure(instance).await?;
    if instance.spec.strict_singleton {
        let failed = |error| ActionResult::Failed(format!("its lease cannot be kept: {error}"));
        leases.ensure(&instance.id).map_err(failed)?;
    }
    Ok(())
}

async fn perform<R: ContainerRuntime + ?Sized>(
    runtime: &R,
    action: &Action,
    instance: Option<&AssignedInstance>,
) -> ActionResult {
    match (action, instance) {
        (Action::Prepare(id), Some(instance)) => runtime.prepare(instance, &id.part).await,
        (Action::Create(id), Some(instance)) => runtime.create(instance, &id.part).await,
        (Action::Prepare(_) | Action::Create(_), None) => {
            ActionResult::Failed("it is not assigned any more".to_owned())
        }
        (Action::Start { container, .. }, _) => runtime.start(container).await,
        (Action::Stop { container, grace, .. }, _) => runtime.stop(container, *grace).await,
        (Action::Remove { container, .. }, _) => runtime.remove(container).await,
    }
}

fn word(action: &Action) -> &'static str {
    match action {
        Action::Prepare(_) => "prepare",
        Action::Create(_) => "create",
        Action::Start { .. } => "start",
        Action::Stop { .. } => "stop",
        Action::Remove { .. } => "remove",
    }
}
