//! The agent of a host: runs the instances of its assignment and reports what it observes.
//!
//! It is autonomous: assignment and memory lie in its ledger, and restarts go on with every coordinator gone.

mod certificate;
mod conditions;
pub mod directory;
pub mod dns;
pub mod facts;
pub mod files;
pub mod findings;
pub mod guard;
pub mod holder;
pub mod identity;
pub mod images;
pub mod known;
pub mod leases;
pub mod ledger;
mod limits;
mod logs;
mod metadata;
pub mod network;
mod probe;
mod processes;
mod publish;
pub mod reconciler;
pub mod runtime;
pub mod session;
mod socket;
mod trust;
pub mod tunnel;
pub mod upgrade;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use agent_core::network::Residents;
use common::{
    assignment::Assignment,
    directory::Directory,
    host::HostCondition,
    id::{ClusterId, HostId},
    report::Report,
};
use futures::future::BoxFuture;
use link::{Connection, Supervisor, Transport, supervise::EndedTask};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use directory::Learner;
use files::{Files, Places};
use findings::Findings;
use images::{ImageKeeper, Images, StoredRecord};
use known::Known;
use leases::Leases;
use ledger::{Ledger, LedgerError};
use network::{NetworkKeeper, OwnKey};
use reconciler::{HostParts, Reconciler};
use runtime::ContainerRuntime;
use session::Session;
use upgrade::OwnBinary;

/// The settings of an agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of its ledger.
    pub state: PathBuf,
    /// Where configs and secrets lie.
    pub places: Places,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its host.
    pub host: HostId,
    /// The coordinators that are known: those to begin with, and then those that the cluster names.
    pub coordinators: watch::Sender<Vec<SocketAddr>>,
    /// The connection of the session, while the agent has one.
    pub session: watch::Sender<Option<Connection>>,
    /// The address under which other hosts reach this one; found by asking the kernel if absent.
    pub address: Option<IpAddr>,
    /// Whether it has the host's network to itself: not where many agents share a kernel.
    pub keeps_network: bool,
    /// The binary of the process; absent where the process cannot go on with another one.
    pub binary: Option<OwnBinary>,
}

