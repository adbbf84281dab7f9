//! This host's service: all roles in its keyring, in one process.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use agent::{
    RunError,
    files::{MEMORY, Places},
    identity::Learned,
    runtime::Docker,
    upgrade::OwnBinary,
};
use common::{
    api::Settings,
    error::{Code, Problem},
    name::Name,
    network::NetworkPlan,
};
use coordinator::Ended;
use link::{Transport, keyring::Keyring, quic::Quic};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    args::Service,
    upgrade::{Next, Own},
};

/// The roles that a process takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// All roles in the keyring.
    All,
    /// Only the coordinator.
    Coordinator,
    /// Only the agent.
    Agent,
}

/// Reads the keyring from a state folder. Fails if other users can read the folder.
pub fn keyring(service: &Service) -> Result<Option<Keyring>, Problem> {
    link::private::check_state(&service.state)?;
    // A restoration or a recovery may have been interrupted at its end.
    coordinator::backup::finish(&service.state)?;
    Keyring::load(&service.state).map_err(|error| {
        Problem::new(Code::InstallFailed, "This host's identity cannot be read")
            .why(error.to_string())
            .fix("If the file is damaged: wharf uninstall, then join again")
    })
}

/// The configuration of a coordinator on this host.
pub fn coordinator_config(
    service: &Service,
    advertise: SocketAddr,
    settings: Settings,
    network: NetworkPlan,
) -> coordinator::Config {
    let Service { state, keys, backups, listen, .. } = service.clone();
    let backups = backups.unwrap_or_else(|| coordinator::backup::beside(&state));
    coordinator::Config { state, keys, backups, listen, advertise, settings, network }
}

/// The address at which other hosts most likely reach this host.
pub fn advertise(service: &Service) -> SocketAddr {
    let given = service.advertise.or((!service.listen.ip().is_unspecified()).then_some(service.listen));
    given.unwrap_or_else(|| {
        // No packet is sent: the kernel only tells which source address it would use.
        let outside = SocketAddr::from(([192, 0, 2, 1], 9));
        let address = link::socket::local_address_towards(outside).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        SocketAddr::new(address, service.listen.port())
    })
}

/// A valid name made from this host's hostname.
pub fn own_name() -> Name {
    let hostname = agent::facts::hostname().to_lowercase();
    let allowed: String =
        hostname.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).take(63).collect();
    Name::parse(allowed.trim_matches('-')).unwrap_or_else(|_| Name::parse("host").expect("it is a name"))
}

/// Runs this host's service until the process is asked to stop, or goes on with another binary.
pub async fn run(service: &Service, keyring: Keyring, roles: Roles) -> Result<(), Problem> {
    let mut own = Own::find(&service.state, roles != Roles::Coordinator)?;
    let ended = run_with(&mut own, service, keyring, roles).await;
    match ended {
        Ok(None) => {
            note_end(&own, "the service was stopped while it was tried");
            Ok(())
        }
        Ok(Some(Next::Change(hash))) => {
            tracing::info!(%hash, "going on with another binary");
            Err(own.change())
        }
        Ok(Some(Next::Back(why))) => {
            tracing::warn!(why, "going back to the binary before");
            Err(own.back(&why))
        }
        Err(problem) if own.is_trial() => {
            tracing::warn!(%problem, "going back to the binary before");
            Err(own.back(&problem.to_string()))
        }
        Err(problem) => Err(problem),
    }
}

/// Ends a trial, if this is one.
fn note_end(own: &Own, why: &str) {
    if let Err(error) = own.give_up(why) {
        tracing::warn!(%error, "the end of the trial could not be stored");
    }
}

/// Runs the service until it should end; returns why, if it was not asked to stop.
async fn run_with(own: &mut Own, service: &Service, keyring: Keyring, roles: Roles) -> Result<Option<Next>, Problem> {
    let coordinates = keyring.member.is_some() && roles != Roles::Agent;
    let quic = Arc::new(transport(service, &keyring, coordinates)?);
    if !coordinates {
        agent::identity::renew_if_ended(&service.state, &quic).await;
    }
    let stop = CancellationToken::new();
    let (renewals, renewed) = watch::channel(());
    let known = watch::Sender::new(keyring.coordinators.clone());
    let session = watch::Sender::default();
    let learned = Learned { coordinators: known.subscribe(), session: session.subscribe() };
    let side = Side { service, keyring, quic: quic.clone(), known, session, binary: own.for_agent() };
    let keeping = agent::identity::keep(service.state.clone(), quic, renewals, learned);
    // Without a service manager nobody waits for this.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let coordinates = coordinates.then_some(renewed);
    let mut both = std::pin::pin!(side.run(coordinates, roles != Roles::Coordinator, &stop));
    let next = tokio::select! {
        result = &mut both => return result.map(|()| None),
        () = keeping => None,
        () = stop_signal() => None,
        next = own.next() => Some(next),
    };
    tracing::info!("stopping");
    stop.cancel();
    match (next, both.await) {
        (Some(next), Err(problem)) => {
            tracing::warn!(%problem, "a part of this host's service did not end cleanly");
            Ok(Some(next))
        }
        (next, ended) => ended.map(|()| next),
    }
}

