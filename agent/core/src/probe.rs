//! Which peers are heard through the overlay, judged by what has arrived: each host tells the others that it is
//! there, so a path that is broken in one direction is known by the host at its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use common::{
    directory::{Directory, Listing},
    finding::{Finding, MOST_NAMED},
    id::ServiceId,
    network::{Peers, Subnet},
};

/// How probes begin; small ones have no more.
pub const SMALL: &[u8] = b"wharf probe 1 small";
/// How large ones begin.
pub const LARGE: &[u8] = b"wharf probe 1 large";
/// How often a host tells each peer that it is there.
pub const EVERY: Duration = Duration::from_secs(4);
/// How many of those are small for one that is as large as the overlay carries.
pub const SMALL_FOR_A_LARGE: u32 = 4;
/// A peer that has not been heard for so long is not heard: three are lost in a row.
const SILENT_AFTER: Duration = Duration::from_secs(13);
/// The same of large ones.
const NARROW_AFTER: Duration = Duration::from_secs(55);
/// How often one of each peer's instances is asked, and some services.
pub const ASK_EVERY: Duration = Duration::from_secs(6);
/// Who is asked is not reached when so many in a row were not answered.
const MISSES: u32 = 3;
/// How many services are asked in turn each time, beside those that did not answer the last time.
const SERVICES_IN_TURN: usize = 4;
/// How many are asked again.
const SERVICES_AGAIN: usize = 8;

/// What has been heard of each peer. Times are those of a clock that never jumps, since any moment.
#[derive(Debug, Clone, Default)]
pub struct Heard(BTreeMap<Subnet, Last>);

/// When something of a peer arrived last; since it is a peer, to begin with.
#[derive(Debug, Clone, Copy)]
struct Last {
    small: Duration,
    large: Duration,
}

impl Heard {
    /// Notes who the peers are now.
    pub fn keep(&mut self, peers: impl Iterator<Item = Subnet>, now: Duration) {
        let before = std::mem::take(&mut self.0);
        let last = |peer| before.get(&peer).copied().unwrap_or(Last { small: now, large: now });
        self.0 = peers.map(|peer| (peer, last(peer))).collect();
    }

    /// Notes that something of a peer arrived; what is not of a peer is nothing.
    pub fn note(&mut self, peer: Subnet, is_large: bool, now: Duration) {
        if let Some(last) = self.0.get_mut(&peer) {
            last.small = now;
            if is_large {
                last.large = now;
            }
        }
    }

    /// The peers that have fallen silent.
    pub fn silent(&self, now: Duration) -> BTreeSet<Subnet> {
        let is_silent = |last: &Last| now.saturating_sub(last.small) > SILENT_AFTER;
        self.0.iter().filter(|(_, last)| is_silent(last)).map(|(peer, _)| *peer).take(MOST_NAMED).collect()
    }

    /// What is wrong, given which silent peers answer on the underlay.
    pub fn findings(&self, answering: &BTreeSet<Subnet>, mtu: u32, now: Duration) -> BTreeSet<Finding> {
        let silent = self.silent(now);
        let is_narrow =
            |peer: &Subnet, last: &Last| !silent.contains(peer) && now.saturating_sub(last.large) > NARROW_AFTER;
        let narrow = self.0.iter().filter(|(peer, last)| is_narrow(peer, last)).take(MOST_NAMED);
        let narrow = narrow.map(|(peer, _)| Finding::Narrow { peer: *peer, mtu });
        let unheard = silent.iter().map(|peer| Finding::Unheard { peer: *peer, answers: answering.contains(peer) });
        unheard.chain(narrow).collect()
    }
}

/// What is asked whether it answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// A peer's instances, another one each time.
    Instances(Subnet),
    /// A service, by its address.
    Service(ServiceId),
}

/// How often what was asked did not answer, one time after the other.
#[derive(Debug, Clone, Default)]
pub struct Missed(BTreeMap<Asked, u32>);

impl Missed {
    /// What to ask in a round, and where: one serving instance of each peer that has any, and some services that
    /// something serves.
    pub fn next(&self, directory: &Directory, peers: &Peers, round: usize) -> BTreeMap<Asked, Ipv4Addr> {
        let one_of = |peer: &Subnet| {
            let count = directory.serving_on(*peer).count();
            Some((Asked::Instances(*peer), directory.serving_on(*peer).nth(round.checked_rem(count)?)?))
        };
        let led = |(id, listing): (&ServiceId, &Listing)| {
            let address = listing.address?;
            let serves = directory.instances_of(id).any(|(_, endpoint)| endpoint.serves);
            serves.then(|| (Asked::Service(id.clone()), address))
        };
        let services: Vec<(Asked, Ipv4Addr)> = directory.services().filter_map(led).collect();
        let first = round.wrapping_mul(SERVICES_IN_TURN).checked_rem(services.len()).unwrap_or(0);
        let in_turn = services.iter().cycle().skip(first).take(SERVICES_IN_TURN.min(services.len()));
        let missed = |(asked, _): &&(Asked, Ipv4Addr)| self.0.get(asked).is_some_and(|misses| *misses > 0);
        let again = services.iter().filter(missed).take(SERVICES_AGAIN);
        peers.keys().filter_map(one_of).chain(in_turn.chain(again).cloned()).collect()
    }

