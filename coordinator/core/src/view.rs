//! What others are told, derived from the state and never stored.

use std::{collections::BTreeSet, net::SocketAddr};

use common::{
    api::{ChangeKind, HostView, InstanceView, ServiceChange, ServiceView, StackPlan, StackView},
    assignment::{AssignedInstance, Assignment, RegistryCredentials},
    error::Problem,
    id::{HostId, InstanceId, StackId},
    instance::{Health, Phase, Verdict, Want},
    name::Name,
    spec::{ServiceSpec, StackSpec},
    time::Timestamp,
};

use crate::{
    Cluster, Plan,
    cluster::{Instance, MemberState, Stack},
    command::{Batch, Command, Outcome},
    plan,
};

/// All that a host should run. `reported` are the instances that its agent found and no assignment
/// named; those that the cluster does not know either are surplus.
pub fn assignment(cluster: &Cluster, host: HostId, reported: &BTreeSet<InstanceId>) -> Option<Assignment> {
    let identity = cluster.identity.as_ref()?;
    let known = |id: &InstanceId| cluster.instances.get(id).is_some_and(|instance| instance.host == host);
    Some(Assignment {
        cluster: identity.id,
        host,
        generation: cluster.index,
        instances: cluster.instances_on(host).map(|(id, instance)| assigned(cluster, id, instance)).collect(),
        surplus: reported.iter().filter(|id| !known(id)).cloned().collect(),
    })
}

/// Where the coordinators that are to stay are reached.
pub fn coordinators(cluster: &Cluster) -> Vec<SocketAddr> {
    let staying = cluster.members.values().filter(|member| member.state == MemberState::Present);
    staying.map(|member| member.address).collect()
}

fn assigned(cluster: &Cluster, id: &InstanceId, instance: &Instance) -> AssignedInstance {
    let image = image_of(cluster, id, instance);
    AssignedInstance {
        id: id.clone(),
        desired: instance.desired,
        spec: instance.spec.clone(),
        credentials: credentials_for(cluster, &image),
        image,
        ports: instance.ports.clone(),
        restarts: instance.observed.restart,
        ended: Some(instance.observed.phase).filter(|phase| phase.is_terminal()),
    }
}

fn image_of(cluster: &Cluster, id: &InstanceId, instance: &Instance) -> String {
    match cluster.service(id.service()) {
        Some(service) if service.revision == instance.revision => service.image(),
        _ => instance.spec.image.clone(),
    }
}

/// The credentials of the registry that an image names; Docker Hub if it names none.
fn credentials_for(cluster: &Cluster, image: &str) -> Option<RegistryCredentials> {
    let first = image
        .split('/')
        .next()
        .filter(|first| image.contains('/') && (first.contains(['.', ':']) || *first == "localhost"));
    cluster.registries.get(first.unwrap_or("docker.io")).cloned()
}

/// All stacks.
pub fn stacks(cluster: &Cluster, now: Timestamp) -> Vec<StackView> {
    let plan = plan::plan(cluster, now);
    cluster.stacks.iter().map(|(id, stack)| stack_view(cluster, &plan, id, stack)).collect()
}

/// One stack.
pub fn stack(cluster: &Cluster, id: &StackId, now: Timestamp) -> Option<StackView> {
    let stack = cluster.stacks.get(id)?;
    Some(stack_view(cluster, &plan::plan(cluster, now), id, stack))
}

