//! `wharf uninstall`: removes what wharf put on this host, and nothing else. It works without a coordinator.

use std::{path::Path, time::Duration};

use agent::{
    FOR_GOOD,
    files::{MEMORY, forget_memory},
    runtime::docker::cleanup,
};
use common::{
    error::{Code, Problem},
    id::ClusterId,
};
use link::keyring::Keyring;

mod group;

use super::install::{remove_unit, service_processes};
use crate::{args::Uninstall, output};

const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Lists what it will remove, asks, and continues after errors.
pub async fn uninstall(args: &Uninstall, yes: bool) -> Result<u8, Problem> {
    if !rustix::process::geteuid().is_root() {
        return Err(Problem::new(Code::NotRoot, "wharf uninstall must run as root").fix("Run it with sudo"));
    }
    let keyring = Keyring::load(&args.state).ok().flatten();
    let cluster = keyring.as_ref().map(|keyring| keyring.cluster);
    let found = match cluster {
        Some(cluster) => cleanup::find(&args.docker, cluster).await,
        None => Ok(cleanup::Found::default()),
    };
    show(args, &found);
    let group = match &keyring {
        Some(keyring) => group::Membership::find(keyring).await?,
        None => None,
    };
    if let Some(group) = &group {
        output::note(group.note());
    }
    if !output::confirm("Remove it?", yes)? {
        return Ok(1);
    }
    if let Some(group) = group {
        group.leave().await;
    }
    let errors = remove_all(args, cluster, found).await;
    if errors.is_empty() {
        output::note("✓ wharf is removed; Docker and its settings were not changed");
        return Ok(0);
    }
    let problem = Problem::new(Code::InstallFailed, "wharf could not be removed completely");
    Err(errors.into_iter().fold(problem, Problem::why).fix("Fix the causes and run the command again"))
}

/// Says what will be removed.
fn show(args: &Uninstall, found: &Result<cleanup::Found, String>) {
    output::note("This will be removed from this host:");
    match found {
        Ok(found) => output::note(format!(
            "  {} containers, {} networks{}",
            found.containers.len(),
            found.networks.len(),
            volumes_note(found, args.purge_volumes)
        )),
        Err(why) => output::note(format!("  no containers, because Docker does not answer ({why})")),
    }
    let (state, keys, binary) = (args.state.display(), args.keys.display(), args.binary.display());
    output::note(format!("  the service, {state}, {binary}, and a coordinator's sealing key in {keys}"));
}

/// Removes all of it, and goes on through errors, which it gives back.
async fn remove_all(
    args: &Uninstall,
    cluster: Option<ClusterId>,
    found: Result<cleanup::Found, String>,
) -> Vec<String> {
    let mut errors = Vec::new();
    // Tells the stopping agent that it will not come back.
    let for_good = std::fs::write(args.state.join(FOR_GOOD), b"");
    errors.extend(for_good.err().filter(|_| args.state.exists()).map(|error| format!("{FOR_GOOD}: {error}")));
    errors.extend(remove_unit().err().map(|problem| problem.to_string()));
    errors.extend(stop_processes(&args.state).await);
    if let Ok(found) = found {
        errors.extend(cleanup::remove(&args.docker, found, args.purge_volumes).await);
    }
    errors.extend(agent::network::remove().await);
    let beside = crate::upgrade::left_beside(&args.binary);
    for path in [&args.state, &args.binary].into_iter().chain(&beside) {
        errors.extend(remove(path).err().map(|error| format!("{}: {error}", path.display())));
    }
    errors.extend(forget_memory(Path::new(MEMORY)).err().map(|error| format!("{MEMORY}: {error}")));
    let key = cluster.map(|cluster| coordinator::seal::remove(&args.keys, cluster));
    errors.extend(key.and_then(Result::err).map(|error| format!("{}: {error}", args.keys.display())));
    errors
}

fn volumes_note(found: &cleanup::Found, purge: bool) -> String {
    match (found.volumes.len(), purge) {
        (0, _) => String::new(),
        (count, true) => format!(", {count} volumes WITH THEIR DATA"),
        (count, false) => format!("; {count} volumes stay (--purge-volumes removes them)"),
    }
}

async fn stop_processes(state: &Path) -> Option<String> {
    for pid in service_processes(state) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid)
            && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
        {
            return Some(format!("process {pid:?}: {error}"));
        }
    }
    let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
    while !service_processes(state).is_empty() {
        if tokio::time::Instant::now() > deadline {
            return Some(format!("the service did not stop within {STOP_TIMEOUT:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

fn remove(path: &Path) -> std::io::Result<()> {
    use std::io::ErrorKind;
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    removed.or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        // The folder is a mount point: it was emptied, and the mount belongs to someone else.
        ErrorKind::ResourceBusy if std::fs::read_dir(path)?.next().is_none() => Ok(()),
        _ => Err(error),
    })
}
