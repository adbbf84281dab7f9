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
pub mod known;
pub mod leases;
pub mod ledger;
mod limits;
mod logs;
mod metadata;
pub mod network;
mod probe;
mod processes;
pub mod reconciler;
pub mod renewal;
pub mod runtime;
pub mod session;
mod socket;
pub mod tunnel;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use common::{
    id::{ClusterId, HostId},
    report::Report,
};
use futures::future::BoxFuture;
use link::{Supervisor, Transport, supervise::EndedTask};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use directory::Learner;
use files::{Files, Places};
use findings::Findings;
use known::Known;
use leases::Leases;
use ledger::{Ledger, LedgerError};
use network::{NetworkKeeper, OwnKey};
use reconciler::{HostParts, Reconciler};
use runtime::ContainerRuntime;

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
    /// Coordinators to begin with.
    pub coordinators: Vec<SocketAddr>,
    /// The address under which other hosts reach this one; found by asking the kernel if absent.
    pub address: Option<IpAddr>,
    /// Whether it has the host's network to itself: not where many agents share a kernel.
    pub keeps_network: bool,
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
    let for_good = config.state.join(FOR_GOOD);
    let ledger = Ledger::load(&config.state, config.cluster, config.host)?;
    let (assignments, assignment) = watch::channel(ledger.contents().assignment.clone());
    let (reports, report) = watch::channel(Report::default());
    let wake = Arc::new(Notify::new());
    let leases = Arc::new(Leases::new(config.places.clone(), wake.clone()));
    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new(stop.clone());
    let (leader, leads) = watch::channel(None);
    let leaving = Arc::new(Notify::new());
    let (addresses, address) = watch::channel(config.address);
    let (directories, directory) = watch::channel(directory::load(&config.state, config.cluster));
    let (state, cluster, kept) = (config.state.clone(), config.cluster, directory.clone());
    tasks.spawn("directory", async move { directory::keep(&state, cluster, kept).await });
    let findings = Findings::default();
    tasks.spawn("limits", limits::watch(runtime.clone(), config.state.clone(), findings.clone()));
    tasks.spawn("certificate", certificate::watch(config.state.clone(), findings.clone()));
    let (publish_conditions, conditions) = watch::channel(Vec::new());
    let watching = conditions::watch(runtime.clone(), config.state.clone(), publish_conditions);
    tasks.spawn("conditions", watching);
    let (publish_residents, residents) = watch::channel(None);
    let (admitting, admitted) = watch::channel(None);
    let own_key = || OwnKey::load_or_make(&config.state);
    let key = config.keeps_network.then(own_key).transpose();
    let key = key.map_err(|source| RunError::Key { folder: config.state.clone(), source })?;
    if let Some(key) = key.clone() {
        let known = Known { assignment: assignment.clone(), directory: directory.clone(), residents };
        let keeper = NetworkKeeper::new(runtime.clone(), known.clone(), key, address, admitting, findings.clone());
        tasks.spawn("network", keeper.run());
        tasks.spawn("metadata", metadata::run(known.clone()));
        tasks.spawn("names", dns::run(known.clone(), findings.clone()));
        tasks.spawn("probes", probe::run(known, findings.clone()));
    }
    let files = Files::new(config.places.clone(), leads);
    let (residents, leases_kept, boot) = (publish_residents, leases.clone(), facts::boot_id());
    let host = HostParts { files, leases: leases_kept, directory, residents, admitted, ledger, boot };
    let reconciler = Reconciler::new(runtime.clone(), host, assignment.clone(), reports);
    tasks.spawn_heeding_stop("reconciler", reconciler.run(wake.clone(), stop.clone()));
    let session = session::Session {
        config,
        transport,
        runtime: runtime.clone(),
        assignment: assignments,
        report,
        leader,
        directory: Learner::new(directories),
        findings,
        conditions,
        key,
        leases,
        address: addresses,
        leaving: leaving.clone(),
    };
    let mut speaking = Supervisor::new(stop.clone());
    speaking.spawn("session", session.run());
    tasks.spawn("containers", async move { runtime.watch(&wake).await });
    let ended = tokio::select! {
        () = shutdown => None,
        ended = speaking.failed() => Some(ended),
        ended = tasks.failed() => Some(ended),
    };
    let mut farewell = None;
    if ended.is_none() && !for_good.exists() {
        leaving.notify_one();
        // The session ends with it. A coordinator that does not receive it takes the host for one that failed.
        farewell = tokio::time::timeout(FAREWELL, speaking.failed()).await.ok();
    }
    let panicked = farewell.filter(|session| session.panicked.is_some());
    let (tasks, speaking) = (tasks.end().await, speaking.end().await);
    ended.or(panicked).or(tasks).or(speaking).map_or(Ok(()), |ended| Err(RunError::TaskEnded(ended)))
}
