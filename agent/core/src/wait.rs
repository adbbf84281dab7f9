//! When an action may be done: an instance stops once callers are led to others, and starts once the rules of its
//! host's network know its address.

use std::{net::Ipv4Addr, time::Duration};

use common::{directory::Directory, id::InstanceId};

use crate::{
    action::ActionResult,
    network::{Resident, Residents},
};

/// How long callers may hold up the stop of an instance. Without a coordinator the directory does not change, and the
/// instance stops all the same.
const UNLISTED_WITHIN: Duration = Duration::from_secs(3);
/// How much later than this host the others may receive a change of the directory.
const HEARD_ELSEWHERE: Duration = Duration::from_millis(500);
/// How long a start waits for the rules.
const ADMITTED_WITHIN: Duration = Duration::from_secs(5);
/// The result of a start that the rules held up too long.
const NOT_ADMITTED: &str = "the rules of its host's network do not know it yet: wharf doctor";

/// A change that an action waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaited {
    /// The rules know the instance by its address. An instance that starts earlier reaches no other, or those that the
    /// last owner of its address reached, or gets no answers while the rules bind its address to the port of a
    /// container that has ended.
    Admitted(Ipv4Addr, Resident),
    /// The directory leads callers to other instances of the service, if others serve: this one still answers the
    /// requests that it gets until then.
    Unlisted(InstanceId),
}

/// The values by which a wait ends.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The instances to which callers are led.
    pub directory: &'a Directory,
    /// The instances that the rules know; none on a host without rules.
    pub admitted: Option<&'a Residents>,
    /// How long the action has waited: zero the first time that it asks.
    pub waited: Duration,
}

/// Whether an action may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// It may be done now.
    Over,
    /// It may be done after this time, whatever changes meanwhile.
    For(Duration),
    /// Not yet: ask again at the next change, and after this time at the latest.
    ForChange(Duration),
    /// It is not done, and this is its result.
    InVain(ActionResult),
}

impl Awaited {
    /// Whether the action that waits for this may be done.
    pub fn look(&self, seen: Seen<'_>) -> Wait {
        match self {
            Awaited::Admitted(address, resident) => may_start(*address, resident, seen),
            Awaited::Unlisted(instance) => may_stop(instance, seen),
        }
    }
}

fn may_start(address: Ipv4Addr, resident: &Resident, seen: Seen<'_>) -> Wait {
    if seen.admitted.is_none_or(|admitted| admitted.get(&address) == Some(resident)) {
        return Wait::Over;
    }
    match ADMITTED_WITHIN.checked_sub(seen.waited).filter(|left| !left.is_zero()) {
        Some(left) => Wait::ForChange(left),
        None => Wait::InVain(ActionResult::Waits(NOT_ADMITTED.to_owned())),
    }
}

fn may_stop(instance: &InstanceId, seen: Seen<'_>) -> Wait {
    let others_serve =
        seen.directory.instances_of(instance.service()).any(|(id, endpoint)| id != instance && endpoint.serves);
    if seen.waited.is_zero() && !others_serve {
        return Wait::Over;
    }
    let is_listed = seen.directory.instance(instance).is_some_and(|endpoint| endpoint.serves);
    if !is_listed || !others_serve {
        return Wait::For(HEARD_ELSEWHERE);
    }
    match UNLISTED_WITHIN.checked_sub(seen.waited).filter(|left| !left.is_zero()) {
        Some(left) => Wait::ForChange(left),
        None => Wait::Over,
    }
}

#[cfg(test)]
mod tests {
    use common::directory::Endpoint;

    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 42, 1, 2);

    fn id(slot: u8) -> InstanceId {
        format!("default/shop/web/{slot}.1").parse().expect("an id")
    }

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn an_instance_starts_once_the_rules_know_it() {
        let awaited = Awaited::Admitted(ADDRESS, id(1).into());
        let in_vain = Wait::InVain(ActionResult::Waits(NOT_ADMITTED.to_owned()));
        let knows = |address, slot| Some(Residents::from([(address, id(slot).into())]));
        let published = Resident {
            published: [crate::Published { protocol: common::spec::Protocol::Tcp, at: None, port: 80, container: 80 }]
                .into(),
            ..id(1).into()
        };
        for (admitted, waited, expected, why) in [
            (None, 0, Wait::Over, "the host has no rules"),
            (knows(ADDRESS, 1), 0, Wait::Over, "the rules know it"),
            (knows(ADDRESS, 1), 9000, Wait::Over, "the rules know it, however late"),
            (Some(Residents::new()), 0, Wait::ForChange(millis(5000)), "the rules know no instance"),
            (knows(ADDRESS, 2), 2000, Wait::ForChange(millis(3000)), "the address belonged to another instance"),
            (Some([(ADDRESS, published)].into()), 0, Wait::ForChange(millis(5000)), "the rules know an earlier run"),
            (knows(Ipv4Addr::LOCALHOST, 1), 4999, Wait::ForChange(millis(1)), "the instance had another address"),
            (knows(ADDRESS, 2), 5000, in_vain.clone(), "the time is over"),
            (Some(Residents::new()), 7000, in_vain, "the time is long over"),
        ] {
            let directory = &Directory::default();
            let seen = Seen { directory, admitted: admitted.as_ref(), waited: millis(waited) };
            assert_eq!(awaited.look(seen), expected, "{why}");
        }
    }

    #[test]
    fn an_instance_stops_once_callers_are_led_to_others() {
        let awaited = Awaited::Unlisted(id(1));
        for (listed, waited, expected, why) in [
            (vec![], 0, Wait::Over, "the directory lists no instance"),
            (vec![(1, true)], 0, Wait::Over, "no other instance exists"),
            (vec![(1, true), (2, false)], 0, Wait::Over, "the other instance does not serve"),
            (vec![(1, true), (2, true)], 0, Wait::ForChange(millis(3000)), "callers are still led to it"),
            (vec![(1, true), (2, true)], 2000, Wait::ForChange(millis(1000)), "callers are led to it after 2 s"),
            (vec![(1, true), (2, true)], 3000, Wait::Over, "the time is over"),
            (vec![(1, false), (2, true)], 0, Wait::For(millis(500)), "other hosts may not know it yet"),
            (vec![(1, false), (2, true)], 1000, Wait::For(millis(500)), "the directory has just changed"),
            (vec![(2, true)], 1000, Wait::For(millis(500)), "the directory does not list it any more"),
            (vec![(1, true)], 1000, Wait::For(millis(500)), "the others ended meanwhile"),
            (vec![(1, true), (2, false)], 1000, Wait::For(millis(500)), "the others serve no longer"),
        ] {
            let mut directory = Directory::default();
            for (slot, serves) in listed {
                let endpoint = Endpoint { address: [10, 42, 1, slot].into(), serves };
                directory.put_instance(id(slot), Some(endpoint));
            }
            let seen = Seen { directory: &directory, admitted: None, waited: millis(waited) };
            assert_eq!(awaited.look(seen), expected, "{why}");
        }
    }
}