    /// Notes what was asked, and whether it answered: nothing is missed of others.
    pub fn note(&mut self, asked: impl IntoIterator<Item = (Asked, bool)>) {
        let before = std::mem::take(&mut self.0);
        let misses = |asked: &Asked| before.get(asked).copied().unwrap_or_default();
        let count = |(asked, answered)| {
            let misses = if answered { 0 } else { misses(&asked).saturating_add(1) };
            (asked, misses)
        };
        self.0 = asked.into_iter().map(count).collect();
    }

    /// The peers of whose instances none is reached, and the services that are not.
    pub fn findings(&self) -> BTreeSet<Finding> {
        let unreached = self.0.iter().filter(|(_, misses)| **misses >= MISSES).take(MOST_NAMED);
        let finding = |asked: &Asked| match asked {
            Asked::Instances(peer) => Finding::Unreached { peer: *peer },
            Asked::Service(service) => Finding::Service { service: service.clone() },
        };
        unreached.map(|(asked, _)| finding(asked)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::{
        directory::Endpoint,
        network::{NetworkPlan, Peer},
    };

    fn peer(number: usize) -> Subnet {
        NetworkPlan::default().subnets().nth(number).expect("there are 256")
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn who_falls_silent_is_named_and_who_is_heard_again_is_not() {
        let mut heard = Heard::default();
        heard.keep([peer(1), peer(2)].into_iter(), at(0));
        let found = |heard: &Heard, now| heard.findings(&[peer(2)].into(), 1450, at(now));
        assert!(found(&heard, 13).is_empty(), "a new peer has time to begin");
        heard.note(peer(1), true, at(12));
        heard.note(peer(9), true, at(12));
        assert_eq!(found(&heard, 14), [Finding::Unheard { peer: peer(2), answers: true }].into());
        assert_eq!(found(&heard, 26).len(), 2);
        heard.note(peer(2), true, at(27));
        assert_eq!(found(&heard, 27), [Finding::Unheard { peer: peer(1), answers: false }].into());
        heard.keep([peer(2)].into_iter(), at(28));
        assert!(found(&heard, 30).is_empty(), "a host that was removed is not missed");
    }

    #[test]
    fn a_path_for_small_packets_alone_is_narrow() {
        let mut heard = Heard::default();
        heard.keep([peer(1)].into_iter(), at(0));
        for second in 1..=60 {
            heard.note(peer(1), false, at(second));
        }
        assert_eq!(
            heard.findings(&BTreeSet::new(), 1450, at(60)),
            [Finding::Narrow { peer: peer(1), mtu: 1450 }].into()
        );
        heard.note(peer(1), true, at(61));
        assert!(heard.findings(&BTreeSet::new(), 1450, at(62)).is_empty());
    }

    #[test]
    fn who_does_not_answer_three_times_in_a_row_is_not_reached() {
        let mut missed = Missed::default();
        let (one, two) = (Asked::Instances(peer(1)), Asked::Instances(peer(2)));
        let unreached = |number| BTreeSet::from([Finding::Unreached { peer: peer(number) }]);
        missed.note([(one.clone(), false), (two.clone(), false)]);
        missed.note([(one.clone(), false), (two.clone(), true)]);
        assert!(missed.findings().is_empty());
        missed.note([(one.clone(), false), (two.clone(), false)]);
        assert_eq!(missed.findings(), unreached(1));
        missed.note([(one.clone(), true), (two.clone(), false)]);
        missed.note([(two, false)]);
        assert_eq!(missed.findings(), unreached(2));
        missed.note([(one, false)]);
        assert!(missed.findings().is_empty(), "what has no instances any more is not missed");
    }

    #[test]
    fn services_are_asked_in_turn_and_again_when_they_did_not_answer() {
        let mut directory = Directory::default();
        let service = |number: u8| -> ServiceId { format!("default/shop/s{number}").parse().expect("an id") };
        for number in 0..6 {
            let listing = Listing { address: Some([10, 43, 0, number].into()), ..Listing::default() };
            directory.put_service(service(number), Some(listing));
            let endpoint = Endpoint { address: [10, 42, 1, number].into(), serves: number != 5 };
            let instance = format!("default/shop/s{number}/1.1").parse().expect("an id");
            directory.put_instance(instance, Some(endpoint));
        }
        let peers = [(peer(1), Peer { underlay: [192, 168, 0, 1].into(), key: None })].into();
        let mut missed = Missed::default();
        let asked = |missed: &Missed, round| {
            let asked = missed.next(&directory, &peers, round);
            asked.into_values().map(|address| address.octets()[3]).collect::<Vec<_>>()
        };
        // An instance of the peer, and services; the one that nothing serves is not missed.
        assert_eq!(asked(&missed, 0), [0, 0, 1, 2, 3]);
        assert_eq!(asked(&missed, 1), [1, 0, 1, 2, 4]);
        for round in 0..3 {
            let next = missed.next(&directory, &peers, round);
            assert!(next.contains_key(&Asked::Service(service(3))), "in turn, or again: {next:?}");
            missed.note(next.into_keys().map(|asked| (asked.clone(), asked != Asked::Service(service(3)))));
        }
        assert_eq!(missed.findings(), [Finding::Service { service: service(3) }].into());
        assert!(Missed::default().next(&Directory::default(), &peers, 1).is_empty());
    }
}
