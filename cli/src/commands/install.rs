//! `wharf agent install`: joins this host to a cluster. The line that `wharf host add` prints runs it.

use std::{
    fs::DirBuilder,
    io::Read,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use agent::{
    files::Places,
    network::OwnKey,
    runtime::{ContainerRuntime, Docker},
};
use common::{
    api::{JoinReply, JoinRequest},
    error::{Code, Problem},
    id::MemberId,
    network::{Backend, HostRoute},
    secret::Secret,
    time::Timestamp,
    token::{InvalidToken, JoinToken, SecretHash},
};
use hyper::Method;
use link::{
    Transport,
    call::Caller,
    file,
    identity::{join_proof, make_request, pin_of, random_bytes},
    keyring::{Keyring, forget, pending_key},
    quic::Quic,
};
use tokio::time::Instant;

use super::up;
use crate::{
    args::{Coordinators, Install, Service},
    client::Client,
    host::{self, Roles},
    output,
    pinned::PinnedRoot,
};

const UNIT: &str = include_str!("wharf.service");
const UNIT_PATH: &str = "/etc/systemd/system/wharf.service";

fn failed(step: &str, why: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InstallFailed, format!("The installation failed while {step}"))
        .why(why.to_string())
        .fix("Paste the line again: it continues where it stopped")
}

/// How long a new coordinator may take until it votes, before the command reports a problem.
const VOTES_WITHIN: Duration = Duration::from_secs(30);

/// Joins this host and starts its service.
pub async fn install(install: &Install) -> Result<u8, Problem> {
    let token = read_token(install)?;
    must_be_root("wharf agent install")?;
    let keyring = match host::keyring(&install.service)? {
        Some(known) => already_joined(install, &token, known)?,
        None => None,
    };
    let keyring = match keyring {
        Some(keyring) => keyring,
        None => join(install, &token).await?,
    };
    let Install { service, binary, foreground, .. } = install;
    let code = start_service(&Start { service, binary, foreground: *foreground }, keyring.clone()).await?;
    match keyring.member.filter(|_| code == 0 && !install.foreground) {
        Some(member) => wait_until_it_votes(install, &keyring, member).await.map(|()| code),
        None => Ok(code),
    }
}

