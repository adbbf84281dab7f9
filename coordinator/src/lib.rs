//! The coordinator: replicates the state, plans, serves agents and people.

pub mod api;
mod audit;
pub mod backup;
pub mod birth;
pub mod dispatch;
pub mod join;
mod lapsed;
mod planner;
pub mod raft;
pub mod seal;
mod server;
mod trust;
pub mod upgrade;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use common::{
    api::Settings,
    error::{Code, Problem},
    network::NetworkPlan,
    wire::TrustedRoots,
};
use futures::future::BoxFuture;
use link::{Supervisor, Transport, keyring::Keyring, supervise::EndedTask};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

pub use coordinator_core::level::LEVEL;

use dispatch::Dispatch;
use raft::{Consensus, Start, StoreError};
use seal::Seals;
use server::OwnIdentity;
use upgrade::Binaries;

/// What a coordinator is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of its store.
    pub state: PathBuf,
    /// The folder of the key that secrets are sealed with.
    pub keys: PathBuf,
    /// The folder of the backups that it makes by itself.
    pub backups: PathBuf,
    /// Where it listens, TCP and UDP.
    pub listen: SocketAddr,
    /// Where others reach it.
    pub advertise: SocketAddr,
    /// The times of a new cluster.
    pub settings: Settings,
    /// How a new cluster's containers are addressed and reached.
    pub network: NetworkPlan,
}

/// What every part of a coordinator shares.
#[derive(Clone)]
pub struct Coordinator {
    /// The replicated state and its group.
    pub consensus: Consensus,
    /// The agents' sessions.
    pub dispatch: Dispatch,
    /// The key of the secrets.
    pub seals: Arc<Seals>,
    /// The roots that every host is to trust.
    pub roots: watch::Receiver<Option<TrustedRoots>>,
    /// The binary that joining hosts get.
    pub binary: Arc<join::Binary>,
    /// The binaries for upgrades.
    pub binaries: Binaries,
    /// Where others reach this coordinator.
    pub advertise: SocketAddr,
    /// The folder of the backups that it makes by itself.
    pub backups: PathBuf,
    /// The folder of the files of its audit.
    pub audit: PathBuf,
}

/// Why a coordinator ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Asked,
    /// Its store can no longer be written.
    StoreFailed,
    /// It was removed from the group.
    Removed,
    /// It must not take part: its binary is too old for the cluster, or its state differs from that of the others.
    Unfit(Problem),
    /// One of its tasks ended unasked.
    TaskEnded(EndedTask),
}

