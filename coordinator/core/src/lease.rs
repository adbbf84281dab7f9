//! How long a host is believed alive.

use common::{
    api::Settings,
    host::Liveness,
    id::HostId,
    instance::{Verdict, Want},
    time::{Span, Timestamp},
    wire::Extension,
};

use crate::State;

/// How long a host has been silent, as its leader knows it.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// Since it was heard last, or since the present leader leads.
    pub lasts: Span,
    /// Whether the present leader has heard of the host at all: a new leader waits for hosts to come back before it
    /// believes anything new of them.
    pub was_heard: bool,
}

/// What is believed of a host after a silence, if that differs from what is `known`.
pub fn judge(known: Liveness, silence: Silence, settings: &Settings, now: Timestamp) -> Option<Liveness> {
    let Silence { lasts, was_heard } = silence;
    let next = if known == Liveness::Joining && !was_heard {
        // What never came is not missed.
        return None;
    } else if lasts >= settings.down_after {
        Liveness::Down { since: now }
    } else if lasts >= settings.suspect_after {
        match known {
            // What is down stays so until it is heard; what has just joined is not suspected.
            Liveness::Down { .. } | Liveness::Joining => return None,
            _ => Liveness::Suspect { since: now },
        }
    } else if was_heard {
        Liveness::Ready
    } else {
        return None;
    };
    (next.word() != known.word()).then_some(next)
}

