//! `wharf upgrade` and `wharf version`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bytes::Bytes;
use common::{
    api::{ClusterView, HostBinary, Steer, SteerUpgrade, UpgradeRun, UpgradeView},
    error::{Code, Problem},
    id::HostId,
    upgrade::{BinaryInfo, MAX_BINARY},
    wire::PROTOCOLS,
};
use tokio::time::Instant;

use super::Session;
use crate::{
    args::{Format, Upgrade, UpgradeCommand},
    output::{self, Rows},
};

const PATH: &str = "/api/v1/upgrade";
const POLL: Duration = Duration::from_millis(300);
/// How long the coordinators may be silent: one that is alone is away for as long as it tries a binary that hangs.
const SILENT_FOR: Duration = Duration::from_secs(120);

/// Runs `wharf upgrade`.
pub async fn run(session: &Session, asked: Upgrade) -> Result<u8, Problem> {
    let steer = async |want, said: &str| {
        session.client.put(&format!("{PATH}/phase"), &SteerUpgrade { want }).await?;
        output::note(said);
        Ok(0)
    };
    match asked.command {
        None => begin(session, asked).await,
        Some(UpgradeCommand::Status) => status(session).await,
        Some(UpgradeCommand::Watch) => follow(session).await,
        Some(UpgradeCommand::Pause) => steer(Steer::Pause, "✓ paused; to go on: wharf upgrade resume").await,
        Some(UpgradeCommand::Resume) => {
            steer(Steer::Resume, "✓ resumed").await?;
            follow(session).await
        }
        Some(UpgradeCommand::Abort) => steer(Steer::Abort, "✓ ended; every host keeps what it runs").await,
    }
}

async fn begin(session: &Session, asked: Upgrade) -> Result<u8, Problem> {
    let unread = |why: String| Problem::new(Code::InvalidRequest, "The binary cannot be read").why(why);
    let path = asked.to.map_or_else(std::env::current_exe, Ok).map_err(|error| unread(error.to_string()))?;
    let (hash, bytes) = read(path.clone()).await.map_err(|error| unread(format!("{}: {error}", path.display())))?;
    if bytes.len() as u64 > MAX_BINARY {
        let why = format!("it has {} bytes, and the limit is {MAX_BINARY}", bytes.len());
        return Err(Problem::new(Code::TooLarge, "The binary was not sent").why(why));
    }
    let question = format!("Change every host of {} to {}?", session.context, path.display());
    if !output::confirm(&question, session.yes)? {
        return Ok(1);
    }
    let view: UpgradeView = session.client.upload(&format!("/api/v1/upgrades/{hash}"), bytes).await?;
    if let Some(run) = &view.upgrade {
        let hosts = counted(view.hosts.len());
        output::note(format!("  changing {hosts} to wharf {} ({})", run.version, run.hash.short()));
    }
    if asked.detach { Ok(0) } else { follow(session).await }
}

async fn read(path: PathBuf) -> std::io::Result<(common::upgrade::BinaryHash, Bytes)> {
    let reading = tokio::task::spawn_blocking(move || {
        let hash = link::binary::hash_of(&path)?;
        Ok((hash, Bytes::from(std::fs::read(&path)?)))
    });
    reading.await.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
}

