//! How the time of the state is set back, after a wrong clock has moved it ahead.
//!
//! What happened under the wrong time is stamped with it. All times later than the right one move back by the same span,
//! so that what lies between two of them, and between them and the present, stays what it is. Events keep their times:
//! they are history, and decide nothing.

use common::{
    error::{Code, Problem},
    time::{Span, Timestamp},
};
use imbl::OrdMap;

use super::{Applied, State};
use crate::clock::{APART, apart};

/// A step back of the time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Back {
    to: Timestamp,
    by: Span,
}

impl Back {
    /// Moves a time, if it was stamped under the wrong one.
    pub(super) fn time(self, time: &mut Timestamp) {
        // The last of all times means never.
        if *time > self.to && *time != Timestamp(u64::MAX) {
            *time = Timestamp(time.0.saturating_sub(self.by.0));
        }
    }

    /// The same of each value of a map.
    pub(super) fn each<K: Ord + Clone, V: Clone>(self, map: &mut OrdMap<K, V>, change: impl Fn(&mut V)) {
        let keys: Vec<K> = map.keys().cloned().collect();
        for key in keys {
            if let Some(value) = map.get_mut(&key) {
                change(value);
            }
        }
    }
}

impl State {
    /// Sets the time of the state back. One that is not ahead is left alone.
    pub(super) fn set_clock_back(&mut self, to: Timestamp) -> Applied {
        let clock = self.basics.clock;
        if to >= clock || apart(to, clock) <= APART {
            return Err(Problem::new(Code::Conflict, "The time of the cluster was not set back")
                .why(format!("it is {clock}, which is not ahead of {to} by more than {APART}")));
        }
        let back = Back { to, by: clock.since(to) };
        self.basics.clock = to;
        if let Some((_, until)) = &mut self.basics.old_leases {
            back.time(until);
        }
        self.fleet.set_back(back);
        self.work.set_back(back);
        self.access.set_back(back);
        self.files.set_back(back);
        self.environments.set_back(back);
        self.requests.set_back(back);
        self.backups.set_back(back);
        self.binaries.set_back(back);
        self.record("cluster", "clock-set-back", format!("the time of the cluster was set back from {clock} to {to}"));
        self.done()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::{
        file::{FileId, FileKind},
        host::{Availability, HostCondition, Liveness},
        instance::Phase,
        role::{Grant, Role},
        token::{SecretHash, TokenId},
    };

    use super::*;
    use crate::{
        Command,
        state::Content,
        testing::{Fixture, admission, host, name, web},
    };

    const YEAR: Span = Span::minutes(365 * 24 * 60);

    /// Does all that leaves a time in the state, with the clocks of the coordinators so far ahead.
    fn cluster(ahead: Span) -> Fixture {
        let mut fixture = Fixture::of_hosts(4);
        fixture.deploy(&[("early", web(|_| ()))]);
        fixture.settle();
        fixture.now = fixture.now + ahead;
        let now = |fixture: &mut Fixture| {
            fixture.now = fixture.now + Span::seconds(10);
            fixture.now
        };
        now(&mut fixture);
        fixture.deploy(&[
            ("early", web(|_| ())),
            ("web", web(|spec| spec.replicas = 3)),
            ("bad", web(|spec| spec.container.image = "broken".into())),
        ]);
        fixture.settle();
        fixture.observe("web/1.1", Phase::Failed);
        now(&mut fixture);
        fixture.settle();
        let since = now(&mut fixture);
        fixture
            .done(Command::HostConditions { host: host(2), conditions: vec![HostCondition::DockerSilent { since }] });
        fixture.done(Command::HostLiveness { host: host(3), liveness: Liveness::Down { since } });
        let deadline = since + Span::minutes(5);
        fixture.done(Command::SetAvailability { host: host(2), availability: Availability::Draining { deadline } });
        fixture.done(Command::Admit(Box::new(admission(5))));
        fixture.done(Command::HostLeaves(host(1)));
        fixture.done(Command::RemoveHost(host(4)));
        let (id, secret) = (TokenId([7; 5]), SecretHash([7; 32]));
        fixture.done(Command::PutToken { id, name: name("ci"), grant: Grant::of_cluster(Role::Viewer), secret });
        fixture.done(Command::PutEnvironment(name("staging")));
        let id = FileId { environment: name("staging"), stack: None, kind: FileKind::Config, name: name("motd") };
        fixture.done(Command::PutFile { id, content: Content::Plain(Arc::from(&b"hello"[..])) });
        fixture
    }

    #[test]
    fn a_state_that_was_set_back_is_as_if_the_clock_had_been_right() {
        let (right, mut wrong) = (cluster(Span(0)), cluster(YEAR));
        let to = right.now;
        wrong.done(Command::SetClockBack { to });
        let (right, wrong) = (right.cluster, wrong.cluster);
        assert_eq!(wrong.clock(), to);
        assert_eq!(wrong.fleet, right.fleet);
        assert_eq!(wrong.work, right.work);
        assert_eq!(wrong.access, right.access);
        assert_eq!(wrong.files, right.files);
        assert_eq!(wrong.environments, right.environments);
    }

    #[test]
    fn a_time_that_is_not_ahead_is_not_set_back() {
        let mut fixture = cluster(Span(0));
        for to in [fixture.now, fixture.now + YEAR, Timestamp(fixture.now.0 - 1000)] {
            let refused = fixture.refused(Command::SetClockBack { to });
            assert!(refused.contains("not ahead of"), "{refused}");
        }
    }
}
