//! `wharf recover`: a cluster that has lost the majority of its coordinators for good begins again with one of them.

use std::{net::SocketAddr, sync::Arc};

use common::{
    api::Settings,
    error::{Code, Problem},
    id::MemberId,
    network::NetworkPlan,
    time::Timestamp,
};
use coordinator::{
    backup::{self, Draft, Plan},
    birth,
    raft::{self, Found, Standing},
    seal::Seals,
};
use futures::future::join_all;
use link::{Transport, call::Caller, keyring::Keyring};
use serde_json::json;

use super::{install, restore};
use crate::{
    args::{Format, Recover},
    host,
    output::{self, Rows},
};

fn refused(why: impl Into<String>) -> Problem {
    Problem::new(Code::MemberRefused, "The cluster was not recovered").why(why)
}

/// A member of the group, and what is known of it.
struct Row {
    id: MemberId,
    votes: bool,
    address: String,
    /// What it says; none if it does not answer.
    standing: Option<Standing>,
    answers: bool,
}

/// Shows what the members know, and with `--apply` begins again with this one.
pub async fn recover(recover: &Recover, format: Format) -> Result<u8, Problem> {
    let service = &recover.service;
    let keyring = host::keyring(service)?.ok_or_else(|| refused("this host does not belong to a cluster"))?;
    let me = keyring.member.ok_or_else(|| birth::not_a_coordinator(&keyring))?;
    if install::is_running(&service.state) {
        return Err(refused("wharf runs on this host, and uses the store")
            .fix("Stop it; containers go on: systemctl stop wharf"));
    }
    let found = raft::read_store(&service.state).map_err(birth::store_problem)?;
    let found = found.ok_or_else(|| refused(format!("there is no store in {}", service.state.display())))?;
    if found.owner != me {
        return Err(refused(format!("the store is that of coordinator {}, and this is {me}", found.owner)));
    }
    let rows = ask_all(&found, &keyring, me).await?;
    show(&found, &rows, format);
    let verdict = judge(&found, &rows, recover.although_behind);
    if !recover.apply {
        match verdict {
            Ok(()) => output::note("  Nothing was changed. To begin again with this coordinator alone, add --apply"),
            Err(problem) => output::problem(&problem),
        }
        return Ok(0);
    }
    verdict?;
    apply(recover, found, keyring).await
}

/// Asks every member of the group what it knows.
async fn ask_all(found: &Found, keyring: &Keyring, me: MemberId) -> Result<Vec<Row>, Problem> {
    let towards = keyring.advertise.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let transport = restore::dialler(keyring, towards)?;
    let knows_calls = found.members_say_what_they_know();
    let asking = found.group.iter().map(|member| {
        let transport: Arc<dyn Transport> = transport.clone();
        async move {
            let (mut standing, mut answers) = (None, member.id == me);
            if let Some(address) = member.address.parse().ok().filter(|_| member.id != me) {
                let caller = Caller::new(transport, address);
                if knows_calls {
                    standing = raft::standing_of(&caller).await.ok().flatten();
                    answers = standing.is_some();
                } else {
                    answers = raft::group_of(&caller).await.is_ok();
                }
            }
            Row { id: member.id, votes: member.votes, address: member.address.clone(), standing, answers }
        }
    });
    let mut rows = join_all(asking).await;
    if let Some(own) = rows.iter_mut().find(|row| row.id == me) {
        let (last, applied) = (found.last.map_or(0, |(_, index)| index), found.committed.unwrap_or(0));
        own.standing = Some(Standing { term: found.term, last, applied, leader: None });
    }
    Ok(rows)
}

/// The member that knows most, of those that answer.
fn knows_most(rows: &[Row]) -> Option<&Row> {
    rows.iter()
        .filter(|row| row.standing.is_some())
        .max_by_key(|row| row.standing.map(|known| (known.last, known.term)))
}

