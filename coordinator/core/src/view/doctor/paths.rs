//! What every path of the overlay carries.

use std::collections::BTreeMap;

use common::{
    api::{PathState, PathsView},
    finding::{Finding, MOST_NAMED},
    host::Liveness,
    id::HostId,
    name::Name,
    network::{Backend, Subnet},
};

use super::Found;
use crate::{State, state::Host};

/// Every path of the overlay, by the hosts at its end and at its beginning.
pub fn paths(cluster: &State, found: &Found) -> PathsView {
    let mut arriving: BTreeMap<Name, BTreeMap<Name, PathState>> =
        on_overlay(cluster).map(|(_, host)| (host.name.clone(), BTreeMap::new())).collect();
    for (to, from, state) in each_path(cluster, found) {
        arriving.entry(to.clone()).or_default().insert(from.clone(), state);
    }
    PathsView { arriving }
}

/// The hosts at the end and at the beginning of every path of the overlay, and what it carries by what the hosts' agents
/// have found; nothing is known of who is not in `found`. A thousand hosts have a million paths.
pub fn each_path<'a>(
    cluster: &'a State,
    found: &'a Found,
) -> impl Iterator<Item = (&'a Name, &'a Name, PathState)> + use<'a> {
    on_overlay(cluster).flat_map(move |(to, host)| {
        let known = found.get(to).filter(|_| host.liveness == Liveness::Ready);
        let mut worse: BTreeMap<Subnet, PathState> = BTreeMap::new();
        for finding in known.into_iter().flatten() {
            match finding {
                Finding::Unheard { peer, .. } => worse.insert(*peer, PathState::Silent),
                Finding::Narrow { peer, .. } => worse.insert(*peer, PathState::Narrow),
                _ => None,
            };
        }
        // Who names as many as it may does not name the rest.
        let of_others = match known {
            Some(_) if worse.values().filter(|state| **state == PathState::Silent).count() < MOST_NAMED => {
                PathState::Whole
            }
            _ => PathState::Unknown,
        };
        let state = move |other: &Host| match other.liveness {
            Liveness::Ready => worse.get(&other.subnet).copied().unwrap_or(of_others),
            _ => PathState::Unknown,
        };
        let others = on_overlay(cluster).filter(move |(from, _)| *from != to).map(|(_, other)| other);
        others.map(move |other| (&host.name, &other.name, state(other)))
    })
}

fn on_overlay(cluster: &State) -> impl Iterator<Item = (&HostId, &Host)> {
    cluster.hosts().iter().filter(|_| cluster.network().backend != Backend::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Command,
        testing::{Fixture, host, name},
    };

    #[test]
    fn a_path_is_what_the_host_at_its_end_says() {
        let mut fixture = Fixture::of_hosts(4);
        let subnet = |fixture: &Fixture, number: u8| fixture.cluster.hosts()[&host(number)].subnet;
        let found: Found = [
            (host(1), vec![]),
            (host(2), vec![Finding::Unheard { peer: subnet(&fixture, 1), answers: true }]),
            (host(3), vec![Finding::Narrow { peer: subnet(&fixture, 2), mtu: 1450 }]),
        ]
        .into();
        let state =
            |fixture: &Fixture, from: &str, to: &str| paths(&fixture.cluster, &found).arriving[&name(to)][&name(from)];
        assert_eq!(state(&fixture, "h1", "h2"), PathState::Silent);
        assert_eq!(state(&fixture, "h2", "h1"), PathState::Whole);
        assert_eq!(state(&fixture, "h2", "h3"), PathState::Narrow);
        assert_eq!(state(&fixture, "h1", "h4"), PathState::Unknown, "h4 has not said anything to this leader");
        let liveness = Liveness::Down { since: fixture.now };
        fixture.done(Command::HostLiveness { host: host(1), liveness });
        assert_eq!(state(&fixture, "h1", "h2"), PathState::Unknown);
        assert_eq!(state(&fixture, "h2", "h1"), PathState::Unknown);
        assert_eq!(paths(&fixture.cluster, &found).arriving.values().map(BTreeMap::len).sum::<usize>(), 12);
    }

    #[test]
    fn who_names_as_many_as_it_may_says_nothing_of_the_rest() {
        let fixture = Fixture::of_hosts(40);
        let silent =
            |number: u8| Finding::Unheard { peer: fixture.cluster.hosts()[&host(number)].subnet, answers: false };
        let found: Found = [(host(1), (2..34).map(silent).collect())].into();
        let of_first = &paths(&fixture.cluster, &found).arriving[&name("h1")];
        let count = |state: PathState| of_first.values().filter(|found| **found == state).count();
        assert_eq!([count(PathState::Silent), count(PathState::Unknown), count(PathState::Whole)], [32, 7, 0]);
    }
}
