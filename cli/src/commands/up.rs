//! `wharf up`: starts wharf on this host.

use std::{
    fs::File,
    net::SocketAddr,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    api::{ClusterView, Settings},
    error::{Code, Problem},
    network::{Backend, NetworkPlan},
};
use link::keyring::Keyring;
use tokio::time::Instant;

use super::install;
use crate::{
    args::{Service, Up},
    client::Client,
    context::{Context, Contexts, certificate_text},
    host::{self, Roles},
    output,
};

const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Creates a cluster if this host does not belong to one, then runs the host's roles.
pub async fn up(up: &Up) -> Result<u8, Problem> {
    let keyring = match host::keyring(&up.service)? {
        Some(keyring) => keyring,
        None => make(up)?,
    };
    if !up.detach {
        return host::run(&up.service, keyring, Roles::All).await.map(|()| 0);
    }
    if install::is_running(&up.service.state) {
        output::note("✓ wharf already runs");
    } else {
        detach(&up.service, None)?;
    }
    let context = wait_until_ready(&keyring).await?;
    output::note(format!("✓ wharf runs: {} at {}", keyring.name, addresses(&keyring)));
    output::note(format!("  context {context}   try: wharf host ls   more hosts: wharf host add"));
    Ok(0)
}

fn make(up: &Up) -> Result<Keyring, Problem> {
    let default = Settings::default();
    let settings = Settings {
        heartbeat: up.heartbeat.unwrap_or(default.heartbeat),
        suspect_after: up.suspect_after.unwrap_or(default.suspect_after),
        down_after: up.down_after.unwrap_or(default.down_after),
        lost_after: up.lost_after.unwrap_or(default.lost_after),
    };
    let usual = NetworkPlan::default();
    let network = NetworkPlan {
        backend: up.overlay.unwrap_or(usual.backend),
        containers: up.cluster_cidr.unwrap_or(usual.containers),
        services: up.service_cidr.unwrap_or(usual.services),
    };
    if let Some(violation) = settings.violation().or_else(|| network.violation()) {
        return Err(Problem::new(Code::InvalidRequest, "The cluster was not made").why(violation));
    }
    check_network(&network)?;
    check_port(&up.service)?;
    let config = host::coordinator_config(&up.service, host::advertise(&up.service), settings, network);
    let newborn = coordinator::birth::make_cluster(&config, up.name.clone().unwrap_or_else(host::own_name))?;
    let token = newborn.admin.reveal();
    let keyring = newborn.keyring;
    use_context(&keyring, config.advertise, &token)?;
    output::note(format!("✓ created cluster {}", keyring.cluster));
    output::note(format!("  admin token, shown only once: {token}"));
    if config.advertise.ip().is_loopback() {
        output::note(
            "! Other hosts cannot reach this one: it has only a loopback address. Set one: wharf up --advertise ADDRESS:7443",
        );
    }
    Ok(keyring)
}

/// Refuses an overlay that this host cannot be part of.
fn check_network(network: &NetworkPlan) -> Result<(), Problem> {
    let routes = agent::network::routes().map_err(|e| {
        Problem::new(Code::InstallFailed, "The cluster was not made").why(format!("this host's routes: {e}"))
    })?;
    if let Some(why) = network.conflict(&routes) {
        return Err(Problem::new(Code::Conflict, "The cluster was not made")
            .why(format!("the cluster's address ranges overlap with this host's: {why}"))
            .fix("Choose other ranges with --cluster-cidr and --service-cidr"));
    }
    let missing = agent::network::missing(network.backend);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Problem::new(Code::InstallFailed, "The cluster was not made")
        .why(format!("the overlay needs {}, which this host does not have", missing.join(" and ")))
        .fix(format!("Install them: apt-get install {}", packages(network.backend)))
        .fix("Or make a cluster without an overlay: --overlay none"))
}