fn show(found: &Found, rows: &[Row], format: Format) {
    let most = knows_most(rows).map(|row| row.id);
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let lines = rows.iter().map(|row| {
        let state = match (row.id == found.owner, row.answers) {
            (true, _) => "this host, stopped",
            (false, true) => "answers",
            (false, false) => "does not answer",
        };
        let most = if most == Some(row.id) { "knows most" } else { "" };
        vec![
            row.id.to_string(),
            state.to_owned(),
            number(row.standing.map(|known| known.term)),
            number(row.standing.map(|known| known.last)),
            number(row.standing.map(|known| known.applied)),
            most.to_owned(),
            row.address.clone(),
        ]
    });
    let lines = lines.collect();
    let values: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({ "member": row.id, "votes": row.votes, "address": row.address, "answers": row.answers,
                "standing": row.standing, "knows_most": most == Some(row.id) })
        })
        .collect();
    let head = ["MEMBER", "STATE", "TERM", "LAST ENTRY", "COMMITTED", "", "ADDRESS"];
    output::list(format, &values, Rows { head: &head, narrow: 7, rows: lines });
}

/// Whether the cluster may begin again with this member.
fn judge(found: &Found, rows: &[Row], although_behind: bool) -> Result<(), Problem> {
    let votes = |row: &&Row| row.votes;
    let (voters, answering) =
        (rows.iter().filter(votes).count(), rows.iter().filter(votes).filter(|row| row.answers).count());
    if !rows.iter().any(|row| row.id == found.owner && row.votes) {
        return Err(refused("this coordinator has no vote in the group, so it may lack what was acknowledged")
            .fix("Run the command on a host whose coordinator has a vote"));
    }
    if answering > voters / 2 {
        return Err(refused(format!(
            "{answering} of {voters} coordinators are there, this one included: that is a majority"
        ))
        .fix("Start this one: wharf up, or systemctl start wharf"));
    }
    match knows_most(rows).filter(|most| most.id != found.owner && !although_behind) {
        Some(most) if most.standing.is_some_and(|known| Some(known.last) > found.last.map(|(_, index)| index)) => {
            Err(refused(format!("coordinator {} at {} knows more", most.id, most.address))
                .fix("Run the command on its host")
                .fix("To go on without what only that one knows: --although-behind"))
        }
        _ => Ok(()),
    }
}

async fn apply(recover: &Recover, found: Found, keyring: Keyring) -> Result<u8, Problem> {
    let service = &recover.service;
    let advertise = service.advertise.or(keyring.advertise).unwrap_or_else(|| host::advertise(service));
    let config = host::coordinator_config(service, advertise, Settings::default(), NetworkPlan::default());
    save_first(&found, &config, &keyring)?;
    let lost: Vec<String> =
        found.group.iter().filter(|member| member.id != found.owner).map(|member| member.id.to_string()).collect();
    let from =
        format!("the store of coordinator {} at entry {}", found.owner, found.last.map_or(0, |(_, index)| index));
    let Found { state, .. } = &found;
    let plan = Plan {
        state: state.clone(),
        sealing_key: None,
        from,
        key: keyring.key.clone(),
        name: keyring.name.clone(),
        replaces: None,
        waits: recover.wait,
    };
    let rebuilt = backup::rebuild(plan, &config)?;
    restore::add_context(&rebuilt, advertise)?;
    let member = rebuilt.member();
    let kept = rebuilt.write(&config).await?;
    drop(found);
    for path in kept {
        output::note(format!("  kept: {}", path.display()));
    }
    let member = member.map_or_else(String::new, |member| member.to_string());
    output::note(format!("✓ the cluster begins again with coordinator {member} on {}", keyring.name));
    output::note(format!("  Coordinators {} are forgotten, and refused if they return", lost.join(", ")));
    output::note("  Start it: systemctl start wharf, or wharf up -d   more coordinators: wharf member add");
    Ok(0)
}

/// Makes a backup of what the store holds, if there is a key for it. The store itself is kept as well.
fn save_first(found: &Found, config: &coordinator::Config, keyring: &Keyring) -> Result<(), Problem> {
    if found.state.backup_recipient().is_none() {
        output::note("  There is no backup key, so no backup is made; the old store is kept beside the new one");
        return Ok(());
    }
    let seals = Seals::load(&config.keys, keyring.cluster)?;
    let draft = Draft::of(found.state.clone(), &seals)?;
    let failed = |why: String| refused("the backup that comes first was not written").why(why);
    link::private::ensure_folder(&config.backups).map_err(|e| failed(e.to_string()))?;
    let Timestamp(now) = link::clock::now();
    let path = config.backups.join(format!("before-recovery-{now}.backup"));
    let size = backup::save(&draft, &path).map_err(|e| failed(e.to_string()))?;
    output::note(format!("✓ backup of what is here: {} ({size} bytes)", path.display()));
    Ok(())
}
