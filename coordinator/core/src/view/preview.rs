//! What a spec would do, found by trying it on a copy of the state.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use common::{
    api::{
        Change, ChangeKind, Downtime, PortPlan, Replacement, ServiceChange, ServicePlan, StackPlan, Unplaceable,
        VolumePlan,
    },
    error::Problem,
    id::{HostId, ServiceId, StackId},
    name::Name,
    spec::{Mode, PortSpec, ServiceSpec, StackSpec, UpdateOrder, VolumeName},
    time::{Span, Timestamp},
};

use super::{changes::changes, wanted};
use crate::{
    Plan, State,
    command::{Batch, Command, Outcome},
    plan,
};

/// What a command that changes a stack would do.
pub fn stack_plan(cluster: &State, id: &StackId, command: &Command, now: Timestamp) -> Result<StackPlan, Problem> {
    let mut after = cluster.clone();
    let outcomes = after.apply(&Batch { at: now, proposals: vec![command.clone().into()] });
    if let Some(Outcome::Rejected(problem)) = outcomes.into_iter().next() {
        return Err(problem);
    }
    let revision = |cluster: &State| cluster.stacks().get(id).map_or(0, |stack| stack.revision);
    let preview = Preview::of(cluster, after, id, now);
    let services: Vec<ServicePlan> =
        changes(&preview.spec_before, &preview.spec).map(|change| preview.service(change)).collect();
    let blocked = preview.plan.blocked.iter().filter(|(service, _)| service.stack == *id);
    let unplaceable = blocked.flat_map(|(service, reasons)| {
        reasons.iter().map(|reason| Unplaceable { service: service.service.clone(), reason: reason.to_string() })
    });
    Ok(StackPlan {
        id: id.clone(),
        from_revision: revision(cluster),
        to_revision: revision(&preview.after),
        unplaceable: unplaceable.collect(),
        volumes: preview.volumes(&services),
        services,
    })
}

/// The state before a change and after it, and where the planner would place what is missing then.
struct Preview<'a> {
    id: &'a StackId,
    before: &'a State,
    after: State,
    spec_before: Arc<StackSpec>,
    spec: Arc<StackSpec>,
    plan: Plan,
}

impl<'a> Preview<'a> {
    fn of(before: &'a State, mut after: State, id: &'a StackId, now: Timestamp) -> Preview<'a> {
        let spec = |cluster: &State| {
            cluster.stacks().get(id).filter(|stack| !stack.removing).map(|stack| stack.spec.clone()).unwrap_or_default()
        };
        let (spec_before, spec) = (spec(before), spec(&after));
        // Where everything goes is to be known before anything runs: nothing waits for anything here.
        after.suppose_no_dependencies(id);
        let plan = plan::plan(&after, now);
        Preview { id, before, after, spec_before, spec, plan }
    }

    fn service(&self, change: ServiceChange) -> ServicePlan {
        let (before, after) = (self.spec_before.services.get(&change.service), self.spec.services.get(&change.service));
        let id = self.id.service(change.service.clone());
        let count = |cluster: &State| cluster.service(&id).map_or(0, |service| wanted(cluster, &id, service) as u32);
        let hosts = self.hosts(&id, after);
        let instances = count(&self.after);
        ServicePlan {
            mode: after.or(before).map_or(Mode::default(), |spec| spec.mode),
            schedule: after.and_then(|spec| spec.cron.as_ref()).map(|cron| cron.schedule.clone()),
            instances_before: count(self.before),
            instances,
            ports: self.ports(before, after, &hosts),
            privileges: after.map(|spec| spec.privileges().into_iter().collect()).unwrap_or_default(),
            replacement: match (change.kind, before, after) {
                (ChangeKind::Update, Some(before), Some(after)) => Some(replacement(before, after, instances)),
                _ => None,
            },
            hosts: names(&self.after, &hosts),
            change,
        }
    }

    /// Where its instances will be: those that it has, unless the planner gives their slots to others.
    fn hosts(&self, id: &ServiceId, after: Option<&ServiceSpec>) -> BTreeSet<HostId> {
        let Some(service) = self.after.service(id).filter(|_| after.is_some()) else { return BTreeSet::new() };
        let slots: BTreeSet<u32> = plan::wanted_slots(&self.after, id, service).into_iter().collect();
        let present = self.after.instances_of(id).filter(|(id, i)| i.fills_slot() && slots.contains(&id.slot.slot));
        let mut by_slot: BTreeMap<u32, HostId> = present.map(|(id, i)| (id.slot.slot, i.host)).collect();
        for command in &self.plan.commands {
            if let Command::Place(placement) = command
                && placement.slot.service == *id
            {
                by_slot.insert(placement.slot.slot, placement.host);
            }
        }
        by_slot.into_values().collect()
    }

    fn ports(
        &self,
        before: Option<&ServiceSpec>,
        after: Option<&ServiceSpec>,
        hosts: &BTreeSet<HostId>,
    ) -> Vec<PortPlan> {
        let of = |spec: Option<&ServiceSpec>| spec.map_or_else(Vec::new, |spec| spec.ports.clone());
        let (before, after) = (of(before), of(after));
        let closed = before.iter().filter(|port| !after.contains(port));
        let closed = closed.map(|port| port_plan(port, Some(Change::Removed), false));
        let open = after.iter().map(|port| {
            let change = (!before.contains(port)).then_some(Change::Added);
            port_plan(port, change, self.is_public(port, hosts))
        });
        closed.chain(open).collect()
    }

    /// Whether the internet reaches a port on one of these hosts, as far as their addresses tell.
    fn is_public(&self, port: &PortSpec, hosts: &BTreeSet<HostId>) -> bool {
        let facts = hosts.iter().filter_map(|id| self.after.hosts().get(id)?.facts.as_ref());
        let mut addresses: Vec<IpAddr> = facts.map(|facts| facts.address).collect();
        if let Some(address) = port.host_ip.filter(|address| !address.is_unspecified()) {
            addresses = vec![address];
        }
        addresses.into_iter().any(is_public)
    }

    /// The volumes that services mount, before the change or after it.
    fn volumes(&self, services: &[ServicePlan]) -> Vec<VolumePlan> {
        let (before, after) = (users(&self.spec_before), users(&self.spec));
        let all: BTreeSet<&VolumeName> = before.keys().chain(after.keys()).collect();
        let plan = |name: &VolumeName| {
            let users = after.get(name).or_else(|| before.get(name)).cloned().unwrap_or_default();
            let has_data = self.data_of(&users);
            let change = match (before.contains_key(name), after.contains_key(name)) {
                (_, false) => Some(Change::Removed),
                (false, true) => Some(Change::Added),
                (true, true) => None,
            };
            let of_users = services.iter().filter(|plan| users.contains(&plan.change.service));
            let planned = of_users.flat_map(|plan| plan.hosts.clone());
            let hosts = names(&self.after, &has_data).into_iter().chain(planned).collect::<BTreeSet<Name>>();
            let declared = |spec: &StackSpec| spec.volumes.get(name).cloned();
            let declared = declared(&self.spec).or_else(|| declared(&self.spec_before)).unwrap_or_default();
            let (docker, external, shared) =
                (declared.docker_name(self.id, name), declared.external, declared.is_shared());
            let (volume, hosts) = (name.clone(), hosts.into_iter().collect());
            VolumePlan { volume, docker, external, shared, change, hosts, services: users }
        };
        all.into_iter().map(plan).collect()
    }

    /// The hosts that hold the data of these services' slots.
    fn data_of(&self, services: &[Name]) -> BTreeSet<HostId> {
        let holds = |service: &Name| {
            let id = self.id.service(service.clone());
            self.before.instances_of(&id).filter(|(_, i)| i.fills_slot()).map(|(_, i)| i.host).collect::<Vec<_>>()
        };
        services.iter().flat_map(holds).collect()
    }
}