/// What a host that was just heard may let run on: the strict singletons that it is believed to run. One
/// that could be replaced at any moment, because its host counts as down, gets nothing until the state
/// says that the host is back: from then on no replacement that was proposed before fits any more.
pub fn extension(cluster: &State, host: HostId) -> Extension {
    let granted = cluster.strict_instances_on(host).filter(|(_, instance)| {
        instance.desired.want <= Want::Run && instance.verdict == Verdict::Reachable && cluster.is_admitted(host)
    });
    Extension { times: cluster.settings().lease(), instances: granted.map(|(id, _)| id.clone()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Command, Moment,
        plan::plan,
        testing::{Fixture, host, name, stack, web},
    };

    fn alone() -> Fixture {
        let mut fixture = Fixture::of_hosts(3);
        fixture.deploy(&[("web", web(|web| web.strict_singleton = true))]);
        fixture.settle();
        assert_eq!(fixture.filled(), ["web/1.1@h1"]);
        fixture
    }

    fn granted(fixture: &Fixture, number: u8) -> Vec<String> {
        extension(&fixture.cluster, host(number)).instances.iter().map(ToString::to_string).collect()
    }

    fn believe(fixture: &mut Fixture, number: u8, liveness: Liveness) {
        fixture.done(Command::HostLiveness { host: host(number), liveness });
    }

    fn blocked(fixture: &Fixture, at: Moment) -> String {
        plan(&fixture.cluster, at).blocked.into_values().flatten().map(|blocked| blocked.to_string()).collect()
    }

    #[test]
    fn a_strict_singleton_is_replaced_when_its_lease_is_over_and_not_before() {
        let mut fixture = alone();
        assert_eq!(granted(&fixture, 1), ["default/shop/web/1.1"]);
        let since = fixture.now;
        believe(&mut fixture, 1, Liveness::Down { since });
        assert!(granted(&fixture, 1).is_empty(), "it could be replaced at any moment");
        fixture.pass(Span::seconds(29), &|_| {});
        assert_eq!(fixture.filled(), ["web/1.1@h1"]);
        let just_elected = Moment { now: fixture.now + Span::seconds(5), leading_since: fixture.now };
        assert!(plan(&fixture.cluster, just_elected).commands.is_empty(), "a new leader waits a whole lease");
        fixture.pass(Span::seconds(2), &|_| {});
        assert_eq!(fixture.filled(), ["web/1.2@h2"]);
        believe(&mut fixture, 1, Liveness::Ready);
        assert!(granted(&fixture, 1).is_empty(), "it has lost its slot");
        assert_eq!(granted(&fixture, 2), ["default/shop/web/1.2"]);
    }

    #[test]
    fn a_strict_singleton_never_has_a_successor_beside_it() {
        let mut fixture = alone();
        let alone_always = |cluster: &State| {
            let running = cluster.instances().values().filter(|i| i.may_run()).count();
            assert!(running <= 1, "{running} may run");
        };
        let newer = web(|web| {
            web.container.image = "web:2".into();
            web.strict_singleton = true;
        });
        fixture.deploy(&[("web", newer)]);
        fixture.pass(Span::seconds(60), &alone_always);
        assert_eq!(fixture.filled(), ["web/1.2@h1"]);
        let availability = common::host::Availability::Draining { deadline: fixture.now + Span::minutes(5) };
        fixture.done(Command::SetAvailability { host: host(1), availability });
        fixture.pass(Span::seconds(60), &alone_always);
        assert_eq!(fixture.filled(), ["web/1.3@h2"], "it moves, and stops first");
        let id = stack().service(name("web"));
        let two = fixture.refused(Command::ScaleService { id, replicas: 2 });
        assert!(two.contains("at most one instance"), "{two}");
    }

    #[test]
    fn what_a_removed_host_may_still_run_is_waited_for() {
        let mut fixture = Fixture::of_hosts(3);
        fixture.deploy(&[(
            "web",
            web(|web| {
                web.strict_singleton = true;
                web.constraints.push("node.hostname != h1".parse().expect("a constraint"));
            }),
        )]);
        fixture.settle();
        assert_eq!(fixture.filled(), ["web/1.1@h2"]);
        fixture.done(Command::RemoveHost(host(2)));
        let reason = blocked(&fixture, fixture.now.into());
        assert!(reason.contains("may still run until") && reason.contains("removed"), "{reason}");
        fixture.pass(Span::seconds(59), &|_| {});
        assert!(fixture.filled().is_empty());
        fixture.pass(Span::seconds(2), &|_| {});
        assert_eq!(fixture.filled(), ["web/1.2@h3"]);
    }

    #[test]
    fn leases_end_before_another_may_run_by_every_clock() {
        for lost_after in [8, 14, 30, 60, 600] {
            let settings = Settings { lost_after: Span::seconds(lost_after), ..Settings::default() };
            let times = settings.lease();
            assert!(times.soft < times.hard);
            // lost_after / (1 + d) ≥ 2 s + hard / (1 − d), for d = 1/20.
            let (replaced, dead) = (settings.lost_after.0 * 1000 / 1050, 2000 + times.hard.0 * 1000 / 950);
            assert!(replaced >= dead, "{lost_after} s: replaced after {replaced} ms, dead after {dead} ms");
        }
    }

    #[test]
    fn silence_makes_suspect_then_down_and_a_beat_makes_ready() {
        let settings = Settings::default();
        let now = Timestamp(1_000_000);
        let word = |known, heard, seconds| {
            let silence = Silence { lasts: Span::seconds(seconds), was_heard: heard };
            judge(known, silence, &settings, now).map(|liveness| liveness.word())
        };
        let (since, ready) = (now, Liveness::Ready);
        assert_eq!(word(Liveness::Joining, true, 0), Some("ready"));
        assert_eq!(word(Liveness::Joining, false, 90), None, "a host that never came is not down");
        assert_eq!(word(ready, true, 14), None);
        assert_eq!(word(ready, true, 15), Some("suspect"));
        assert_eq!(word(ready, false, 1), None, "a new leader waits for the host to come back");
        assert_eq!(word(ready, false, 30), Some("down"));
        assert_eq!(word(Liveness::Suspect { since }, true, 31), Some("down"));
        assert_eq!(word(Liveness::Down { since }, false, 16), None);
        assert_eq!(word(Liveness::Down { since }, true, 1), Some("ready"));
    }
}