fn stack_view(cluster: &Cluster, plan: &Plan, id: &StackId, stack: &Stack) -> StackView {
    let service = |(name, service): (&Name, &crate::cluster::Service)| {
        let service_id = id.service(name.clone());
        let count = |test: fn(&Instance) -> bool| {
            let current =
                |i: &Instance| i.fills_slot() && i.verdict == Verdict::Reachable && i.revision == service.revision;
            cluster.instances_of(&service_id).filter(|(_, i)| current(i) && test(i)).count() as u32
        };
        ServiceView {
            spec: (*service.spec).clone(),
            revision: service.revision,
            serving: count(|instance| instance.observed.is_serving()),
            completed: count(|instance| instance.observed.phase == Phase::Completed),
            blocked: plan.blocked.get(&service_id).cloned().unwrap_or_default(),
            id: service_id,
        }
    };
    StackView {
        id: id.clone(),
        revision: stack.revision,
        changed_at: stack.changed_at,
        removing: stack.removing,
        services: stack.services.iter().map(service).collect(),
    }
}

/// The instances that `wanted` chooses.
pub fn instances(cluster: &Cluster, wanted: impl Fn(&InstanceId, &Instance) -> bool) -> Vec<InstanceView> {
    cluster
        .instances
        .iter()
        .filter(|(id, instance)| wanted(id, instance))
        .map(|(id, instance)| instance_view(cluster, id, instance))
        .collect()
}

fn instance_view(cluster: &Cluster, id: &InstanceId, instance: &Instance) -> InstanceView {
    let host = cluster.hosts.get(&instance.host);
    InstanceView {
        id: id.clone(),
        revision: instance.revision,
        image: image_of(cluster, id, instance),
        host: instance.host,
        host_name: host.map(|host| host.name.clone()),
        address: host.and_then(|host| host.facts.as_ref()).map(|facts| facts.address),
        state: state_word(instance).to_owned(),
        desired: instance.desired,
        observed: instance.observed.clone(),
        verdict: instance.verdict,
        ports: instance.ports.clone(),
        created_at: instance.created_at,
    }
}

/// What a person would call the state of an instance.
fn state_word(instance: &Instance) -> &'static str {
    match (instance.verdict, instance.desired.want, instance.observed.phase) {
        (Verdict::Lost { .. }, ..) => "lost",
        (Verdict::Unknown { .. }, ..) => "unreachable",
        (_, Want::Stop | Want::Purge, phase) if !phase.is_terminal() => "stopping",
        (.., Phase::Assigned | Phase::Accepted) => "assigned",
        (.., Phase::Pulling) => "pulling",
        (.., Phase::Ready | Phase::Starting) => "starting",
        (.., Phase::Running) => match instance.observed.health {
            Health::Unchecked => "running",
            Health::Starting => "starting",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        },
        (.., Phase::Stopping) => "restarting",
        (.., Phase::Completed) => "completed",
        (.., Phase::Failed) => "failed",
        (.., Phase::Rejected) => "rejected",
        (.., Phase::Stopped | Phase::Purged) => "stopped",
    }
}

/// All hosts.
pub fn hosts(cluster: &Cluster) -> Vec<HostView> {
    let view = |(id, host): (&HostId, &crate::cluster::Host)| HostView {
        id: *id,
        name: host.name.clone(),
        liveness: host.liveness,
        labels: host.labels.clone(),
        facts: host.facts.clone(),
        member: cluster.member_on(*id),
        instances: cluster.instances_on(*id).filter(|(_, instance)| instance.holds_bookings()).count(),
        reserved: cluster.bookings(*id).reserved,
        joined_at: host.joined_at,
    };
    cluster.hosts.iter().map(view).collect()
}

/// What a spec would change, found by trying it on a copy of the state.
pub fn stack_plan(cluster: &Cluster, id: &StackId, command: &Command, now: Timestamp) -> Result<StackPlan, Problem> {
    let mut after = cluster.clone();
    let outcomes = after.apply(&Batch { at: now, proposals: vec![command.clone().into()] });
    if let Some(Outcome::Rejected(problem)) = outcomes.into_iter().next() {
        return Err(problem);
    }
    let revision = |cluster: &Cluster| cluster.stacks.get(id).map_or(0, |stack| stack.revision);
    let spec = |cluster: &Cluster| {
        cluster.stacks.get(id).filter(|stack| !stack.removing).map(|stack| stack.spec.clone()).unwrap_or_default()
    };
    let blocked = plan::plan(&after, now).blocked;
    let waits = |reason: &&String| !reason.starts_with("it waits for ");
    Ok(StackPlan {
        id: id.clone(),
        from_revision: revision(cluster),
        to_revision: revision(&after),
        changes: changes(&spec(cluster), &spec(&after)),
        unplaceable: blocked
            .iter()
            .filter(|(service, _)| service.stack == *id)
            .flat_map(|(service, reasons)| {
                reasons.iter().filter(waits).map(move |reason| format!("{}: {reason}", service.service))
            })
            .collect(),
    })
}