/// Runs until `shutdown` completes, the store can no longer be written, or the others have removed it.
///
/// `renewed` tells when the keyring on disk has a new certificate.
pub async fn run(
    config: Config,
    keyring: Keyring,
    transport: Arc<dyn Transport>,
    renewed: watch::Receiver<()>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Ended, Problem> {
    let identity = OwnIdentity { keyring, directory: config.state.clone(), renewed };
    // Boxed, so that all of the coordinator is compiled in this crate, and not again in each that runs one.
    let running: BoxFuture<'static, _> = Box::pin(work(config, identity, transport, Box::pin(shutdown)));
    running.await
}

async fn work(
    config: Config,
    identity: OwnIdentity,
    transport: Arc<dyn Transport>,
    shutdown: BoxFuture<'static, ()>,
) -> Result<Ended, Problem> {
    let mut shutdown = shutdown;
    let started = tokio::select! {
        started = start(config, identity, transport) => match started {
            Err(problem) if problem.code == Code::MemberRefused => return Ok(Ended::Removed),
            started => started?,
        },
        () = &mut shutdown => return Ok(Ended::Asked),
    };
    let Running { consensus, mut tasks } = started;
    let stop = tasks.stop();
    let ended = tokio::select! {
        () = shutdown => Ended::Asked,
        () = stop.cancelled() => Ended::StoreFailed,
        () = consensus.was_removed() => Ended::Removed,
        problem = birth::is_too_old(consensus.clone()) => Ended::Unfit(problem),
        problem = consensus.is_unfit() => Ended::Unfit(problem),
        task = tasks.failed() => Ended::TaskEnded(task),
    };
    stop.cancel();
    consensus.shutdown().await;
    let panicked = tasks.end().await;
    Ok(panicked.filter(|_| ended == Ended::Asked).map_or(ended, Ended::TaskEnded))
}

/// A coordinator that runs; it ends with its tasks.
struct Running {
    consensus: Consensus,
    tasks: Supervisor,
}

async fn start(config: Config, identity: OwnIdentity, transport: Arc<dyn Transport>) -> Result<Running, Problem> {
    let mut tasks = Supervisor::new(CancellationToken::new());
    let keyring = &identity.keyring;
    let me = keyring.member.ok_or_else(|| birth::not_a_coordinator(keyring))?;
    let seals = Arc::new(Seals::load(&config.keys, keyring.cluster)?);
    let others: Vec<_> = keyring.coordinators.iter().copied().filter(|other| *other != config.advertise).collect();
    let (transport_of_raft, wall) = (transport.clone(), link::clock::now);
    let start = Start { me, directory: &config.state, transport: transport_of_raft, others: &others, wall };
    let consensus = take_part(start, &mut tasks).await?;
    let listener = listen(config.listen).await?;
    let (publish_roots, roots) = watch::channel(None);
    tasks.spawn("roots", trust::publish(consensus.clone(), publish_roots));
    let coordinator = Coordinator {
        consensus: consensus.clone(),
        dispatch: Dispatch::new(consensus.clone(), seals.clone()),
        seals,
        roots,
        binary: Arc::new(join::Binary::of_this_process()),
        binaries: Binaries::below(&config.state),
        advertise: config.advertise,
        backups: config.backups.clone(),
        audit: config.state.join("audit"),
    };
    birth::finish(&config, &consensus).await?;
    tasks.spawn("connections", server::serve_peers(coordinator.clone(), transport));
    spawn_work(&mut tasks, &coordinator);
    tasks.spawn_once("ended certificate", lapsed::run(coordinator.clone(), config.state.clone()));
    tasks.spawn("https", server::serve_https(coordinator, listener, identity));
    tracing::info!(member = me.0, listen = %config.listen, "the coordinator runs");
    Ok(Running { consensus, tasks })
}

/// Opens the store and takes part in the group, with an empty store if the one that is there is damaged.
async fn take_part(start: Start<'_>, tasks: &mut Supervisor) -> Result<Consensus, Problem> {
    let has_others = !start.others.is_empty();
    let started = match Consensus::start(start.clone(), tasks).await {
        Err(damage @ StoreError::Corrupt { .. }) if has_others => {
            raft::begin_anew(start.clone(), &damage).await?;
            Consensus::start(start, tasks).await
        }
        started => started,
    };
    started.map_err(birth::store_problem)
}

/// Begins what a coordinator does by itself, whoever connects.
fn spawn_work(tasks: &mut Supervisor, coordinator: &Coordinator) {
    let Coordinator { consensus, dispatch, seals, advertise, binaries, .. } = coordinator.clone();
    tasks.spawn("upgrade", upgrade::run(consensus.clone(), dispatch.clone(), binaries.clone()));
    tasks.spawn("binaries", upgrade::keep_binary(consensus.clone(), binaries));
    tasks.spawn("assignments", dispatch.clone().tell_hosts());
    tasks.spawn("directory", dispatch.clone().keep_directory());
    tasks.spawn("leases", dispatch::lease::run(dispatch));
    tasks.spawn("sealing key", seal::keep(seals.clone(), consensus.clone()));
    tasks.spawn("trust", trust::run(consensus.clone(), seals));
    tasks.spawn("scheduled backups", backup::scheduled(coordinator));
    tasks.spawn("audit", audit::run(consensus.clone(), coordinator.audit.clone()));
    tasks.spawn("planner", planner::run(consensus.clone()));
    tasks.spawn_once("own address", birth::keep_address(consensus.clone(), advertise));
    tasks.spawn_once("feature level", birth::announce_level(consensus));
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Problem> {
    TcpListener::bind(address).await.map_err(|error| birth::port_problem(address, &error.to_string()))
}
