//! `wharf member` and `wharf status`.

use std::time::Duration;

use common::{
    api::{ClusterView, CreateJoinToken, MemberView},
    error::{Code, Problem},
    id::MemberId,
    token::JoinRole,
};
use tokio::time::Instant;

use super::{Session, hosts};
use crate::{
    args::Member,
    output::{self, Rows},
};

/// How long a coordinator may take to leave: the group commits two membership changes for it.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// Runs a `wharf member` command.
pub async fn run(session: &Session, command: Member) -> Result<u8, Problem> {
    match command {
        Member::Ls => ls(session).await,
        Member::Add => {
            let asked = CreateJoinToken {
                role: JoinRole::Coordinator,
                ttl: None,
                max_uses: None,
                labels: Default::default(),
                cidr: None,
                replaces: None,
            };
            hosts::add(session, asked).await
        }
        Member::Rm { member } => {
            if !output::confirm(
                &format!("Remove coordinator {member} from the group of {}?", session.context),
                session.yes,
            )? {
                return Ok(1);
            }
            session.client.delete(&format!("/api/v1/members/{member}")).await?;
            wait_until_gone(session, MemberId(member)).await?;
            output::note(format!(
                "✓ coordinator {member} has left; its host stays in the cluster until: wharf host rm"
            ));
            Ok(0)
        }
    }
}

async fn ls(session: &Session) -> Result<u8, Problem> {
    let cluster: ClusterView = session.client.get("/api/v1/cluster").await?;
    let state = |member: &MemberView| match member.answers {
        Some(false) => format!("{}, does not answer", member.state),
        Some(true) | None => member.state.clone(),
    };
    let row = |member: &MemberView| {
        let level = if member.level == 0 { "?".to_owned() } else { member.level.to_string() };
        let host = member.host.to_string();
        vec![member.id.to_string(), state(member), level, member.address.to_string(), host]
    };
    let rows = cluster.members.iter().map(row).collect();
    let head = ["MEMBER", "STATE", "LEVEL", "ADDRESS", "HOST"];
    output::list(session.format, &cluster.members, Rows { head: &head, narrow: 5, rows });
    Ok(0)
}

/// Waits until the group goes on without a member: who stops it sooner may take the majority away.
async fn wait_until_gone(session: &Session, member: MemberId) -> Result<(), Problem> {
    let deadline = Instant::now() + LEAVES_WITHIN;
    loop {
        // There may be no leader for a moment, because the leaving member may have been it.
        let why = match session.client.get::<ClusterView>("/api/v1/cluster").await {
            Ok(cluster) if cluster.members.iter().all(|other| other.id != member) => return Ok(()),
            Ok(_) => "the other coordinators have not agreed on it yet".to_owned(),
            Err(problem) => problem.what,
        };
        if Instant::now() > deadline {
            let problem =
                Problem::new(Code::ResultUnknown, format!("Coordinator {member} may not have left the group"));
            return Err(problem.why(why).fix("Keep its host running, and check from another host: wharf member ls"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Prints the cluster's state and settings.
pub async fn status(session: &Session) -> Result<u8, Problem> {
    let cluster: ClusterView = session.client.get("/api/v1/cluster").await?;
    let quorum = if cluster.quorum {
        "✓ has a majority"
    } else {
        "✗ no majority: running instances keep running, but nothing can be changed"
    };
    let rows = vec![
        vec!["cluster".to_owned(), cluster.id.to_string()],
        vec!["quorum".to_owned(), quorum.to_owned()],
        vec![
            "leader".to_owned(),
            cluster.leader.map_or_else(|| "none".to_owned(), |leader| format!("coordinator {leader}")),
        ],
        vec!["answered by".to_owned(), format!("coordinator {}", cluster.member)],
        vec!["index".to_owned(), cluster.index.to_string()],
        vec!["heartbeat".to_owned(), cluster.settings.heartbeat.to_string()],
        vec!["lost after".to_owned(), cluster.settings.lost_after.to_string()],
        vec!["overlay".to_owned(), cluster.network.backend.to_string()],
        vec!["containers' addresses".to_owned(), cluster.network.containers.to_string()],
        vec!["services' addresses".to_owned(), cluster.network.services.to_string()],
    ];
    output::list(session.format, &cluster, Rows { head: &["WHAT", "IS"], narrow: 2, rows });
    Ok(if cluster.quorum { 0 } else { 10 })
}