/// Waits until this host's coordinator is a voter. Before that the cluster is no more fault-tolerant than without it.
async fn wait_until_it_votes(install: &Install, keyring: &Keyring, member: MemberId) -> Result<(), Problem> {
    let any = SocketAddr::new(if install.coordinator.is_ipv6() { [0; 8].into() } else { [0; 4].into() }, 0);
    let quic = Quic::dial_only(any, keyring.credentials()).map_err(|e| failed("asking the other coordinators", e))?;
    let others: Vec<Caller> = {
        let quic: Arc<dyn Transport> = Arc::new(quic);
        let others = keyring.coordinators.iter().filter(|address| keyring.advertise != Some(**address));
        others.map(|address| Caller::new(quic.clone(), *address)).collect()
    };
    let deadline = Instant::now() + VOTES_WITHIN;
    while Instant::now() < deadline {
        for other in &others {
            let group = coordinator::raft::group_of(other).await.ok().flatten().unwrap_or_default();
            if group.iter().any(|known| known.id == member && known.votes) {
                output::note(format!("✓ coordinator {member} votes"));
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let address = keyring.advertise.map_or_else(String::new, |address| format!(" at {address}"));
    Err(Problem::new(Code::ResultUnknown, format!("The service runs, but coordinator {member} does not vote yet"))
        .why(format!("the other coordinators do not reach it{address} by UDP, or it has not caught up with them"))
        .fix("Open the port for UDP between the coordinators; it then votes by itself; to check: wharf member ls")
        .fix(format!("Or remove it, from another coordinator: wharf member rm {member}")))
}

fn read_token(install: &Install) -> Result<JoinToken, Problem> {
    let unreadable = |why: String| Problem::new(Code::TokenMalformed, "The join token cannot be read").why(why);
    let text = match (&install.token, &install.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) if path == Path::new("-") => {
            let mut text = String::new();
            std::io::stdin().take(4096).read_to_string(&mut text).map_err(|e| unreadable(e.to_string()))?;
            text
        }
        (None, Some(path)) => {
            std::fs::read_to_string(path).map_err(|e| unreadable(format!("{}: {e}", path.display())))?
        }
        (None, None) => return Err(unreadable("there is none".into()).fix("Pass it with --token-file")),
    };
    text.trim().parse().map_err(|error: InvalidToken| {
        let what = match &error {
            InvalidToken::Length { found, expected } if found < expected => {
                format!("The pasted token is cut short: {found} of {expected} characters")
            }
            InvalidToken::Length { found, expected } => {
                format!("The pasted token is too long: {found} instead of {expected} characters")
            }
            other => format!("The pasted token is invalid: {other}"),
        };
        Problem::new(Code::TokenMalformed, what).why("nothing was sent").fix("Copy the whole line again")
    })
}

/// Checks whether this host already belongs to a cluster. Joining the same cluster again changes nothing; joining
/// another one is refused.
fn already_joined(install: &Install, token: &JoinToken, known: Keyring) -> Result<Option<Keyring>, Problem> {
    let is_of_this_cluster = pin_of(&known.root).is_ok_and(|pin| pin == token.pin);
    if is_of_this_cluster && install.rejoin {
        set_aside(&install.service.state)?;
        return Ok(None);
    }
    if is_of_this_cluster {
        output::note(format!("✓ already joined as {}; the token was not used", known.name));
        return Ok(Some(known));
    }
    if !install.leave_first {
        return Err(Problem::new(Code::OtherCluster, "This host belongs to another cluster")
            .why(format!("it is {} of the cluster {}", known.name, known.cluster))
            .fix("Leave that cluster: add --leave-first to the end of the line, after --")
            .fix("Or remove the host from that cluster: wharf host rm"));
    }
    let state = &install.service.state;
    for name in ["raft", "raft-made", "snapshots", "ledger"] {
        let path = state.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed
            .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
            .map_err(|e| failed("leaving the other cluster", e))?;
    }
    forget(state).map_err(|e| failed("leaving the other cluster", e))?;
    output::note(format!("  left the cluster {}", known.cluster));
    Ok(None)
}

/// Puts this host's identity in the cluster aside, with the store of its former coordinator: it joins as a new host, in
/// the place of the old one.
fn set_aside(state: &Path) -> Result<(), Problem> {
    let step = "putting the old identity aside";
    if is_running(state) {
        return Err(Problem::new(Code::Conflict, "This host did not join again")
            .why("wharf runs on it, with the identity that is to be replaced")
            .fix("Stop it; containers go on: systemctl stop wharf   then paste the line again"));
    }
    for name in ["raft", "raft-made", "snapshots", "identity", "host.key"] {
        let path = state.join(name);
        let free = (1..).map(|number| state.join(format!("{name}.before-{number}"))).find(|aside| !aside.exists());
        if let Some(aside) = free.filter(|_| path.exists()) {
            std::fs::rename(&path, &aside).map_err(|e| failed(step, e))?;
            output::note(format!("  kept: {}", aside.display()));
        }
    }
    Ok(())
}

async fn join(install: &Install, token: &JoinToken) -> Result<Keyring, Problem> {
    let service = &install.service;
    check_docker(&service.docker).await?;
    let key = pending_key(&service.state).map_err(|e| failed("making this host's key", e))?;
    let request = make_request(&key).map_err(|e| failed("making the certificate request", e))?;
    let (pinned, tls) = PinnedRoot::new(token.pin).map_err(|e| failed("setting up TLS", e))?;
    let client = Client::before_trust(install.coordinator, tls);
    let nonce = common::base32::encode(&random_bytes::<16>());
    // The TLS handshake must come first, because it reveals which cluster the proof is for.
    let cluster = prove(&client, &pinned).await?;
    let proof = join_proof(&SecretHash::of(&token.secret), &request, cluster, &nonce);
    let towards = link::socket::local_address_towards(install.coordinator)
        .map_err(|e| failed("finding this host's address", e))?;
    let address = service.advertise.unwrap_or_else(|| std::net::SocketAddr::new(towards, service.listen.port()));
    let asked = JoinRequest {
        token: token.id,
        csr: common::hex::encode(&request),
        nonce,
        proof: common::hex::encode(&proof),
        name: install.name.clone().unwrap_or_else(host::own_name),
        clock: now(),
        address,
        wireguard: agent::network::missing(Backend::Wireguard).is_empty(),
        routes: routes()?,
    };
    let reply: JoinReply = client.send_json(Method::POST, "/api/v1/join", &asked).await?;
    // Where a coordinator is reached is agreed; another host may be given another address any day.
    let advertise = service.advertise.or(reply.member.map(|_| address));
    let keyring = Keyring { advertise, ..keyring_of(reply, key, token)? };
    keyring.save(&service.state).map_err(|e| failed("storing this host's identity", e))?;
    warn_of_missing_programs();
    let role = if keyring.member.is_some() { "coordinator" } else { "agent" };
    output::note(format!("✓ joined as {} ({role}), host {}", keyring.name, keyring.host));
    Ok(keyring)
}

fn warn_of_missing_programs() {
    let missing = agent::network::missing(Backend::Vxlan);
    if !missing.is_empty() {
        let missing = missing.join(" and ");
        output::note(format!(
            "! {missing} is missing: if the cluster has an overlay, no container can start on this host"
        ));
        output::note(format!("  to install it: apt-get install {}", up::packages(Backend::Vxlan)));
    }
}

/// As many of this host's routes as a coordinator looks at.
fn routes() -> Result<Vec<HostRoute>, Problem> {
    let mut routes = agent::network::routes().map_err(|e| failed("reading this host's routes", e))?;
    routes.truncate(JoinRequest::MOST_ROUTES);
    Ok(routes)
}

/// The keyring that a coordinator's answer gives to this host's key, if it comes from the cluster of the token.
fn keyring_of(reply: JoinReply, key: Secret<Vec<u8>>, token: &JoinToken) -> Result<Keyring, Problem> {
    let unpem =
        |text: &str| pem::parse(text).map(|pem| pem.into_contents()).map_err(|e| failed("reading the certificate", e));
    let root = unpem(&reply.authority)?;
    if !pin_of(&root).is_ok_and(|pin| pin == token.pin) {
        return Err(Problem::new(Code::WrongAuthority, "The answer does not come from the cluster of the token"));
    }
    Ok(Keyring {
        cluster: reply.cluster,
        host: reply.host,
        member: reply.member,
        name: reply.name,
        certificate: unpem(&reply.certificate)?,
        key,
        root,
        coordinators: reply.coordinators,
        advertise: None,
        further: Default::default(),
    })
}

/// Connects once, so that the coordinator proves which cluster it speaks for before the host
/// proves anything.
async fn prove(client: &Client, pinned: &PinnedRoot) -> Result<common::id::ClusterId, Problem> {
    client.send(Method::GET, "/ca", bytes::Bytes::new()).await?;
    pinned.cluster().ok_or_else(|| Problem::new(Code::WrongAuthority, "The coordinator did not prove its cluster"))
}

async fn check_docker(socket: &str) -> Result<(), Problem> {
    let missing = |why: String| {
        Problem::new(Code::DockerMissing, "Docker Engine does not answer on this host")
            .why(format!("{socket}: {why}"))
            .fix("Install it: apt-get install docker.io   and start it: systemctl start docker")
    };
    let nowhere = Places::new(Path::new("/"), Path::new("/"));
    let docker = Docker::new(socket, common::id::ClusterId([0; 10]), nowhere);
    docker.facts().await.map(drop).map_err(missing)
}

fn now() -> Timestamp {
    link::clock::now()
}

/// The service to install and start.
pub struct Start<'a> {
    /// Its options.
    pub service: &'a Service,
    /// The path to install the binary to.
    pub binary: &'a PathBuf,
    /// Whether it runs in the foreground, and nothing is installed.
    pub foreground: bool,
}

/// Installs the binary and starts the service: under systemd if it is there, else in the background.
pub async fn start_service(start: &Start<'_>, keyring: Keyring) -> Result<u8, Problem> {
    let Start { service, binary, foreground } = *start;
    if keyring.member.is_some() && !is_running(&service.state) {
        up::check_port(service)?;
    }
    if foreground {
        return host::run(service, keyring, Roles::All).await.map(|()| 0);
    }
    install_binary(binary)?;
    if Path::new("/run/systemd/system").exists() {
        start_unit(service, binary)?;
        return Ok(0);
    }
    if is_running(&service.state) {
        output::note("✓ wharf already runs");
        return Ok(0);
    }
    // Not this process's own binary: that of a join script is removed when the script ends.
    up::detach(service, Some(binary))?;
    output::note("✓ wharf runs in the background, because there is no systemd");
    output::note(format!(
        "  To start it at boot, add to root's crontab: @reboot {} up {}",
        binary.display(),
        up::arguments(service).join(" ")
    ));
    Ok(0)
}

/// Refuses a user who may not write what a command that installs writes.
pub fn must_be_root(command: &str) -> Result<(), Problem> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Problem::new(Code::NotRoot, format!("{command} must run as root"))
        .why("it writes the binary, the service and the state folder")
        .fix("Run it with sudo"))
}

