//! `wharf restore`: a lost cluster begins again on this host, from a backup.

use std::{net::SocketAddr, path::Path, sync::Arc};

use common::{
    api::Settings,
    error::{Code, Problem},
    network::NetworkPlan,
    token::JoinRole,
};
use coordinator::backup::{self, Contents, Line, Plan, Rebuilt};
use link::{
    Transport,
    keyring::{Keyring, pending_key},
    quic::Quic,
};

use super::{backup as backups, install, up};
use crate::{args::Restore, host, output};

fn refused(why: impl Into<String>) -> Problem {
    Problem::new(Code::Conflict, "The backup was not restored").why(why)
}

fn not_lost(answers: SocketAddr) -> Problem {
    refused(format!("the coordinator at {answers} answers: the cluster is not lost"))
        .fix("To add this host to it, run on a host of the cluster: wharf host add")
        .fix("If a majority of its coordinators is lost: on a host that still has one, wharf recover")
        .fix("To split the cluster nevertheless: --ignore-live")
}

/// Restores a cluster on this host and starts its service.
pub async fn restore(restore: &Restore) -> Result<u8, Problem> {
    let service = &restore.service;
    if !restore.no_start {
        install::must_be_root("wharf restore")?;
    }
    check_place(&service.state)?;
    up::check_port(service)?;
    let (head, Contents { sealing_key, state }) = backups::open(&restore.file, restore.key.as_deref())?;
    let key = pending_key(&service.state).map_err(|error| refused(error.to_string()))?;
    let (own, machine) = (host::own_name(), agent::facts::machine_hash(head.cluster));
    let replaces = backup::plan_of(&state, restore.host.as_deref(), (&own, machine))?;
    let config =
        host::coordinator_config(service, host::advertise(service), Settings::default(), NetworkPlan::default());
    let plan = Plan {
        state: state.clone(),
        sealing_key: Some(sealing_key),
        from: format!("a backup of {} at index {}", head.at, head.index),
        key,
        name: own,
        replaces,
        waits: restore.wait,
    };
    let rebuilt = backup::rebuild(plan, &config)?;
    if !restore.ignore_live {
        let live = backup::answering(&state, config.advertise, dialler(&rebuilt.keyring, config.advertise)?).await;
        live.first().map_or(Ok(()), |address| Err(not_lost(*address)))?;
    }
    add_context(&rebuilt, config.advertise)?;
    let (keyring, lines) = (rebuilt.keyring.clone(), rebuilt.lines.clone());
    rebuilt.write(&config).await?;
    output::note(format!("✓ cluster {} as of {}, index {}, on {}", head.cluster, head.at, head.index, keyring.name));
    output::note("  Tokens and hosts that were removed after that time are there again: remove them once more");
    match restore.no_start {
        true => output::note("  to start it: wharf up -d"),
        false => start(restore, &keyring).await?,
    }
    tell_lines(&lines);
    Ok(0)
}

async fn start(restore: &Restore, keyring: &Keyring) -> Result<(), Problem> {
    let start = install::Start { service: &restore.service, binary: &restore.binary, foreground: false };
    install::start_service(&start, keyring.clone()).await?;
    up::wait_until_ready(keyring).await?;
    output::note(format!("✓ wharf runs on {}", keyring.name));
    Ok(())
}

/// Refuses a state folder that belongs to a cluster.
fn check_place(state: &Path) -> Result<(), Problem> {
    link::private::check_state(state)?;
    // The remains of a restoration that was interrupted are completed by it, or removed by the next one.
    let found = ["identity", "raft", "raft-made", "snapshots"].into_iter().find(|name| state.join(name).exists());
    found.map_or(Ok(()), |name| {
        Err(refused(format!("{} is there: this host belongs to a cluster", state.join(name).display()))
            .fix("Choose another host")
            .fix("Or, if wharf's state on this host is of no use any more, move it away; containers go on meanwhile"))
    })
}

/// What the identity of the cluster that is to be begins connections with.
pub fn dialler(keyring: &Keyring, towards: SocketAddr) -> Result<Arc<dyn Transport>, Problem> {
    let any = SocketAddr::new(if towards.is_ipv6() { [0; 8].into() } else { [0; 4].into() }, 0);
    let quic = Quic::dial_only(any, keyring.credentials()).map_err(|error| {
        Problem::new(Code::InstallFailed, "The other coordinators cannot be asked").why(error.to_string())
    })?;
    Ok(Arc::new(quic))
}

/// Makes the cluster the one that commands on this host are for.
pub fn add_context(rebuilt: &Rebuilt, server: SocketAddr) -> Result<(), Problem> {
    let token = rebuilt.admin.reveal();
    up::use_context(&rebuilt.keyring, server, &token)?;
    output::note(format!("  new admin token, shown only once: {token}"));
    Ok(())
}

/// Says how the other hosts come back.
fn tell_lines(lines: &[Line]) {
    if lines.is_empty() {
        return;
    }
    output::note("  Other hosts that have their state, and know this host's address, come back by themselves;");
    output::note("  else, on each: wharf agent coordinators ADDRESS");
    output::note("  On a host whose state is lost, paste its line; its containers go on:");
    for Line { host, role, line } in lines {
        let becomes = if *role == JoinRole::Coordinator { " (coordinator)" } else { "" };
        output::note(format!("  {host}{becomes}:"));
        output::line(line);
    }
}
