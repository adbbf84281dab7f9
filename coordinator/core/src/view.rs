//! What others are told, derived from the state and never stored.

mod audit;
mod changes;
mod clock;
mod directory;
mod doctor;
mod drain;
mod environments;
mod preview;
mod shape;
mod status;
mod upgrade;

use std::{collections::BTreeSet, net::SocketAddr};

use common::{
    api::{CanaryView, FailureView, HostView, InstanceView, RolloutView, ServiceView, StackView},
    assignment::{AssignedInstance, Assignment, registry_of},
    id::{HostId, InstanceId, ServiceId, StackId},
    instance::{Health, Phase, Verdict, Want},
    network::{Backend, Network, Overlay},
    spec::Mode,
    time::Timestamp,
};

use crate::{
    Plan, State, plan,
    state::{Instance, MemberState, Service, Stack},
};

pub use audit::audit;
pub use changes::revisions;
pub use clock::{clock, clock_findings};
pub use directory::{directory, follow};
pub use doctor::{Found, doctor, each_path, paths};
pub use drain::{drain_plan, rebalance_plan};
pub use environments::environments;
pub use preview::stack_plan;
pub use status::deployment;
pub use upgrade::upgrade;

/// All that a host should run. `reported` are the instances that its agent found and no assignment
/// named; those that the cluster does not know either are surplus.
pub fn assignment(cluster: &State, host: HostId, reported: &BTreeSet<InstanceId>) -> Option<Assignment> {
    let identity = cluster.identity()?;
    let known = |id: &InstanceId| cluster.instances().get(id).is_some_and(|instance| instance.host == host);
    Some(Assignment {
        cluster: identity.id,
        host,
        generation: cluster.index(),
        network: network(cluster, host),
        instances: cluster.instances_on(host).map(|(id, instance)| assigned(cluster, id, instance)).collect(),
        surplus: reported.iter().filter(|id| !known(id)).cloned().collect(),
    })
}

/// How a host's containers are reached.
fn network(cluster: &State, host: HostId) -> Network {
    let own = cluster.hosts().get(&host).filter(|_| cluster.network().backend != Backend::None);
    own.map_or(Network::Bridge, |own| Network::Overlay(Overlay { plan: cluster.network(), own: own.subnet }))
}

/// Where the coordinators that are to stay are reached.
pub fn coordinators(cluster: &State) -> Vec<SocketAddr> {
    let staying = cluster.members().values().filter(|member| member.state == MemberState::Present);
    staying.map(|member| member.address).collect()
}

fn assigned(cluster: &State, id: &InstanceId, instance: &Instance) -> AssignedInstance {
    let images = instance.spec.containers().map(|(_, container)| registry_of(&container.image));
    let registries: BTreeSet<&str> = images.collect();
    AssignedInstance {
        id: id.clone(),
        desired: instance.desired,
        spec: instance.spec.clone(),
        credentials: registries
            .into_iter()
            .filter_map(|registry| cluster.registries().get(registry).cloned())
            .collect(),
        image: image_of(cluster, id, instance),
        ports: instance.ports.clone(),
        devices: instance.devices.clone(),
        restarts: instance.observed.restart,
        retries: instance.observed.retries,
        ended: Some(instance.observed.phase).filter(|phase| phase.is_terminal()),
    }
}

fn image_of(cluster: &State, id: &InstanceId, instance: &Instance) -> String {
    match cluster.service(id.service()) {
        Some(service) if service.revision == instance.revision => service.version().image(),
        Some(Service { stable: Some(stable), .. }) if stable.revision == instance.revision => stable.image(),
        _ => instance.spec.container.image.clone(),
    }
}

/// All stacks.
pub fn stacks(cluster: &State, now: Timestamp) -> Vec<StackView> {
    let plan = status::plan_of_restless(cluster, cluster.stacks().iter(), now);
    let outlook = Outlook { cluster, plan, now };
    cluster.stacks().iter().map(|(id, stack)| outlook.stack(id, stack)).collect()
}

/// One stack.
pub fn stack(cluster: &State, id: &StackId, now: Timestamp) -> Option<StackView> {
    let stack = cluster.stacks().get(id)?;
    let plan = status::plan_of_restless(cluster, std::iter::once((id, stack)), now);
    Some(Outlook { cluster, plan, now }.stack(id, stack))
}

/// How things are, and what is to come of them.
struct Outlook<'a> {
    cluster: &'a State,
    /// The plan of what is not at rest.
    plan: Plan,
    now: Timestamp,
}