/// A role that the process does not take ends when it is stopped.
async fn unused(stop: &CancellationToken) -> Result<(), Problem> {
    stop.cancelled().await;
    Ok(())
}

/// The transport of both roles: coordinators listen, an agent alone only dials.
fn transport(service: &Service, keyring: &Keyring, coordinates: bool) -> Result<Quic, Problem> {
    let failed = |error: link::LinkError| match error {
        link::LinkError::Broken(io) if coordinates => coordinator::birth::port_problem(service.listen, &io.to_string()),
        other => Problem::new(Code::InstallFailed, "The network cannot be used").why(other.to_string()),
    };
    let quic = if coordinates {
        Quic::listen(service.listen, keyring.credentials())
    } else {
        let any: SocketAddr = if keyring.coordinators.iter().any(SocketAddr::is_ipv6) {
            ([0u16; 8], 0).into()
        } else {
            ([0, 0, 0, 0], 0).into()
        };
        Quic::dial_only(any, keyring.credentials())
    };
    quic.map_err(failed)
}

/// What the roles of a host are made of.
struct Side<'a> {
    service: &'a Service,
    keyring: Keyring,
    quic: Arc<Quic>,
    /// The coordinators of the cluster, as the agent learns them.
    known: watch::Sender<Vec<SocketAddr>>,
    /// The connection of the agent's session.
    session: watch::Sender<Option<link::Connection>>,
    /// The binary of this process.
    binary: OwnBinary,
}

impl Side<'_> {
    /// Runs the roles until they are stopped: a coordinator that hears of new certificates, and an agent.
    async fn run(
        &self,
        coordinates: Option<watch::Receiver<()>>,
        has_agent: bool,
        stop: &CancellationToken,
    ) -> Result<(), Problem> {
        let stop_coordinating = CancellationToken::new();
        let coordinating = async {
            match coordinates {
                Some(renewed) => self.coordinate(renewed, &stop_coordinating).await,
                None => unused(&stop_coordinating).await,
            }
        };
        // The agent ends first: the coordinator beside it may have to write down that it leaves.
        let running = async {
            let ended = if has_agent { self.run_agent(stop).await } else { unused(stop).await };
            if stop.is_cancelled() {
                stop_coordinating.cancel();
            }
            ended
        };
        tokio::try_join!(coordinating, running).map(drop)
    }

    async fn coordinate(&self, renewed: watch::Receiver<()>, stop: &CancellationToken) -> Result<(), Problem> {
        let (service, keyring) = (self.service, self.keyring.clone());
        let advertise = service.advertise.or(keyring.advertise).unwrap_or_else(|| advertise(service));
        let config = coordinator_config(service, advertise, Settings::default(), NetworkPlan::default());
        let transport: Arc<dyn Transport> = self.quic.clone();
        match coordinator::run(config, keyring, transport, renewed, stop.clone().cancelled_owned()).await? {
            Ended::Asked => Ok(()),
            Ended::Removed => {
                // The host's agent goes on, with the coordinators that there are.
                tracing::error!("this coordinator was removed from the group and no longer serves requests");
                stop.cancelled().await;
                Ok(())
            }
            Ended::Unfit(problem) => Err(problem),
            Ended::TaskEnded(task) => {
                Err(Problem::new(Code::Internal, "The coordinator stopped").why(task.to_string()))
            }
            Ended::StoreFailed => {
                Err(Problem::new(Code::StoreFailed, "The coordinator stopped because it cannot use its store")
                    .fix("Free some space, or check the disk: df -h, dmesg"))
            }
        }
    }

    async fn run_agent(&self, stop: &CancellationToken) -> Result<(), Problem> {
        let (service, keyring) = (self.service, &self.keyring);
        let places = Places::new(&service.state, Path::new(MEMORY));
        let docker = Docker::new(&service.docker, keyring.cluster, places.clone());
        let config = agent::Config {
            state: service.state.clone(),
            places,
            cluster: keyring.cluster,
            host: keyring.host,
            coordinators: self.known.clone(),
            session: self.session.clone(),
            address: service.advertise.or(keyring.advertise).map(|advertise| advertise.ip()),
            keeps_network: true,
            binary: Some(self.binary.clone()),
        };
        let ended = agent::run(config, self.quic.clone(), Arc::new(docker), stop.clone().cancelled_owned()).await;
        ended.map_err(|error| match error {
            RunError::TaskEnded(task) => Problem::new(Code::Internal, "The agent stopped").why(task.to_string()),
            error => Problem::new(Code::InstallFailed, "The agent cannot run").why(error.to_string()),
        })
    }
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
