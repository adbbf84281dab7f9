//! Whether a host suits a service: by what it is, and by what else runs there.

use std::sync::Arc;

use common::{
    id::{HostId, ServiceId},
    spec::{Constraint, ServiceSpec},
};

use super::{Host, State};

/// A host that a service's instance might go to.
pub struct Candidate<'a> {
    /// The state that it is part of.
    pub cluster: &'a State,
    /// The service.
    pub service: &'a ServiceId,
    /// The host.
    pub id: HostId,
    /// Its record.
    pub host: &'a Host,
    /// What a pass of the planner has placed there already.
    pub placed: &'a [(ServiceId, Arc<ServiceSpec>)],
    /// Whether the service has no instance anywhere yet.
    pub is_first: bool,
    /// Whether its own instances count: not those of a global service, which is on its hosts because it is.
    pub own_counts: bool,
}

impl Candidate<'_> {
    /// Whether it is what a constraint asks for.
    pub fn meets(&self, constraint: &Constraint) -> bool {
        let Some(facts) = &self.host.facts else { return false };
        match constraint.key.as_str() {
            "node.id" => constraint.allows(&[&self.id.to_string()]),
            "node.hostname" => constraint.allows(&[self.host.name.as_str(), &facts.hostname]),
            "node.role" => {
                let is_member = self.cluster.member_on(self.id).is_some();
                constraint.allows(&[if is_member { "manager" } else { "worker" }])
            }
            "node.platform.os" => constraint.allows(&[&facts.os]),
            "node.platform.arch" => constraint.allows(&names_of_arch(&facts.arch)),
            "node.platform.kernel" => constraint.allows(&[&facts.kernel]),
            "engine.version" => constraint.allows(&[&facts.docker]),
            Constraint::SERVICE => {
                let names: Vec<&str> = self.stack_mates().map(|service| service.service.as_str()).collect();
                // What wants to be where it is may begin anywhere.
                let asks_for_itself = || constraint.allows(&[self.service.service.as_str()]) && !constraint.allows(&[]);
                constraint.allows(&names) || (self.is_first && asks_for_itself())
            }
            _ => {
                if let Some(label) = constraint.container_label() {
                    let labels = self.neighbours().map(|(_, spec)| &spec.container.labels);
                    let values: Vec<&str> = labels.filter_map(|labels| labels.get(label)).map(String::as_str).collect();
                    return constraint.allows(&values);
                }
                match constraint.label().and_then(|label| self.host.labels.get(label)) {
                    Some(value) => constraint.allows(&[value]),
                    None => constraint.allows(&[]),
                }
            }
        }
    }

    /// What runs there of the same environment.
    fn neighbours(&self) -> impl Iterator<Item = (&ServiceId, &ServiceSpec)> {
        let running = self.cluster.instances_on(self.id).filter(|(_, instance)| instance.fills_slot());
        let running = running.map(|(id, instance)| (id.service(), &*instance.spec));
        let placed = self.placed.iter().map(|(id, spec)| (id, &**spec));
        let counts = |(id, _): &(&ServiceId, _)| {
            id.stack.environment == self.service.stack.environment && (self.own_counts || *id != self.service)
        };
        running.chain(placed).filter(counts)
    }

    fn stack_mates(&self) -> impl Iterator<Item = &ServiceId> {
        self.neighbours().map(|(id, _)| id).filter(|id| id.stack == self.service.stack)
    }
}

impl State {
    /// What other services of the stack do not want beside them: if `a` is not to be where `b` is, `b` is not
    /// to be where `a` is.
    pub fn shunned_by(&self, id: &ServiceId) -> Vec<Constraint> {
        let Some(stack) = self.work.stacks.get(&id.stack) else { return Vec::new() };
        let shuns = |constraint: &Constraint| {
            constraint.key == Constraint::SERVICE
                && !constraint.allows(&[id.service.as_str()])
                && constraint.allows(&[])
        };
        let others = stack.services.iter().filter(|(name, _)| **name != id.service);
        let shunning = others.filter(|(_, service)| service.spec.constraints.iter().any(shuns));
        shunning.map(|(name, _)| Constraint::without_service(name)).collect()
    }
}

/// Docker says x86_64 and aarch64, people and images say amd64 and arm64: both are right.
pub(in crate::state) fn names_of_arch(arch: &str) -> [&str; 2] {
    match arch {
        "x86_64" | "amd64" => ["x86_64", "amd64"],
        "aarch64" | "arm64" => ["aarch64", "arm64"],
        other => [other, other],
    }
}
