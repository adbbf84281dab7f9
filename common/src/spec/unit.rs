//! The parts of a service's instances: which there are, in which order they start, and what each waits for.

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
    /// What it is made from.
    pub container: ContainerSpec,
    /// Other sidekicks, or the service itself, that must be up before it starts.
    #[serde(default)]
    pub depends_on: BTreeMap<Name, Condition>,
}

impl ServiceSpec {
    /// The parts of an instance of the service of that name, in the order in which they start; they end in the
    /// reverse of it. Nothing if they wait for one another in a circle.
    pub fn start_order(&self, own: &Name) -> Option<Vec<Part>> {
        let mut order = Vec::with_capacity(1);
        if self.has_network_part() {
            order.push(Part::Network);
        }
        order.extend((1..).map(Part::Step).take(self.pre_start.len()));
        let mut left: Vec<Part> = self.sidekicks.keys().cloned().map(Part::Sidekick).collect();
        left.push(Part::Main);
        while !left.is_empty() {
            // The main one comes last of those that could.
            let is_free = |part: &Part| self.peers_of(own, part).iter().all(|(peer, _)| !left.contains(peer));
            let next = left.iter().position(is_free)?;
            order.push(left.remove(next));
        }
        Some(order)
    }

    /// What must have come how far before a part may start.
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

    /// The main container and sidekicks that a part names in its `depends_on`.
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

    /// Whether a container of its own holds the network of each instance.
    pub fn has_network_part(&self) -> bool {
        !self.sidekicks.is_empty()
    }

    /// What a part's container is made from; the holder of the network is the platform's own.
    pub fn container_of(&self, part: &Part) -> Option<&ContainerSpec> {
        match part {
            Part::Main => Some(&self.container),
            Part::Network => None,
            Part::Step(number) => self.pre_start.get(*number as usize - 1),
            Part::Sidekick(name) => self.sidekicks.get(name).map(|sidekick| &sidekick.container),
        }
    }

    /// What its host does when a part's program ends. A step or a job that has ended well has ended, and a run of a
    /// schedule that failed is not tried again: the next one is.
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

    /// What its containers are made from: the main one first, then the steps and the sidekicks.
    pub fn containers(&self) -> impl Iterator<Item = (Part, &ContainerSpec)> {
        let steps = (1..).map(Part::Step).zip(&self.pre_start);
        let sidekicks = self.sidekicks.iter().map(|(name, s)| (Part::Sidekick(name.clone()), &s.container));
        std::iter::once((Part::Main, &self.container)).chain(steps).chain(sidekicks)
    }

    /// The same, to be changed.
    pub fn containers_mut(&mut self) -> impl Iterator<Item = &mut ContainerSpec> {
        let sidekicks = self.sidekicks.values_mut().map(|sidekick| &mut sidekick.container);
        std::iter::once(&mut self.container).chain(&mut self.pre_start).chain(sidekicks)
    }

    /// What placement sets aside for an instance: the sum of what runs at the same time, or the most that a
    /// step takes alone, if that is more.
    pub fn reservations(&self) -> Resources {
        let together = self.sidekicks.values().map(|sidekick| &sidekick.container);
        let sum = together.fold(self.container.reservations, |sum, container| sum + container.reservations);
        self.pre_start.iter().fold(sum, |most, step| most.max(step.reservations))
    }

    /// The devices that its containers have to themselves, by part and kind.
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

    /// Whether it mounts a named volume.
    pub fn has_volume(&self) -> bool {
        self.volumes().next().is_some()
    }

    /// Whether its data lies on one host: it mounts a named volume that is not the same on every host.
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
