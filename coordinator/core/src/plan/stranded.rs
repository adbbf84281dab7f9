//! Instances that their host cannot bring to run while another one could.

use common::{
    instance::{Health, Phase},
    spec::{Mode, RestartCondition},
    time::{Span, Timestamp},
};

use super::{Plan, place::Placer, scale::Subject};
use crate::{State, state::Instance};

/// How long an instance that has never run may be held up by its host.
const HELD_UP: Span = Span::seconds(5);

impl<'a> Subject<'a> {
    /// Whether an instance cannot come to run on its host, and would on another one.
    pub(super) fn is_stranded(&self, instance: &Instance, placer: &mut Placer<'a>, plan: &mut Plan) -> bool {
        let is_bound = instance.spec.has_volume() || self.service.spec.mode == Mode::Global;
        let stranded_at = stranded_at(self.cluster, instance).filter(|_| !is_bound);
        let Some(at) = stranded_at else { return false };
        if at > self.at.now {
            plan.wake(at);
            return false;
        }
        let fits = placer.fits_elsewhere(instance);
        plan.hinges_on_room |= !fits;
        fits
    }
}

/// From when on an instance should rather run on another host: it has not come to run and its host cannot prepare
/// it, or takes nothing new; or it ran, its process is gone, and its host's Docker has been silent for as long as a
/// host may be that is lost. What a job has done by then is not known.
fn stranded_at(cluster: &State, instance: &Instance) -> Option<Timestamp> {
    let observed = &instance.observed;
    let host = cluster.hosts().get(&instance.host)?;
    if observed.restart == 0 && observed.phase < Phase::Starting {
        let failing = observed.unprepared.as_ref().map(|failing| failing.since + HELD_UP);
        let held_up = (!host.conditions.is_empty()).then(|| instance.created_at + HELD_UP);
        return [failing, held_up].into_iter().flatten().min();
    }
    let is_gone = observed.health == Health::Gone && instance.spec.container.restart.condition == RestartCondition::Any;
    let since = host.docker_silent_since().filter(|_| is_gone)?;
    Some(since + cluster.settings().lost_after)
}

#[cfg(test)]
mod tests {
    use common::{
        api::Settings,
        host::HostCondition,
        id::HostId,
        instance::{Observed, Unprepared},
        quantity::Bytes,
        spec::{MountSource, MountSpec, ServiceSpec},
    };

    use super::*;
    use crate::{
        Command,
        plan::plan,
        testing::{Fixture, host, instance, name, web},
    };

    const SILENT: HostCondition = HostCondition::DockerSilent { since: Timestamp(1000) };

    fn full() -> HostCondition {
        HostCondition::DiskFull { path: "/var/lib/docker".into(), size: Bytes(1 << 30) }
    }

    fn note(fixture: &mut Fixture, on: HostId, conditions: &[HostCondition]) {
        fixture.done(Command::HostConditions { host: on, conditions: conditions.to_vec() });
    }

    /// Applies what is planned once; nothing runs by itself.
    fn step(fixture: &mut Fixture) {
        plan(&fixture.cluster, fixture.now).commands.into_iter().for_each(|command| drop(fixture.done(command)));
    }

    fn tell(fixture: &mut Fixture, id: &str, change: impl FnOnce(&mut Observed)) {
        let id = instance(id);
        let (on, mut observed) = {
            let found = &fixture.cluster.instances()[&id];
            (found.host, found.observed.clone())
        };
        change(&mut observed);
        fixture.done(Command::Observe { host: on, instances: vec![(id, observed)] });
    }

    fn cannot_prepare(fixture: &mut Fixture, id: &str) {
        let since = fixture.now;
        tell(fixture, id, |observed| {
            observed.phase = Phase::Pulling;
            observed.message = "image web:1: no space left on device".into();
            observed.unprepared = Some(Unprepared { image: "web:1".into(), since });
        });
    }

    fn blocked(fixture: &Fixture) -> Vec<String> {
        plan(&fixture.cluster, fixture.now).blocked.into_values().flatten().map(|reason| reason.to_string()).collect()
    }

    fn one(change: impl FnOnce(&mut ServiceSpec)) -> ServiceSpec {
        web(|spec| {
            spec.container.image = "web:1".into();
            change(spec);
        })
    }

