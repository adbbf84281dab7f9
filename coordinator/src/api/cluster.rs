//! The cluster and its members.

use std::{collections::BTreeSet, time::Duration};

use axum::{Json, extract::State};
use common::{
    api::{ClusterView, MemberView, Settings},
    id::MemberId,
};
use coordinator_core::{
    Command,
    state::{Member, MemberState},
};
use futures::future::join_all;
use tokio::time::timeout;

use super::{
    ApiError,
    extract::{At, Body, Writing},
};
use crate::{
    Coordinator,
    raft::{GroupMember, group_of, no_leader},
};

/// How long a member has to answer: who asks for the cluster waits for it.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// The cluster as this coordinator knows it; it answers also without a majority.
#[utoipa::path(get, path = "/api/v1/cluster", responses((status = 200, body = ClusterView)))]
pub async fn get(State(coordinator): State<Coordinator>) -> Result<Json<ClusterView>, ApiError> {
    let consensus = &coordinator.consensus;
    let published = consensus.current();
    let identity = published.cluster.identity().ok_or_else(no_leader)?;
    let (leadership, group) = (consensus.leadership(), consensus.group());
    let state = |id: &MemberId, member: &Member| match group.iter().find(|known| known.id == *id) {
        _ if member.state == MemberState::Leaving => "leaving",
        _ if leadership.leader == Some(*id) => "leader",
        Some(known) if known.votes => "voter",
        Some(_) => "learner",
        None if member.unreached_since.is_some() => "unreachable",
        None => "joining",
    };
    let answering = answering(&coordinator, &group).await;
    let members = published.cluster.members().iter().map(|(id, member)| MemberView {
        id: *id,
        host: member.host,
        address: member.address,
        state: state(id, member).to_owned(),
        answers: group.iter().any(|known| known.id == *id).then(|| answering.contains(id)),
        level: member.level,
    });
    Ok(Json(ClusterView {
        id: identity.id,
        member: consensus.me(),
        leader: leadership.leader,
        quorum: leadership.leads || consensus.hears_leader(),
        index: published.cluster.index(),
        log_index: coordinator.consensus.last_log_index(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        level: published.cluster.level(),
        settings: published.cluster.settings(),
        network: published.cluster.network(),
        members: members.collect(),
    }))
}

/// The members of the group that answer now; all are asked at the same time.
async fn answering(coordinator: &Coordinator, group: &[GroupMember]) -> BTreeSet<MemberId> {
    let me = coordinator.consensus.me();
    let asking = group.iter().map(async |member| {
        let asked = async {
            let address = member.address.parse().ok()?;
            group_of(&coordinator.consensus.callers().get(address)).await.ok()
        };
        let answers = member.id == me || matches!(timeout(ANSWERS_WITHIN, asked).await, Ok(Some(_)));
        answers.then_some(member.id)
    });
    join_all(asking).await.into_iter().flatten().collect()
}

/// Replaces the cluster's times.
#[utoipa::path(put, path = "/api/v1/cluster/settings", request_body = Settings, responses((status = 200, body = Settings)))]
pub async fn put_settings(writing: Writing, Body(settings): Body<Settings>) -> Result<Json<Settings>, ApiError> {
    writing.apply(Command::PutSettings(settings)).await?;
    Ok(Json(settings))
}

/// Asks a member to leave the group of coordinators.
#[utoipa::path(delete, path = "/api/v1/members/{member}", params(("member" = u64, Path)), responses((status = 204)))]
pub async fn remove_member(writing: Writing, At(member): At<MemberId>) -> Result<axum::http::StatusCode, ApiError> {
    writing.apply(Command::RemoveMember(member)).await?;
    Ok(axum::http::StatusCode::NO_CONTENT)
}
