//! The keys of the cluster: what is in use, and how they are changed.

use axum::{Json, http::StatusCode};
use common::{
    api::{TrustKey, TrustView},
    error::{Code, Problem},
    hex,
    id::{HostId, MemberId},
    secret::Secret,
};
use coordinator_core::{
    Command, State,
    command::NewRoot,
    level,
    state::{RootPhase, SealingChange},
};
use link::{
    clock::now,
    identity::{IdentityError, cross_sign, make_join_certificate, make_root, pin_of},
};

use super::{
    ApiError,
    extract::{Reading, Writing},
};
use crate::{raft::no_leader, seal::Purpose};

/// The keys of the cluster, and how far their change is.
#[utoipa::path(get, path = "/api/v1/trust", responses((status = 200, body = TrustView)))]
pub async fn get(Reading(published): Reading) -> Result<Json<TrustView>, ApiError> {
    let cluster = &published.cluster;
    let authority = &cluster.identity().ok_or_else(no_leader)?.authority;
    let pin = |certificate: &[u8]| pin_of(certificate).ok().map(|pin| hex::encode(&pin.0[..8]));
    let join = TrustKey {
        kind: "join-key".to_owned(),
        id: pin(&authority.join_certificate),
        phase: IN_USE.to_owned(),
        waits_for: Vec::new(),
    };
    let (phase, waits_for) = root(cluster);
    let ca = TrustKey { kind: "ca".to_owned(), id: pin(&authority.certificate), phase, waits_for };
    Ok(Json(TrustView { keys: vec![sealing(cluster), join, ca] }))
}

const IN_USE: &str = "in use";

fn sealing(cluster: &State) -> TrustKey {
    let member = |id: &MemberId| {
        let host = cluster.members().get(id).map(|member| member.host);
        format!("coordinator {id} on {}", host.map_or_else(|| "?".to_owned(), |host| host_name(cluster, host)))
    };
    let (phase, waits_for) = match cluster.sealing_change() {
        None => (IN_USE.to_owned(), Vec::new()),
        Some(SealingChange::Share { next, .. }) => (
            format!("{next} is made known to all coordinators"),
            cluster.without_new_key().iter().map(member).collect(),
        ),
        Some(SealingChange::Reseal { old }) => {
            let left = cluster.old_texts().count();
            (format!("{left} texts of {old} are still to be sealed again"), Vec::new())
        }
    };
    TrustKey { kind: "sealing-key".to_owned(), id: cluster.sealing_key().map(|key| key.to_string()), phase, waits_for }
}

fn root(cluster: &State) -> (String, Vec<String>) {
    let phase = match cluster.root_change().map(|change| &change.phase) {
        None => IN_USE,
        Some(RootPhase::Announce { .. }) => "a new root is made known to all hosts",
        Some(RootPhase::Renew { .. }) => "the new root issues, and hosts renew their certificates",
    };
    let waits_for = cluster.awaited_by_root().map(|(_, host)| format!("{} ({})", host.name, host.liveness.word()));
    (phase.to_owned(), waits_for.collect())
}

fn host_name(cluster: &State, host: HostId) -> String {
    cluster.hosts().get(&host).map_or_else(|| host.to_string(), |known| known.name.to_string())
}

/// Begins to change the sealing key.
#[utoipa::path(post, path = "/api/v1/trust/sealing-key", responses((status = 204)))]
pub async fn rotate_sealing_key(writing: Writing) -> Result<StatusCode, ApiError> {
    let coordinator = writing.coordinator.clone();
    let _one_at_a_time = coordinator.seals.making().await;
    let published = coordinator.consensus.read().await?;
    level::check(level::TRUST, published.cluster.level())?;
    if matches!(published.cluster.sealing_change(), Some(SealingChange::Reseal { .. })) {
        return Err(Problem::new(Code::Conflict, "The sealing key was not changed")
            .why("its last change is not complete")
            .fix("See how far it is: wharf rotate status")
            .into());
    }
    let next = coordinator.seals.make_next(&published.cluster)?;
    writing.apply(Command::RotateSealingKey { next, member: coordinator.consensus.me() }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replaces the join key: lines that pin the old one end.
#[utoipa::path(post, path = "/api/v1/trust/join-key", responses((status = 204)))]
pub async fn rotate_join_key(writing: Writing) -> Result<StatusCode, ApiError> {
    let coordinator = writing.coordinator.clone();
    let published = coordinator.consensus.read().await?;
    level::check(level::TRUST, published.cluster.level())?;
    let by = published.cluster.sealing_key();
    let made = make_join_certificate(now())
        .map_err(|error| Problem::new(Code::Internal, "The join key cannot be made").why(error.to_string()))?;
    let key = coordinator.seals.seal(by, Purpose::JoinKey, made.key.expose())?;
    writing.apply(Command::RotateJoinKey { certificate: made.certificate, key: Secret::new(key) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begins to change the cluster's root.
#[utoipa::path(post, path = "/api/v1/trust/ca", responses((status = 204)))]
pub async fn rotate_ca(writing: Writing) -> Result<StatusCode, ApiError> {
    let coordinator = writing.coordinator.clone();
    let published = coordinator.consensus.read().await?;
    level::check(level::TRUST, published.cluster.level())?;
    let identity = published.cluster.identity().ok_or_else(no_leader)?;
    let failed =
        |error: IdentityError| Problem::new(Code::Internal, "The new root cannot be made").why(error.to_string());
    let old = coordinator.seals.root(&identity.authority)?;
    let new = make_root(identity.id, now()).map_err(failed)?;
    let cross = cross_sign(&old, &new, identity.id, now()).map_err(failed)?;
    let key = coordinator.seals.seal(published.cluster.sealing_key(), Purpose::RootKey, new.key.expose())?;
    let root = NewRoot { certificate: new.certificate, key: Secret::new(key), cross };
    writing.apply(Command::RotateRoot(Box::new(root))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Goes on with the change of the root without hosts that are away.
#[utoipa::path(post, path = "/api/v1/trust/ca/finish", responses((status = 204)))]
pub async fn finish_ca(writing: Writing) -> Result<StatusCode, ApiError> {
    writing.apply(Command::MoveRoot { without: true }).await?;
    Ok(StatusCode::NO_CONTENT)
}