    #[test]
    fn a_host_that_cannot_take_anything_gets_nothing_new_and_that_is_said() {
        for (condition, reason) in
            [(SILENT, "Docker does not answer on host h1"), (full(), "a disk is full on host h1")]
        {
            let mut fixture = Fixture::of_hosts(2);
            note(&mut fixture, host(1), std::slice::from_ref(&condition));
            fixture.deploy(&[("web", one(|spec| (spec.replicas, spec.max_per_host) = (2, Some(1))))]);
            fixture.settle();
            assert_eq!(fixture.filled(), ["web/1.1@h2"]);
            assert!(blocked(&fixture).contains(&reason.to_owned()), "{:?}", blocked(&fixture));
            let events = fixture.cluster.events().len();
            note(&mut fixture, host(1), &[condition]);
            assert_eq!(fixture.cluster.events().len(), events, "what is known is no news");
            note(&mut fixture, host(1), &[]);
            fixture.settle();
            assert_eq!(fixture.filled(), ["web/1.1@h2", "web/2.1@h1"]);
        }
    }

    #[test]
    fn what_cannot_be_prepared_on_a_host_is_tried_on_another_within_seconds() {
        let mut fixture = Fixture::of_hosts(2);
        fixture.deploy(&[("web", one(|_| {}))]);
        step(&mut fixture);
        assert_eq!(fixture.filled(), ["web/1.1@h1"]);
        cannot_prepare(&mut fixture, "web/1.1");
        step(&mut fixture);
        assert_eq!(fixture.filled(), ["web/1.1@h1"], "it may be over in a moment");
        let wake = plan(&fixture.cluster, fixture.now).wake_at;
        assert_eq!(wake, Some(fixture.now + HELD_UP));
        fixture.now = fixture.now + HELD_UP;
        step(&mut fixture);
        step(&mut fixture);
        assert_eq!(fixture.filled(), ["web/1.2@h2"], "h1 is avoided for that image");
        assert!(
            fixture.cluster.slots().values().all(|slot| slot.tries.iter().all(|tries| tries.failures == 0)),
            "it is no fault of the slot"
        );

        cannot_prepare(&mut fixture, "web/1.2");
        fixture.now = fixture.now + HELD_UP + HELD_UP;
        step(&mut fixture);
        assert_eq!(fixture.filled(), ["web/1.2@h2"], "no other host would be better: it goes on trying");
        fixture.done(Command::Retry(instance("web/1.2").service().clone()));
        assert!(fixture.cluster.hosts().values().all(|host| host.unprepared.is_empty()), "a person has mended it");
    }

    #[test]
    fn what_is_on_a_host_that_takes_nothing_and_has_not_begun_goes_elsewhere() {
        for condition in [SILENT, full()] {
            let mut fixture = Fixture::of_hosts(2);
            fixture.deploy(&[("web", one(|_| {}))]);
            step(&mut fixture);
            note(&mut fixture, host(1), &[condition]);
            fixture.now = fixture.now + HELD_UP;
            step(&mut fixture);
            step(&mut fixture);
            assert_eq!(fixture.filled(), ["web/1.2@h2"]);
        }
    }

    #[test]
    fn what_runs_under_a_silent_docker_stays_until_it_is_gone_for_long() {
        let volume = |spec: &mut ServiceSpec| {
            let source = MountSource::Volume(name("data").into());
            spec.container.mounts.push(MountSpec::of(source, "/data"));
        };
        /// Its name, what is observed, what the service is, and whether it is replaced.
        type Case = (&'static str, fn(&mut Observed), fn(&mut ServiceSpec), bool);
        let cases: [Case; 4] = [
            ("it runs", |_| {}, |_| {}, false),
            ("it is gone", |observed| observed.health = Health::Gone, |_| {}, true),
            ("its data is there", |observed| observed.health = Health::Gone, volume, false),
            (
                "whether it has done its work is not known",
                |observed| observed.health = Health::Gone,
                |spec| spec.container.restart.condition = RestartCondition::OnFailure,
                false,
            ),
        ];
        for (what, change, spec, moves) in cases {
            let mut fixture = Fixture::of_hosts(2);
            fixture.deploy(&[("web", one(spec))]);
            fixture.settle();
            tell(&mut fixture, "web/1.1", change);
            let since = fixture.now;
            note(&mut fixture, host(1), &[HostCondition::DockerSilent { since }]);
            step(&mut fixture);
            assert_eq!(fixture.filled(), ["web/1.1@h1"], "{what}: Docker may come back");
            fixture.now = fixture.now + Settings::default().lost_after;
            step(&mut fixture);
            step(&mut fixture);
            assert_eq!(fixture.filled() == ["web/1.2@h2"], moves, "{what}: {:?}", fixture.filled());
        }
    }
}
