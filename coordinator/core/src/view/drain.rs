//! What emptying a host does, and what rebalancing does: found by trying it on a copy of the state.

use std::collections::BTreeMap;

use common::{
    api::{DrainPlan, DrainedInstance, Fate, MovedInstance},
    host::Availability,
    id::{HostId, InstanceId, ServiceId},
    instance::Want,
    spec::Mode,
    time::Timestamp,
};

use crate::{
    Plan, State,
    command::{Batch, Command, Placement},
    plan,
    state::Instance,
};

/// What emptying a host would do now, found by trying it on a copy of the state.
pub fn drain_plan(cluster: &State, id: HostId, deadline: Timestamp, now: Timestamp) -> Option<DrainPlan> {
    let host = cluster.hosts().get(&id)?.name.clone();
    let mut trial = Trial { cluster, after: cluster.clone(), host: id, now, fates: BTreeMap::new() };
    let availability = Availability::Draining { deadline };
    trial.apply(Command::SetAvailability { host: id, availability });
    for (instance_id, _) in trial.filling().filter(|(_, instance)| instance.spec.mode == Mode::Global) {
        trial.end(instance_id, Fate::EndsHere);
    }
    // Each pass moves as many as may be moved at a time; what is placed counts as serving for the next.
    let plan = loop {
        let plan = plan::plan(&trial.after, now);
        let mut moved = false;
        plan.commands.iter().for_each(|command| moved |= trial.follow(command));
        if !moved {
            break plan;
        }
    };
    let fate =
        |id: &InstanceId| trial.fates.get(id).cloned().unwrap_or_else(|| Fate::Stays { why: reasons(&plan, id) });
    let instances = trial.filling().map(|(id, _)| DrainedInstance { id: id.clone(), fate: fate(id) });
    Some(DrainPlan { host, instances: instances.collect() })
}

/// A host that is emptied on a copy of the state.
struct Trial<'a> {
    cluster: &'a State,
    after: State,
    host: HostId,
    now: Timestamp,
    /// What becomes of its instances, as far as it is known.
    fates: BTreeMap<InstanceId, Fate>,
}

impl<'a> Trial<'a> {
    /// The instances that it had.
    fn filling(&self) -> impl Iterator<Item = (&'a InstanceId, &'a Instance)> + use<'a> {
        self.cluster.instances_on(self.host).filter(|(_, instance)| instance.fills_slot())
    }

    fn apply(&mut self, command: Command) {
        self.after.apply(&Batch { at: self.now, proposals: vec![command.into()] });
    }

    fn end(&mut self, id: &InstanceId, fate: Fate) {
        self.after.forget_instance(id);
        self.fates.insert(id.clone(), fate);
    }

    /// Does what was planned, if it is about the host's instances; whether anything is to be planned anew then.
    fn follow(&mut self, command: &Command) -> bool {
        match command {
            Command::Place(placement) => self.place(placement).is_some(),
            // It stops first: its place is taken when it is gone.
            Command::Desire { instance, desired } if desired.want == Want::Purge => {
                let is_here = self.filling().any(|(left, _)| left == instance) && !self.fates.contains_key(instance);
                if is_here {
                    self.end(instance, Fate::Ends);
                }
                is_here
            }
            // The planner goes on when it is noted that a rollout is done.
            Command::MoveRollout { .. } => {
                self.apply(command.clone());
                true
            }
            _ => false,
        }
    }

    /// Places the successor of an instance, which serves at once.
    fn place(&mut self, placement: &Placement) -> Option<()> {
        let moves = |id: &InstanceId| matches!(self.fates.get(id), Some(Fate::Moves { .. }));
        let (left, _) = self.filling().find(|(left, _)| left.slot == placement.slot && !moves(left))?;
        let to = self.cluster.hosts().get(&placement.host)?.name.clone();
        self.apply(Command::Place(Box::new(placement.clone())));
        self.end(left, Fate::Moves { to });
        self.after.suppose_serving(&placement.slot.instance(placement.expect_incarnation + 1), self.now);
        Some(())
    }
}

/// What concerns an instance's slot of the reasons why its service lacks instances; never nothing.
fn reasons(plan: &Plan, id: &InstanceId) -> Vec<String> {
    let all = plan.blocked.get(id.service()).into_iter().flatten();
    let of_this = all.filter(|blocked| blocked.slot().is_none_or(|slot| slot == id.slot.slot));
    let found: Vec<String> = of_this.map(ToString::to_string).collect();
    if found.is_empty() { vec!["other instances of its service move first".to_owned()] } else { found }
}

