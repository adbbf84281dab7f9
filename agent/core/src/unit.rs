//! How the parts of an instance depend on one another: which parts one waits for, which part's end is the end of all, and
//! how the instance as a whole stands.

use common::{
    assignment::AssignedInstance,
    instance::{Health, Observed, Phase, Unprepared, Want},
    part::{Part, PartId},
    spec::Condition,
    time::Timestamp,
};

use crate::{
    memory::Memory,
    observed::{Container, ContainerState},
    reconcile::Situation,
};

/// An instance and all of its parts, in the order in which they start.
pub(crate) struct Unit<'a> {
    pub(crate) situation: Situation<'a>,
    pub(crate) instance: &'a AssignedInstance,
    pub(crate) parts: Vec<PartId>,
}

/// The influence of an instance's other parts on one of them.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// The reason why it may not start yet.
    pub(crate) waits: Option<String>,
    /// Whether its container cannot be made yet, because the container that holds its network is missing.
    pub(crate) lacks_network: bool,
    /// When the network that it shares was made, if it shares one.
    pub(crate) network: Option<Timestamp>,
    /// Whether others have to end before it.
    pub(crate) others_end_first: bool,
    /// Whether a part that it depends on is not up: its health check may say nothing of itself.
    pub(crate) lacks_peer: bool,
}