/// Makes the new cluster the one that commands are for.
pub fn use_context(keyring: &Keyring, server: SocketAddr, token: &str) -> Result<(), Problem> {
    let mut contexts = Contexts::load()?;
    let context = Context {
        cluster: keyring.cluster,
        servers: vec![server],
        authority: certificate_text(&keyring.root),
        token: token.to_owned(),
    };
    let name = keyring.name.as_str().to_owned();
    contexts.add(&name, context);
    contexts.current = Some(name);
    contexts.save()
}

/// Debian's packages of what an overlay needs.
pub fn packages(backend: Backend) -> &'static str {
    match backend {
        Backend::Wireguard => "nftables iptables wireguard-tools",
        Backend::Vxlan | Backend::None => "nftables iptables",
    }
}

/// Checks that the port is free before anything is created or started, and names the process that holds it.
pub fn check_port(service: &Service) -> Result<(), Problem> {
    match std::net::TcpListener::bind(service.listen) {
        Ok(_) => Ok(()),
        Err(error) => Err(coordinator::birth::port_problem(service.listen, &error.to_string())),
    }
}

/// Starts this host's service in the background, in its own process group.
pub fn detach(service: &Service, installed: Option<&std::path::Path>) -> Result<(), Problem> {
    let failed = |why: String| Problem::new(Code::InstallFailed, "wharf cannot be started in the background").why(why);
    let program = match installed {
        Some(installed) => installed.to_owned(),
        None => std::env::current_exe().map_err(|e| failed(e.to_string()))?,
    };
    let log_path = service.state.join("wharf.log");
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(|e| failed(format!("{}: {e}", log_path.display())))?;
    let errors = log.try_clone().map_err(|e| failed(e.to_string()))?;
    let mut command = Command::new(program);
    command
        .arg("up")
        .args(arguments(service))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .current_dir("/");
    command.spawn().map_err(|e| failed(e.to_string()))?;
    output::note(format!("  Its log: {}", log_path.display()));
    Ok(())
}

/// The arguments that start the same service again.
pub fn arguments(service: &Service) -> Vec<String> {
    let mut arguments = vec![
        "--state".to_owned(),
        service.state.display().to_string(),
        "--keys".to_owned(),
        service.keys.display().to_string(),
        "--listen".to_owned(),
        service.listen.to_string(),
        "--docker".to_owned(),
        service.docker.clone(),
    ];
    if let Some(backups) = &service.backups {
        arguments.extend(["--backups".to_owned(), backups.display().to_string()]);
    }
    if let Some(advertise) = service.advertise {
        arguments.extend(["--advertise".to_owned(), advertise.to_string()]);
    }
    arguments
}

fn addresses(keyring: &Keyring) -> String {
    keyring.coordinators.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Waits until the coordinator leads and this host is ready for instances.
pub async fn wait_until_ready(keyring: &Keyring) -> Result<String, Problem> {
    let contexts = Contexts::load()?;
    let found = contexts.contexts.iter().find(|(_, context)| context.cluster == keyring.cluster);
    let Some((name, context)) = found else { return Ok("(none here)".to_owned()) };
    let client = Client::of_context(context)?;
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let ready = async {
            let cluster: ClusterView = client.get("/api/v1/cluster").await?;
            let hosts: common::api::List<common::api::HostView> = client.get("/api/v1/hosts?stale").await?;
            let host_ready = hosts.items.iter().any(|host| host.id == keyring.host && host.liveness.word() == "ready");
            Ok::<bool, Problem>(cluster.leader.is_some() && host_ready)
        };
        match ready.await {
            Ok(true) => return Ok(name.clone()),
            Err(problem) if Instant::now() > deadline => return Err(problem),
            Ok(false) if Instant::now() > deadline => {
                return Err(Problem::new(Code::ResultUnknown, format!("wharf was not ready within {READY_TIMEOUT:?}"))
                    .fix("Read its log: wharf.log in the state folder"));
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