/// Which instances rebalancing these services would move now.
pub fn rebalance_plan(cluster: &State, services: &[ServiceId], now: Timestamp) -> Vec<MovedInstance> {
    let mut after = cluster.clone();
    // What is about to serve does not keep the others from being looked at.
    for id in services.iter().flat_map(|service| cluster.instances_of(service)).map(|(id, _)| id) {
        after.suppose_serving(id, now);
    }
    let services = services.to_vec();
    after.apply(&Batch { at: now, proposals: vec![Command::Rebalance { services }.into()] });
    let name = |host: HostId| cluster.hosts().get(&host).map(|host| host.name.clone());
    let mut moves = Vec::new();
    // One instance of a service at a time; what is placed counts as serving for the next.
    loop {
        let places = plan::plan(&after, now).commands.into_iter().filter_map(|command| match command {
            Command::Place(placement) => placement.replaces.clone().map(|replaced| (placement, replaced)),
            _ => None,
        });
        let places: Vec<_> = places.filter(|(placement, _)| after.is_rebalancing(&placement.slot.service)).collect();
        if places.is_empty() {
            return moves;
        }
        for (placement, replaced) in places {
            let Some(before) = after.instances().get(&replaced).cloned() else { continue };
            let from_to = name(before.host).zip(name(placement.host));
            moves.extend(from_to.map(|(from, to)| MovedInstance { id: replaced.clone(), from, to }));
            let successor = placement.slot.instance(placement.expect_incarnation + 1);
            after.apply(&Batch { at: now, proposals: vec![Command::Place(placement).into()] });
            after.forget_instance(&replaced);
            after.suppose_serving(&successor, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use common::spec::{MountSource, MountSpec, ServiceSpec};

    use super::*;
    use crate::testing::{Fixture, host, name, web};

    /// What becomes of each instance on h1.
    fn fates(fixture: &Fixture) -> Vec<String> {
        let plan = drain_plan(&fixture.cluster, host(1), fixture.now + MINUTE, fixture.now).expect("there is h1");
        let line = |instance: &DrainedInstance| {
            let id = instance.id.to_string();
            format!("{} {}", id.trim_start_matches("default/shop/"), common::explain::fate(&instance.fate))
        };
        plan.instances.iter().map(line).collect()
    }

    const MINUTE: common::time::Span = common::time::Span::minutes(1);

    fn on_h1(change: impl FnOnce(&mut ServiceSpec)) -> ServiceSpec {
        web(|spec| {
            spec.prefer = vec!["node.hostname == h1".parse().expect("a constraint")];
            change(spec);
        })
    }

    #[test]
    fn every_instance_is_told_what_becomes_of_it() {
        let mut fixture = Fixture::of_hosts(2);
        let source = MountSource::Volume(name("data").into());
        let data = MountSpec::of(source, "/data");
        fixture.deploy(&[
            ("agent", web(|spec| spec.mode = Mode::Global)),
            ("db", on_h1(|spec| spec.container.mounts = vec![data])),
            ("job", on_h1(|spec| spec.mode = Mode::Job)),
            ("once", on_h1(|spec| spec.strict_singleton = true)),
            ("stuck", on_h1(|spec| spec.constraints = vec!["node.hostname == h1".parse().expect("a constraint")])),
            ("web", on_h1(|spec| spec.replicas = 2)),
        ]);
        fixture.pass(MINUTE, &|_| {});
        assert_eq!(
            fates(&fixture),
            [
                "agent/1.1 ends here; its service keeps running on the other hosts",
                "db/1.1 until the deadline: slot 1 cannot leave its host, which holds its data",
                "job/1.1 until the deadline: slot 1 cannot leave its host: it may finish its run",
                "once/1.1 → h2",
                "stuck/1.1 until the deadline: slot 1 cannot leave its host yet: host h1 is draining; host h2 does not match node.hostname == h1",
                "web/1.1 → h2",
                "web/2.1 → h2",
            ]
        );
    }

    #[test]
    fn what_does_not_serve_is_placed_elsewhere_at_once() {
        let mut fixture = Fixture::of_hosts(2);
        fixture.deploy(&[("web", on_h1(|_| {}))]);
        for command in plan::plan(&fixture.cluster, fixture.now).commands {
            fixture.done(command);
        }
        assert_eq!(fates(&fixture), ["web/1.1 → h2"]);
    }
}
