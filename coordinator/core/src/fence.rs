//! Two machines with one host's key: a copy of a whole disk has the machine's id, too, but another boot.
//!
//! A machine that was restarted also has another boot, and its earlier self is silent for good. So a newcomer waits until
//! the first is heard again, and is refused then, or has been silent for as long as makes a host suspect. The state holds
//! the boot of the session that was accepted last, so a new leader decides in the same order.

use common::{
    api::Settings,
    error::{Code, Problem},
    host::Liveness,
    id::BootId,
    name::Name,
    time::Span,
};

use crate::{State, lease::Silence, level, state::Host};

/// What becomes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It begins.
    Begins,
    /// The first machine may still be heard: until then, or for so long.
    Waits(Span),
    /// The first machine lives.
    Refused,
}

/// What a leader knows of the machine whose session was accepted last.
#[derive(Debug, Clone, Copy)]
pub struct First {
    /// How long it has been silent.
    pub silence: Silence,
    /// Whether it was heard since the newcomer came.
    pub was_heard_since: bool,
}

/// The refusal of a machine that uses the key of a host.
pub fn cloned(host: &Name) -> Problem {
    Problem::new(Code::Cloned, format!("This disk was cloned from {host}"))
        .why("two machines use the same key, and the first one keeps it")
        .fix("On the copy: wharf agent reset-identity, then join it with a new line")
}

/// Decides about a session of a host under a boot.
pub fn admit(cluster: &State, host: &Host, boot: BootId, first: First) -> Admission {
    let known = host.facts.as_ref().map(|facts| facts.boot);
    if cluster.level() < level::HOST_CLAIMS || known.is_none_or(|known| known == boot) || host.left_at.is_some() {
        return Admission::Begins;
    }
    if first.was_heard_since {
        return Admission::Refused;
    }
    let Silence { lasts, was_heard } = first.silence;
    let Settings { suspect_after, .. } = cluster.settings();
    // An earlier leader has waited for it already.
    let was_silent = matches!(host.liveness, Liveness::Suspect { .. } | Liveness::Down { .. }) && !was_heard;
    if was_silent || lasts >= suspect_after {
        return Admission::Begins;
    }
    Admission::Waits(Span(suspect_after.0 - lasts.0))
}

#[cfg(test)]
mod tests {
    use common::host::HostFacts;

    use super::*;
    use crate::{
        Command,
        testing::{Fixture, facts, host},
    };

    const FIRST: BootId = BootId([1; 10]);
    const OTHER: BootId = BootId([2; 10]);

    fn fixture() -> Fixture {
        let mut fixture = Fixture::of_hosts(2);
        let facts = HostFacts { boot: FIRST, ..facts(2) };
        fixture.done(Command::HostReported { host: host(2), facts, machine: [2; 16] });
        fixture
    }

    fn decided(fixture: &Fixture, boot: BootId, seconds: u64, was_heard: bool, was_heard_since: bool) -> Admission {
        let silence = Silence { lasts: Span::seconds(seconds), was_heard };
        admit(&fixture.cluster, &fixture.cluster.hosts()[&host(2)], boot, First { silence, was_heard_since })
    }

    #[test]
    fn a_second_machine_is_refused_while_the_first_is_heard() {
        let fixture = fixture();
        let suspect_after = fixture.cluster.settings().suspect_after.0 / 1000;
        let waits = |seconds: u64| Admission::Waits(Span::seconds(seconds));
        for (what, boot, silent, heard, since, expected) in [
            ("the same boot", FIRST, 0, true, true, Admission::Begins),
            ("it lives", OTHER, 0, true, true, Admission::Refused),
            ("it was heard a moment ago, or was restarted since", OTHER, 0, true, false, waits(suspect_after)),
            ("it has been silent for a while", OTHER, 5, true, false, waits(suspect_after - 5)),
            ("it has been silent for long", OTHER, suspect_after, true, false, Admission::Begins),
            ("a new leader has not heard it yet", OTHER, 1, false, false, waits(suspect_after - 1)),
            ("nor will", OTHER, suspect_after, false, false, Admission::Begins),
        ] {
            assert_eq!(decided(&fixture, boot, silent, heard, since), expected, "{what}");
        }
    }

    #[test]
    fn a_host_that_left_or_was_silent_before_is_not_waited_for() {
        let mut fixture = fixture();
        let since = fixture.now;
        for liveness in [Liveness::Suspect { since }, Liveness::Down { since }] {
            fixture.done(Command::HostLiveness { host: host(2), liveness });
            assert_eq!(decided(&fixture, OTHER, 0, false, false), Admission::Begins, "{liveness:?}");
            assert_eq!(decided(&fixture, OTHER, 0, true, true), Admission::Refused, "it is back: {liveness:?}");
        }
        fixture.done(Command::HostLiveness { host: host(2), liveness: Liveness::Ready });
        fixture.done(Command::HostLeaves(host(2)));
        assert_eq!(decided(&fixture, OTHER, 0, true, false), Admission::Begins, "it said that it would be back");
        let fixture = Fixture::of_hosts(1);
        let mut early = fixture.cluster.hosts()[&host(1)].clone();
        early.facts = None;
        let silence = Silence { lasts: Span(0), was_heard: false };
        let first = First { silence, was_heard_since: false };
        assert_eq!(admit(&fixture.cluster, &early, OTHER, first), Admission::Begins, "its first session");
    }
}
