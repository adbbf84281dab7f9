//! The parts of a service's instances: which exist, their start order, and what each waits for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Condition, ContainerSpec, Mode, MountSource, Resources, RestartCondition, RestartPolicy, ServiceSpec, VolumeName,
};
use crate::{device::DeviceRequest, file::FileSpec, name::Name, part::Part, time::Span};

/// A container beside the main one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Sidekick {
    /// The spec of the container.
    pub container: ContainerSpec,
    /// Other sidekicks, or the service's main container, that must be up first.
    #[serde(default)]
    pub depends_on: BTreeMap<Name, Condition>,
}

impl ServiceSpec {
    /// The parts of an instance of the service with this name, in start order; they stop in reverse order. `None` if
    /// their dependencies form a cycle.
    pub fn start_order(&self, own: &Name) -> Option<Vec<Part>> {
        let mut order = Vec::with_capacity(1);
        if self.has_network_part() {
            order.push(Part::Network);
        }
        order.extend((1..).map(Part::Step).take(self.pre_start.len()));
        let mut left: Vec<Part> = self.sidekicks.keys().cloned().map(Part::Sidekick).collect();
        left.push(Part::Main);
        while !left.is_empty() {
            // Among parts that could start, the main container comes last.
            let is_free = |part: &Part| self.peers_of(own, part).iter().all(|(peer, _)| !left.contains(peer));
            let next = left.iter().position(is_free)?;
            order.push(left.remove(next));
        }
        Some(order)
    }

    /// The parts that a part must wait for before it starts.
    pub fn waits_of(&self, own: &Name, part: &Part) -> Vec<(Part, Condition)> {
        let mut waits = Vec::new();
        if self.has_network_part() && *part != Part::Network {
            waits.push((Part::Network, Condition::Started));
        }
        let steps = self.pre_start.len() as u32;
        let last = match part {
            Part::Network => 0,
            Part::Step(number) => number - 1,
            Part::Main | Part::Sidekick(_) => steps,
        };
        waits.extend((1..=last).map(|step| (Part::Step(step), Condition::Completed)));
        waits.extend(self.peers_of(own, part));
        waits
    }

    /// The main container and sidekicks in the `depends_on` of a part.
    fn peers_of(&self, own: &Name, part: &Part) -> Vec<(Part, Condition)> {
        let named = match part {
            Part::Main => Some(&self.depends_on),
            Part::Sidekick(name) => self.sidekicks.get(name).map(|sidekick| &sidekick.depends_on),
            Part::Network | Part::Step(_) => None,
        };
        let peer = |(name, condition): (&Name, &Condition)| match self.sidekicks.contains_key(name) {
            true => Some((Part::Sidekick(name.clone()), *condition)),
            false => (name == own).then_some((Part::Main, *condition)),
        };
        named.into_iter().flatten().filter_map(peer).collect()
    }

    /// Whether a separate container holds the network of each instance.
    pub fn has_network_part(&self) -> bool {
        !self.sidekicks.is_empty()
    }

    /// The spec of a part's container; `None` for the network holder, which wharf defines.
    pub fn container_of(&self, part: &Part) -> Option<&ContainerSpec> {
        match part {
            Part::Main => Some(&self.container),
            Part::Network => None,
            Part::Step(number) => self.pre_start.get(*number as usize - 1),
            Part::Sidekick(name) => self.sidekicks.get(name).map(|sidekick| &sidekick.container),
        }
    }

    /// The restart policy of a part. Steps and jobs are not restarted after they have ended well, and a failed run of a
    /// schedule is not retried, because the next run follows.
    pub fn restart_of(&self, part: &Part) -> RestartPolicy {
        let mut policy = self.container_of(part).map_or_else(RestartPolicy::default, |c| c.restart.clone());
        if policy.condition == RestartCondition::Any {
            policy.condition = match part {
                Part::Main if self.cron.is_some() => RestartCondition::None,
                Part::Main if self.mode == Mode::Job => RestartCondition::OnFailure,
                Part::Step(_) => RestartCondition::OnFailure,
                Part::Main | Part::Sidekick(_) | Part::Network => RestartCondition::Any,
            };
        }
        policy
    }

    /// The time between a part's SIGTERM and SIGKILL.
    pub fn stop_grace_of(&self, part: &Part) -> Span {
        self.container_of(part).map_or(Span::seconds(1), |container| container.stop_grace)
    }