fn changes(before: &StackSpec, after: &StackSpec) -> Vec<ServiceChange> {
    let names: BTreeSet<&Name> = before.services.keys().chain(after.services.keys()).collect();
    names.into_iter().map(|name| change(name, before.services.get(name), after.services.get(name))).collect()
}

fn change(name: &Name, before: Option<&ServiceSpec>, after: Option<&ServiceSpec>) -> ServiceChange {
    let (kind, details, how) = match (before, after) {
        (None, Some(after)) => (ChangeKind::Create, vec![after.image.clone()], count(after.replicas)),
        (Some(before), None) => {
            (ChangeKind::Remove, Vec::new(), format!("{} removed, volumes kept", count(before.replicas)))
        }
        (Some(before), Some(after)) if before == after => (ChangeKind::Unchanged, Vec::new(), String::new()),
        (Some(before), Some(after)) => {
            let kind = if before.same_instances(after) { ChangeKind::Scale } else { ChangeKind::Update };
            let how = if kind == ChangeKind::Scale {
                "running instances stay".to_owned()
            } else {
                format!("{}, one at a time, stop-first", count(after.replicas))
            };
            (kind, differences(before, after), how)
        }
        (None, None) => (ChangeKind::Unchanged, Vec::new(), String::new()),
    };
    ServiceChange { service: name.clone(), kind, details, how }
}

fn count(replicas: u32) -> String {
    format!("{replicas} {}", if replicas == 1 { "instance" } else { "instances" })
}

/// One phrase for each field that differs. Values of environment variables are not shown: people
/// keep passwords there.
fn differences(before: &ServiceSpec, after: &ServiceSpec) -> Vec<String> {
    let mut found = Vec::new();
    if before.image != after.image {
        found.push(format!("image {} → {}", before.image, after.image));
    }
    if before.replicas != after.replicas {
        found.push(format!("replicas {} → {}", before.replicas, after.replicas));
    }
    let keys: BTreeSet<&String> = before.environment.keys().chain(after.environment.keys()).collect();
    for key in keys.into_iter().filter(|key| before.environment.get(*key) != after.environment.get(*key)) {
        found.push(match (before.environment.get(key), after.environment.get(key)) {
            (None, _) => format!("env {key} added"),
            (_, None) => format!("env {key} removed"),
            _ => format!("env {key} changed"),
        });
    }
    let fields: [(&str, bool); 14] = [
        ("pull policy", before.pull != after.pull),
        ("command", before.command != after.command),
        ("entrypoint", before.entrypoint != after.entrypoint),
        ("user", before.user != after.user),
        ("working directory", before.working_dir != after.working_dir),
        ("labels", before.labels != after.labels),
        ("ports", before.ports != after.ports),
        ("mounts", before.mounts != after.mounts),
        ("health check", before.healthcheck != after.healthcheck),
        ("restart policy", before.restart != after.restart),
        ("stop grace period", before.stop_grace != after.stop_grace),
        ("resources", (before.reservations, before.limits) != (after.reservations, after.limits)),
        ("constraints", before.constraints != after.constraints),
        ("dependencies", before.depends_on != after.depends_on),
    ];
    found.extend(fields.iter().filter(|(_, differs)| *differs).map(|(field, _)| format!("{field} changed")));
    found
}