fn names(cluster: &State, hosts: &BTreeSet<HostId>) -> Vec<Name> {
    let mut names: Vec<Name> =
        hosts.iter().filter_map(|id| cluster.hosts().get(id)).map(|host| host.name.clone()).collect();
    names.sort_unstable();
    names
}

/// Which services mount each volume.
fn users(spec: &StackSpec) -> BTreeMap<VolumeName, Vec<Name>> {
    let mut users: BTreeMap<VolumeName, Vec<Name>> = BTreeMap::new();
    for (name, service) in &spec.services {
        for volume in service.volumes() {
            let of_volume = users.entry(volume.clone()).or_default();
            if !of_volume.contains(name) {
                of_volume.push(name.clone());
            }
        }
    }
    users
}

fn port_plan(port: &PortSpec, change: Option<Change>, public: bool) -> PortPlan {
    let PortSpec { container, published, protocol, host_ip } = port.clone();
    let address = host_ip.filter(|address| !address.is_unspecified());
    PortPlan { published, container, protocol, address, change, public }
}

/// Whether an address is one of the internet's: none of those that are set aside for other uses.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared)
                && !(v4.is_documentation() || v4.is_multicast() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => (v6.segments()[0] & 0xe000) == 0x2000 && v6.segments()[..2] != [0x2001, 0xdb8],
    }
}

fn replacement(before: &ServiceSpec, after: &ServiceSpec, instances: u32) -> Replacement {
    let why = after.stops_first().or(before.stops_first());
    let order = why.map_or(after.update.order, |_| Some(UpdateOrder::StopFirst));
    let at_a_time = after.update.parallelism;
    // The parts of an instance stop one after the other.
    let stop =
        before.containers().fold(Span(0), |sum, (_, container)| Span(sum.0.saturating_add(container.stop_grace.0)));
    let at_once = if at_a_time == 0 { instances } else { at_a_time.min(instances) };
    let downtime = match order {
        // A job serves nobody.
        _ if after.mode == Mode::Job => Downtime::None,
        Some(UpdateOrder::StopFirst) if at_once < instances => Downtime::Some { instances: at_once, stop },
        Some(UpdateOrder::StopFirst) => Downtime::All { stop },
        Some(UpdateOrder::StartFirst) | None => Downtime::None,
    };
    Replacement {
        at_a_time,
        order,
        why: why.map(str::to_owned),
        downtime,
        on_failure: after.update.on_failure,
        canary: after.update.canary.clone(),
    }
}

#[cfg(test)]
mod tests;