    /// The specs of its containers: the main one, then steps, then sidekicks.
    pub fn containers(&self) -> impl Iterator<Item = (Part, &ContainerSpec)> {
        let steps = (1..).map(Part::Step).zip(&self.pre_start);
        let sidekicks = self.sidekicks.iter().map(|(name, s)| (Part::Sidekick(name.clone()), &s.container));
        std::iter::once((Part::Main, &self.container)).chain(steps).chain(sidekicks)
    }

    /// Like [`containers`](Self::containers), for changes.
    pub fn containers_mut(&mut self) -> impl Iterator<Item = &mut ContainerSpec> {
        let sidekicks = self.sidekicks.values_mut().map(|sidekick| &mut sidekick.container);
        std::iter::once(&mut self.container).chain(&mut self.pre_start).chain(sidekicks)
    }

    /// The resources that the planner reserves for an instance: the sum over the containers that run at the same time,
    /// or the maximum over the steps if that is larger.
    pub fn reservations(&self) -> Resources {
        let together = self.sidekicks.values().map(|sidekick| &sidekick.container);
        let sum = together.fold(self.container.reservations, |sum, container| sum + container.reservations);
        self.pre_start.iter().fold(sum, |most, step| most.max(step.reservations))
    }

    /// The devices reserved for its containers, by part and kind.
    pub fn devices(&self) -> impl Iterator<Item = (Part, &str, &DeviceRequest)> {
        self.containers().flat_map(|(part, container)| {
            container.devices.iter().map(move |(kind, request)| (part.clone(), kind.as_str(), request))
        })
    }

    /// The configs and secrets of all its containers, in the order of [`containers`](Self::containers).
    pub fn files(&self) -> impl Iterator<Item = (Part, &FileSpec)> {
        self.containers().flat_map(|(part, container)| container.files.iter().map(move |file| (part.clone(), file)))
    }

    /// The named volumes that its containers mount.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeName> {
        let mounts = self.containers().flat_map(|(_, container)| &container.mounts);
        mounts.filter_map(|mount| match &mount.source {
            MountSource::Volume(name) => Some(name),
            MountSource::Bind(_) | MountSource::Anonymous | MountSource::Tmpfs(_) => None,
        })
    }

    /// Whether it mounts any named volume.
    pub fn has_volume(&self) -> bool {
        self.volumes().next().is_some()
    }

    /// Whether its data ties it to a host: it mounts a named volume that is not shared by all hosts.
    pub fn is_pinned(&self) -> bool {
        let is_shared = |name: &VolumeName| self.volumes.get(name).is_some_and(|volume| volume.is_shared());
        self.volumes().any(|name| !is_shared(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn spec(sidekicks: &[(&str, &[&str])], main: &[&str]) -> ServiceSpec {
        let on = |names: &[&str]| names.iter().map(|on| (name(on), Condition::Started)).collect();
        let mut spec = ServiceSpec::of_image("web:1");
        for (own, depends_on) in sidekicks {
            let container = ContainerSpec::of_image("side:1");
            spec.sidekicks.insert(name(own), Sidekick { container, depends_on: on(depends_on) });
        }
        spec.depends_on = on(main);
        spec
    }

    fn order(spec: &ServiceSpec) -> Option<String> {
        let order = spec.start_order(&name("web"))?;
        Some(order.iter().map(Part::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn parts_start_in_the_order_of_their_needs() {
        assert_eq!(order(&spec(&[], &["db"])).as_deref(), Some("_main"));
        let mut both = spec(&[("log", &[]), ("proxy", &["web"])], &["db"]);
        both.pre_start.push(ContainerSpec::of_image("migrate:1"));
        assert_eq!(order(&both).as_deref(), Some("_network _step-1 log _main proxy"));
        assert_eq!(order(&spec(&[("a", &["b"]), ("b", &[])], &["a"])).as_deref(), Some("_network b a _main"));
        assert_eq!(order(&spec(&[("a", &["b"]), ("b", &["a"])], &[])), None);
        assert_eq!(order(&spec(&[("a", &["web"])], &["a"])), None);
    }

    #[test]
    fn what_is_set_aside_covers_all_that_runs_at_a_time() {
        let mut spec = spec(&[("proxy", &[])], &[]);
        spec.container.reservations.cpu.0 = 500;
        for container in spec.containers_mut().skip(1) {
            container.reservations.cpu.0 = 300;
        }
        spec.pre_start.push(ContainerSpec::of_image("migrate:1"));
        spec.pre_start[0].reservations.memory.0 = 64;
        assert_eq!((spec.reservations().cpu.0, spec.reservations().memory.0), (800, 64));
    }
}