impl Outlook<'_> {
    fn stack(&self, id: &StackId, stack: &Stack) -> StackView {
        let services = stack.services.iter();
        StackView {
            id: id.clone(),
            revision: stack.revision,
            changed_at: stack.changed_at,
            removing: stack.removing,
            services: services.map(|(name, service)| self.service(id.service(name.clone()), service)).collect(),
        }
    }

    fn service(&self, id: ServiceId, service: &Service) -> ServiceView {
        let cluster = self.cluster;
        let serves = |i: &Instance| {
            let is_current = i.fills_slot() && i.verdict == Verdict::Reachable && i.revision == service.revision;
            is_current && i.observed.is_serving()
        };
        let failed = cluster.failed_slots(&id, service).map(|(slot, why)| format!("slot {slot}: {why}"));
        ServiceView {
            spec: (*service.spec).clone(),
            address: service.reached_at(),
            revision: service.revision,
            wanted: wanted(cluster, &id, service) as u32,
            rollout: self.rollout(&id, service),
            serving: cluster.instances_of(&id).filter(|(_, instance)| serves(instance)).count() as u32,
            completed: cluster.ended_slots(&id, service) as u32,
            failed: failed.collect(),
            next_run: next_run(service),
            blocked: self.plan.reasons(&id),
            failure: failure(cluster, &id),
            id,
        }
    }

    fn rollout(&self, id: &ServiceId, service: &Service) -> RolloutView {
        RolloutView {
            state: service.rollout.state,
            since: service.rollout.since,
            from_revision: service.stable.as_ref().map(|stable| stable.revision),
            back_from: service.rollout.back_from,
            why: service.rollout.why.clone(),
            output: service.rollout.output.clone(),
            canary: canary(self.cluster, id, service, self.now),
        }
    }
}

/// What is wrong with the newest instance of a service that should serve and does not.
fn failure(cluster: &State, id: &ServiceId) -> Option<FailureView> {
    let is_unwell = |i: &Instance| i.fills_slot() && !i.observed.is_serving() && i.observed.phase != Phase::Completed;
    let why = |i: &Instance| {
        let said = [&i.observed.message, &i.observed.failure];
        said.into_iter().find(|text| !text.is_empty()).cloned()
    };
    let unwell = cluster.instances_of(id).filter(|(_, i)| is_unwell(i)).filter_map(|(id, i)| Some((id, i, why(i)?)));
    let (id, instance, why) = unwell.max_by_key(|(id, i, _)| (i.created_at, id.incarnation))?;
    let host = cluster.hosts().get(&instance.host).map(|host| host.name.clone());
    Some(FailureView { instance: id.clone(), host, why, output: instance.observed.output.clone() })
}

/// The first instances of a revision, while the others do not follow.
fn canary(cluster: &State, id: &ServiceId, service: &Service, now: Timestamp) -> Option<CanaryView> {
    let stands = plan::canary_stands(service, cluster.instances_of(id), now)?;
    Some(CanaryView { wanted: stands.wanted as u32, settled: stands.count as u32, promote_at: stands.promote_at })
}

/// When a job with a schedule is due next.
fn next_run(service: &Service) -> Option<Timestamp> {
    service.spec.cron.as_ref()?.parse().ok()?.next_after(service.runs.last)
}

/// How many instances a service wants: its replicas, or the hosts that it covers now.
pub fn wanted(cluster: &State, id: &ServiceId, service: &Service) -> usize {
    match service.spec.mode {
        Mode::Replicated | Mode::Job => service.spec.replicas as usize,
        Mode::Global => plan::wanted_slots(cluster, id, service).len(),
    }
}

/// The instances that `wanted` chooses.
pub fn instances(cluster: &State, wanted: impl Fn(&InstanceId, &Instance) -> bool) -> Vec<InstanceView> {
    cluster
        .instances()
        .iter()
        .filter(|(id, instance)| wanted(id, instance))
        .map(|(id, instance)| instance_view(cluster, id, instance))
        .collect()
}

fn instance_view(cluster: &State, id: &InstanceId, instance: &Instance) -> InstanceView {
    let host = cluster.hosts().get(&instance.host);
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
        devices: instance.devices.clone(),
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
            Health::Gone => "gone",
        },
        (.., Phase::Stopping) => "restarting",
        (.., Phase::Completed) => "completed",
        (.., Phase::Failed) => "failed",
        (.., Phase::Rejected) => "rejected",
        (.., Phase::Stopped | Phase::Purged) => "stopped",
    }
}

/// All hosts.
pub fn hosts(cluster: &State) -> Vec<HostView> {
    let view = |(id, host): (&HostId, &crate::state::Host)| HostView {
        id: *id,
        name: host.name.clone(),
        liveness: host.liveness,
        left_at: host.left_at,
        number: host.number,
        availability: host.availability,
        labels: host.labels.clone(),
        conditions: host.conditions.clone(),
        facts: host.facts.clone(),
        claims: host.claims.in_words(),
        refused: host.claims.refused.clone(),
        member: cluster.member_on(*id),
        instances: cluster.instances_on(*id).filter(|(_, instance)| instance.holds_bookings()).count(),
        reserved: cluster.bookings(*id).reserved,
        oversubscription: host.oversubscription,
        joined_at: host.joined_at,
        subnet: host.subnet,
    };
    cluster.hosts().iter().map(view).collect()
}