/// A file in the state folder that says that the agent will not come back.
pub const FOR_GOOD: &str = "for-good";
/// How long the cluster may take to note that the agent leaves.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why an agent cannot run, or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// One of its tasks ended unasked; the service manager starts the agent again.
    #[error("{0}")]
    TaskEnded(EndedTask),
    /// Its ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The host's key of WireGuard can neither be read nor written.
    #[error("the host's WireGuard key in {}: {source}", folder.display())]
    Key {
        /// The state folder.
        folder: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Runs until `shutdown` completes, and says farewell then, unless it goes for good. Containers go on.
pub async fn run(
    config: Config,
    transport: Arc<dyn Transport>,
    runtime: Arc<dyn ContainerRuntime>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    // Boxed, so that all of the agent is compiled in this crate, and not again in each that runs one.
    let running: BoxFuture<'static, _> = Box::pin(work(config, transport, runtime, Box::pin(shutdown)));
    running.await
}

async fn work(
    config: Config,
    transport: Arc<dyn Transport>,
    runtime: Arc<dyn ContainerRuntime>,
    shutdown: BoxFuture<'static, ()>,
) -> Result<(), RunError> {
    let agent = Agent::begin(config, transport, runtime)?;
    agent.run_until(shutdown).await
}

/// An agent at work: its tasks, and what they share.
struct Agent {
    config: Config,
    runtime: Arc<dyn ContainerRuntime>,
    findings: Findings,
    /// Wakes the reconciler.
    wake: Arc<Notify>,
    /// Has the session say farewell.
    leaving: Arc<Notify>,
    /// All tasks but the session.
    tasks: Supervisor,
    session: Supervisor,
}

impl Agent {
    fn new(config: Config, runtime: Arc<dyn ContainerRuntime>) -> Agent {
        let stop = CancellationToken::new();
        let (tasks, session) = (Supervisor::new(stop.clone()), Supervisor::new(stop));
        let (wake, leaving) = (Arc::default(), Arc::default());
        Agent { config, runtime, findings: Findings::default(), wake, leaving, tasks, session }
    }

    fn begin(
        config: Config,
        transport: Arc<dyn Transport>,
        runtime: Arc<dyn ContainerRuntime>,
    ) -> Result<Agent, RunError> {
        let ledger = Ledger::load(&config.state, config.cluster, config.host)?;
        let key = own_key(&config)?;
        let (assignments, assignment) = watch::channel(ledger.contents().assignment.clone());
        let (reports, report) = watch::channel(Report::default());
        let (leader, leads) = (config.session.clone(), config.session.subscribe());
        let (addresses, address) = watch::channel(config.address);
        let (residents, resident) = watch::channel(None);
        let (directories, directory) = watch::channel(directory::load(&config.state, config.cluster));
        let mut agent = Agent::new(config.clone(), runtime.clone());
        agent.keep_directory(directory.clone());
        let (conditions, images) = agent.watch_host(assignment.clone());
        let known = Known { assignment: assignment.clone(), directory: directory.clone(), residents: resident };
        let admitted = agent.keep_network(known, key.clone(), address);
        agent.keep_binary(&leads);
        let (files, boot) = (Files::new(config.places.clone(), leads), facts::boot_id());
        let leases = Arc::new(Leases::new(config.places.clone(), agent.wake.clone()));
        let host = HostParts { files, leases: leases.clone(), images, directory, residents, admitted, ledger, boot };
        agent.reconcile(Reconciler::new(runtime.clone(), host, assignment, reports));
        agent.speak(Session {
            config,
            transport,
            runtime,
            assignment: assignments,
            report,
            leader,
            directory: Learner::new(directories),
            findings: agent.findings.clone(),
            conditions,
            key,
            leases,
            address: addresses,
            leaving: agent.leaving.clone(),
        });
        Ok(agent)
    }

    /// Takes part in upgrades, if this process may be replaced.
    fn keep_binary(&mut self, leads: &watch::Receiver<Option<link::Connection>>) {
        if let Some(own) = self.config.binary.clone() {
            self.tasks.spawn("upgrade", upgrade::run(own, leads.clone()));
        }
    }

    /// Keeps the directory on disk.
    fn keep_directory(&mut self, directory: watch::Receiver<Directory>) {
        let (state, cluster) = (self.config.state.clone(), self.config.cluster);
        self.tasks.spawn("directory", async move { directory::keep(&state, cluster, directory).await });
    }

    /// Watches what a host may run out of; returns its conditions, and the way to the task that removes images.
    fn watch_host(&mut self, assignment: watch::Receiver<Assignment>) -> (watch::Receiver<Vec<HostCondition>>, Images) {
        let (runtime, state, findings) = (&self.runtime, &self.config.state, &self.findings);
        self.tasks.spawn("limits", limits::watch(runtime.clone(), state.clone(), findings.clone()));
        self.tasks.spawn("certificate", certificate::watch(state.clone(), findings.clone()));
        let (publish, conditions) = watch::channel(Vec::new());
        self.tasks.spawn("conditions", conditions::watch(runtime.clone(), state.clone(), publish));
        let record = StoredRecord::load(state, self.config.cluster, self.config.host);
        let (images, keeper) = ImageKeeper::new(runtime.clone(), record, assignment);
        self.tasks.spawn("images", keeper.run(conditions.clone()));
        (conditions, images)
    }

    /// Keeps the host's network, if it has a key for that, and answers what containers ask there; returns the residents
    /// that the rules know.
    fn keep_network(
        &mut self,
        known: Known,
        key: Option<OwnKey>,
        address: watch::Receiver<Option<IpAddr>>,
    ) -> watch::Receiver<Option<Residents>> {
        let (admitting, admitted) = watch::channel(None);
        let Some(key) = key else { return admitted };
        let (runtime, findings) = (self.runtime.clone(), &self.findings);
        let keeper = NetworkKeeper::new(runtime, known.clone(), key, address, admitting, findings.clone());
        self.tasks.spawn("network", keeper.run());
        self.tasks.spawn("metadata", metadata::run(known.clone()));
        self.tasks.spawn("names", dns::run(known.clone(), findings.clone()));
        self.tasks.spawn("probes", probe::run(known, findings.clone()));
        admitted
    }

    /// Runs what the host should run, and looks again whenever Docker says that something happens.
    fn reconcile(&mut self, reconciler: Reconciler<dyn ContainerRuntime>) {
        let (runtime, wake, stop) = (self.runtime.clone(), self.wake.clone(), self.tasks.stop());
        self.tasks.spawn_heeding_stop("reconciler", reconciler.run(wake.clone(), stop));
        self.tasks.spawn("containers", async move { runtime.watch(&wake).await });
    }

    fn speak(&mut self, session: Session<dyn ContainerRuntime>) {
        self.session.spawn("session", session.run());
    }

    async fn run_until(mut self, shutdown: BoxFuture<'static, ()>) -> Result<(), RunError> {
        let ended = tokio::select! {
            () = shutdown => None,
            ended = self.session.failed() => Some(ended),
            ended = self.tasks.failed() => Some(ended),
        };
        let mut farewell = None;
        if ended.is_none() && !self.config.state.join(FOR_GOOD).exists() {
            self.leaving.notify_one();
            // The session ends with it. A coordinator that does not receive it takes the host for one that failed.
            farewell = tokio::time::timeout(FAREWELL, self.session.failed()).await.ok();
        }
        let panicked = farewell.filter(|session| session.panicked.is_some());
        let (tasks, session) = (self.tasks.end().await, self.session.end().await);
        ended.or(panicked).or(tasks).or(session).map_or(Ok(()), |ended| Err(RunError::TaskEnded(ended)))
    }
}

/// The host's key of WireGuard, if it keeps a network.
fn own_key(config: &Config) -> Result<Option<OwnKey>, RunError> {
    let load = || OwnKey::load_or_make(&config.state);
    let key = config.keeps_network.then(load).transpose();
    key.map_err(|source| RunError::Key { folder: config.state.clone(), source })
}