/// Says what happens until the upgrade ends or pauses.
async fn follow(session: &Session) -> Result<u8, Problem> {
    let mut said: BTreeMap<HostId, String> = BTreeMap::new();
    let mut heard = Instant::now();
    loop {
        match session.client.get::<UpgradeView>(PATH).await {
            Ok(view) => {
                heard = Instant::now();
                view.hosts.iter().for_each(|host| say(host, &mut said));
                if let Some(end) = ended(view.upgrade) {
                    return end;
                }
            }
            // A coordinator that changes does not answer for a moment.
            Err(problem) if heard.elapsed() > SILENT_FOR => return Err(problem),
            Err(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

fn say(host: &HostBinary, said: &mut BTreeMap<HostId, String>) {
    let text = match host.step.as_str() {
        "fetching" => "fetches the binary".to_owned(),
        "trying" => "goes on with it".to_owned(),
        "done" => format!("✓ healthy with {}", host.version),
        "waiting" if host.liveness != "ready" => format!("! is {}; it changes when it is back", host.liveness),
        _ => return,
    };
    if said.get(&host.host) != Some(&text) {
        output::note(format!("  {}  {text}", host.name));
        said.insert(host.host, text);
    }
}

fn ended(run: Option<UpgradeRun>) -> Option<Result<u8, Problem>> {
    let Some(run) = run else {
        return Some(Err(
            Problem::new(Code::NotFound, "There was no upgrade yet").fix("Begin one: wharf upgrade --to FILE")
        ));
    };
    match run.phase.as_str() {
        "running" => None,
        "done" => {
            output::note(format!("✓ every host runs wharf {} ({})", run.version, run.hash.short()));
            Some(Ok(0))
        }
        "failed" => Some(Err(Problem::new(Code::UpgradeFailed, "The upgrade is paused")
            .why(run.why)
            .fix("When the cause is gone: wharf upgrade resume")
            .fix("Or end it: wharf upgrade abort, and go back: wharf upgrade --to FILE"))),
        phase => {
            output::note(format!("! the upgrade is {phase} {}", run.why).trim_end());
            Some(Ok(1))
        }
    }
}

async fn status(session: &Session) -> Result<u8, Problem> {
    let view: UpgradeView = session.client.get(PATH).await?;
    let row = |host: &HostBinary| {
        let hash = host.hash.map_or_else(|| "?".to_owned(), |hash| hash.short());
        let role = host.member.map_or_else(String::new, |member| format!("coordinator {member}"));
        vec![host.name.to_string(), host.step.clone(), host.version.clone(), hash, role, host.liveness.clone()]
    };
    let rows = view.hosts.iter().map(row).collect();
    let head = ["HOST", "STEP", "VERSION", "BINARY", "ROLE", "STATE"];
    output::list(session.format, &view, Rows { head: &head, narrow: 6, rows });
    match &view.upgrade {
        Some(run) => output::note(format!(
            "upgrade to wharf {} ({}): {}{}",
            run.version,
            run.hash.short(),
            run.phase,
            if run.why.is_empty() { String::new() } else { format!(", because {}", run.why) }
        )),
        None => output::note("there was no upgrade yet"),
    }
    Ok(0)
}

fn counted(hosts: usize) -> String {
    if hosts == 1 { "1 host".to_owned() } else { format!("{hosts} hosts") }
}

/// Prints what this binary is.
pub fn own_version(format: Format) {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        Format::Json | Format::Yaml => {
            let info =
                BinaryInfo { version: version.to_owned(), level: coordinator::LEVEL, protocols: PROTOCOLS.to_vec() };
            output::value(format, &info);
        }
        Format::Table | Format::Wide | Format::Name => output::line(version),
    }
}

/// Prints the versions of this command line, of the answering coordinator, and of the hosts.
pub async fn version(session: &Session) -> Result<u8, Problem> {
    let cluster: ClusterView = session.client.get("/api/v1/cluster").await?;
    let own = env!("CARGO_PKG_VERSION");
    // A token for one environment may not know the hosts, and an older coordinator does not know their binaries.
    let view = session.client.get::<UpgradeView>(PATH).await.ok();
    let mut mix: BTreeMap<(String, String), usize> = BTreeMap::new();
    for host in view.iter().flat_map(|view| &view.hosts) {
        let hash = host.hash.map_or_else(|| "?".to_owned(), |hash| hash.short());
        *mix.entry((host.version.clone(), hash)).or_default() += 1;
    }
    let mut rows = vec![
        vec!["client".to_owned(), own.to_owned(), String::new()],
        vec![format!("coordinator {}", cluster.member), cluster.version.clone(), String::new()],
    ];
    rows.extend(mix.iter().map(|((version, hash), count)| vec![counted(*count), version.clone(), hash.clone()]));
    let shown: Vec<_> = mix
        .iter()
        .map(|((version, binary), count)| serde_json::json!({ "version": version, "binary": binary, "hosts": count }))
        .collect();
    output::list(
        session.format,
        &serde_json::json!({ "client": own, "coordinator": cluster.version, "hosts": shown }),
        Rows { head: &["PART", "VERSION", "BINARY"], narrow: 3, rows },
    );
    if own.split('.').take(2).ne(cluster.version.split('.').take(2)) {
        output::note("! this command line and the coordinator have different minor versions");
    }
    if mix.len() > 1 {
        output::note("! the hosts run different versions; see: wharf upgrade status");
    }
    Ok(0)
}