/// Writes the unit of the service and starts it under systemd.
fn start_unit(service: &Service, binary: &Path) -> Result<(), Problem> {
    // systemd does not start a unit whose ReadWritePaths do not exist.
    link::private::ensure_folder(&service.keys).map_err(|e| failed("making the folder of the sealing key", e))?;
    let backups = service.backups.clone().unwrap_or_else(|| coordinator::backup::beside(&service.state));
    link::private::ensure_folder(&backups).map_err(|e| failed("making the folder of backups", e))?;
    let unit = UNIT
        .replace("@BINARY@", &binary.display().to_string())
        .replace("@KEYS@", &service.keys.display().to_string())
        .replace("@BACKUPS@", &backups.display().to_string())
        .replace("@FOLDER@", &binary.parent().unwrap_or(Path::new("/")).display().to_string())
        .replace("@ARGUMENTS@", &up::arguments(service).join(" "));
    file::replace(Path::new(UNIT_PATH), unit.as_bytes()).map_err(|e| failed("writing the service unit", e))?;
    for arguments in [["daemon-reload"].as_slice(), &["enable", "wharf.service"], &["restart", "wharf.service"]] {
        run("systemctl", arguments)?;
    }
    output::note("✓ the service wharf runs: systemctl status wharf");
    Ok(())
}