impl<'a> Unit<'a> {
    pub(crate) fn of(situation: Situation<'a>, instance: &'a AssignedInstance) -> Unit<'a> {
        let parts = instance.parts().into_iter().map(|part| instance.id.part(part)).collect();
        Unit { situation, instance, parts }
    }

    /// The desired state of each part. Once the main part has ended for good, or any other part has failed for good, the
    /// rest ends too.
    pub(crate) fn want(&self, memory: &Memory) -> Want {
        let wanted = self.instance.desired.want;
        if self.parts.len() > 1 && self.end(memory).is_some() { wanted.max(Want::Stop) } else { wanted }
    }

    /// The part whose end is that of the instance.
    fn end(&self, memory: &Memory) -> Option<&PartId> {
        let phase = |id: &PartId| memory.0.get(id).map(|local| local.observed.phase);
        let has_failed = |id: &&PartId| matches!(phase(id), Some(Phase::Failed | Phase::Rejected));
        let is_done = |id: &&PartId| id.part == Part::Main && phase(id) == Some(Phase::Completed);
        self.parts.iter().find(has_failed).or_else(|| self.parts.iter().find(is_done))
    }

    pub(crate) fn surroundings(&self, index: usize, memory: &Memory) -> Surroundings {
        if self.parts.len() == 1 {
            return Surroundings::default();
        }
        let id = &self.parts[index];
        let network = self.instance.spec.has_network_part() && id.part != Part::Network;
        let network = network.then(|| self.container(&Part::Network));
        let made_at = |container: &Container| match container.state {
            ContainerState::Running { started_at, .. } => Some(started_at),
            ContainerState::Created | ContainerState::Exited { .. } => None,
        };
        let later = &self.parts[index + 1..];
        Surroundings {
            waits: self.waits(id, memory),
            lacks_network: network == Some(None),
            network: network.flatten().and_then(made_at),
            others_end_first: later.iter().any(|id| self.runs(id)),
            lacks_peer: self.needs(id).iter().any(|(peer, condition)| !self.is_met(peer, *condition, memory)),
        }
    }

    fn needs(&self, id: &PartId) -> Vec<(Part, Condition)> {
        self.instance.spec.waits_of(&id.instance.service().service, &id.part)
    }

    /// The reason why a part may not start yet. Once it has run, it needs only its network to be started again.
    fn waits(&self, id: &PartId, memory: &Memory) -> Option<String> {
        let has_run =
            self.situation.containers.get(id).is_some_and(|container| container.state != ContainerState::Created);
        let unmet = |(peer, condition): &(Part, Condition)| {
            (!has_run || *peer == Part::Network) && !self.is_met(peer, *condition, memory)
        };
        let (peer, _) = self.needs(id).into_iter().find(unmet)?;
        let why = memory.0.get(&id.instance.part(peer.clone())).map_or("", |local| local.observed.message.as_str());
        Some(if why.is_empty() {
            format!("it waits for {}", peer.told())
        } else {
            format!("it waits for {}: {why}", peer.told())
        })
    }

    fn is_met(&self, peer: &Part, condition: Condition, memory: &Memory) -> bool {
        let id = self.instance.id.part(peer.clone());
        let Some(observed) = memory.0.get(&id).map(|local| &local.observed) else { return false };
        match condition {
            Condition::Started => self.runs(&id) || observed.phase == Phase::Completed,
            Condition::Healthy => observed.is_serving(),
            Condition::Completed => observed.phase == Phase::Completed,
        }
    }

    fn container(&self, part: &Part) -> Option<&'a Container> {
        self.situation.containers.get(&self.instance.id.part(part.clone()))
    }

    fn runs(&self, id: &PartId) -> bool {
        self.situation.containers.get(id).is_some_and(Container::runs)
    }

    /// Agents that have lost their ledger must not report fewer restarts than the cluster knows of.
    pub(crate) fn catch_up(&self, memory: &mut Memory) {
        let known = self.restarts(memory);
        if let Some(main) = memory.0.get_mut(&self.instance.id.main()) {
            main.observed.restart += self.instance.restarts.saturating_sub(known);
        }
    }

    fn restarts(&self, memory: &Memory) -> u32 {
        self.parts.iter().filter_map(|id| memory.0.get(id)).map(|local| local.observed.restart).sum()
    }

    /// The image of the first part of which no container can be made.
    fn unprepared(&self, memory: &Memory) -> Option<Unprepared> {
        let failing = |id: &PartId| Some((id.part.clone(), memory.0.get(id)?.unprepared_since?));
        let (part, since) = self.parts.iter().find_map(failing)?;
        let spec = &self.instance.spec;
        let container = spec.container_of(&part).unwrap_or(&spec.container);
        Some(Unprepared { image: container.image.clone(), since })
    }

    /// The state of the instance as a whole. It has ended once none of its parts runs any more.
    pub(crate) fn observed(&self, memory: &Memory) -> Observed {
        let Some(main) = memory.0.get(&self.instance.id.main()) else { return Observed::nothing() };
        let mut whole = main.observed.clone();
        let has_network = if self.instance.spec.has_network_part() { &Part::Network } else { &Part::Main };
        whole.address = self.container(has_network).and_then(|container| container.address);
        whole.unprepared = self.unprepared(memory);
        if self.parts.len() == 1 {
            return whole;
        }
        whole.restart = self.restarts(memory);
        if let Some((end, local)) = self.end(memory).and_then(|end| Some((end, memory.0.get(end)?))) {
            whole.phase = local.observed.phase;
            whole.exit_code = local.observed.exit_code;
            whole.message = said_by(&end.part, &local.observed);
            whole.failure = failed_by(&end.part, &local.observed);
            whole.output.clone_from(&local.observed.output);
        }
        let others = || self.parts.iter().filter_map(|id| Some((id, &memory.0.get(id)?.observed)));
        if whole.phase.is_terminal() {
            whole.health = Health::Unchecked;
            if self.parts.iter().any(|id| self.runs(id)) {
                whole.phase = Phase::Stopping;
            } else if whole.phase == Phase::Purged && others().any(|(_, other)| other.phase != Phase::Purged) {
                whole.phase = Phase::Stopped;
            }
        } else if whole.is_serving() {
            let is_whole = |other: &Observed| other.is_serving() || other.phase == Phase::Completed;
            if let Some((id, other)) = others().find(|(_, other)| !is_whole(other)) {
                whole.health = match other.health {
                    Health::Unhealthy => Health::Unhealthy,
                    Health::Gone => Health::Gone,
                    Health::Unchecked | Health::Starting | Health::Healthy => Health::Starting,
                };
                whole.message = said_by(&id.part, other);
                whole.failure = failed_by(&id.part, other);
                whole.output.clone_from(&other.output);
            }
        }
        whole
    }
}

/// The message of a part, with its name unless it is the main one.
fn said_by(part: &Part, observed: &Observed) -> String {
    match (part, observed.message.as_str()) {
        (Part::Main, message) => message.to_owned(),
        (part, "") => format!("{} is not up: {}", part.told(), format!("{:?}", observed.phase).to_lowercase()),
        (part, message) => format!("{}: {message}", part.told()),
    }
}

/// Why a part failed last, with its name unless it is the main one.
fn failed_by(part: &Part, observed: &Observed) -> String {
    match (part, observed.failure.as_str()) {
        (Part::Main, failure) => failure.to_owned(),
        (_, "") => String::new(),
        (part, failure) => format!("{}: {failure}", part.told()),
    }
}

#[cfg(test)]
mod tests;