/// Whether a running wharf process uses the state folder.
pub fn is_running(state: &Path) -> bool {
    !service_processes(state).is_empty()
}

/// The ids of the processes that run a wharf service with this state folder.
pub fn service_processes(state: &Path) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let wanted = state.display().to_string();
    let me = std::process::id().to_string();
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let words: Vec<String> = std::fs::read(entry.path().join("cmdline"))
                .ok()?
                .split(|b| *b == 0)
                .map(|w| String::from_utf8_lossy(w).into_owned())
                .collect();
            let serves =
                words.first()?.ends_with("wharf") && matches!(words.get(1)?.as_str(), "up" | "coordinator" | "agent");
            let given = words.iter().position(|word| word == "--state").and_then(|at| words.get(at + 1));
            let same = given.map_or(wanted == crate::args::STATE, |given| *given == wanted);
            (serves && same && pid != me && words.get(2).map(String::as_str) != Some("install"))
                .then(|| pid.parse().ok())?
        })
        .collect()
}

fn install_binary(target: &PathBuf) -> Result<(), Problem> {
    let step = "copying the binary";
    let source = std::env::current_exe().map_err(|e| failed(step, e))?;
    if source == *target {
        return Ok(());
    }
    let bytes = std::fs::read(&source).map_err(|e| failed(step, e))?;
    if file::read(target).map_err(|e| failed(step, e))?.is_some_and(|existing| existing == bytes) {
        return Ok(());
    }
    // All users may run the binary, so a new folder for it must be readable for all.
    if let Some(folder) = target.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(|e| failed(step, e))?;
    }
    file::replace(target, &bytes).map_err(|e| failed(step, e))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(target, mode).map_err(|e| failed(step, e))
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Problem> {
    let step = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().map_err(|e| failed(&step, e))?;
    if output.status.success() { Ok(()) } else { Err(failed(&step, String::from_utf8_lossy(&output.stderr).trim())) }
}

/// Notes where the coordinators are. A running agent that reaches none looks there by itself.
pub fn coordinators(given: &Coordinators) -> Result<u8, Problem> {
    link::private::check_state(&given.state)?;
    let refuse = |why: String| {
        Problem::new(Code::NotFound, "The coordinators were not written down")
            .why(why)
            .fix("Join the host: run wharf host add on a host of the cluster, and paste the printed line here")
    };
    let keyring = Keyring::load(&given.state).map_err(|e| refuse(e.to_string()))?;
    let keyring = keyring.ok_or_else(|| refuse("this host does not belong to a cluster".to_owned()))?;
    let keyring = Keyring { coordinators: given.addresses.clone(), ..keyring };
    keyring.save(&given.state).map_err(|e| refuse(e.to_string()))?;
    output::note(format!("✓ {} looks for its cluster there", keyring.name));
    Ok(0)
}

/// Deletes this host's identity.
pub fn reset_identity(state: &Path, yes: bool) -> Result<u8, Problem> {
    if !output::confirm("Delete this host's identity? It must join again.", yes)? {
        return Ok(1);
    }
    let forgotten = forget(state).and_then(|()| OwnKey::forget(state));
    forgotten.map_err(|e| failed("forgetting the identity", e))?;
    output::note("✓ deleted; to join again, paste a new line from: wharf host add");
    Ok(0)
}

/// Stops and removes the systemd unit, if it exists.
pub fn remove_unit() -> Result<bool, Problem> {
    if !Path::new(UNIT_PATH).exists() {
        return Ok(false);
    }
    run("systemctl", &["disable", "--now", "wharf.service"])?;
    std::fs::remove_file(UNIT_PATH).map_err(|e| failed("removing the unit", e))?;
    run("systemctl", &["daemon-reload"])?;
    Ok(true)
}
