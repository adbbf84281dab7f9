//! Which peers this host hears through the overlay, judged by the probes that have arrived. Each host sends probes to the
//! others, so the host at the end of a path notices that it is broken, even in one direction only.

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
/// How often a host sends a probe to each peer.
pub const EVERY: Duration = Duration::from_secs(4);
/// How many small probes go with one that is as large as the overlay carries.
pub const SMALL_FOR_A_LARGE: u32 = 4;
/// A peer is silent if none of its probes has arrived for this time: three are lost in a row.
const SILENT_AFTER: Duration = Duration::from_secs(13);
/// The probes of a silent peer are lost on the way if it has answered on the underlay for this time.
const ROUND_AND_MORE: Duration = Duration::from_secs(6);
/// If the last look is so long ago, this process was not running.
const PAUSED_AFTER: Duration = Duration::from_secs(8);
/// A path is narrow if no large probe has arrived for this time, although small ones have.
const NARROW_AFTER: Duration = Duration::from_secs(55);
/// How often one of each peer's instances is pinged, and some services.
pub const ASK_EVERY: Duration = Duration::from_secs(6);
/// An address counts as unreachable after so many unanswered pings in a row.
const MISSES: u32 = 3;
/// How many services are pinged in turn each time, beside those that did not answer the last time.
const SERVICES_IN_TURN: usize = 4;
/// How many of those are pinged again.
const SERVICES_AGAIN: usize = 8;

/// The last probes of each peer. Times are those of a clock that never jumps, since any moment.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    peers: BTreeMap<Subnet, Last>,
    /// The time of the last look; none before the first one.
    looked: Option<Duration>,
}

/// When probes of a peer arrived last; at first, when it became a peer.
#[derive(Debug, Clone, Copy)]
struct Last {
    small: Duration,
    large: Duration,
    /// Since when its probes arrive without a silence.
    since: Duration,
    /// Since when it answers on the underlay, while it is silent.
    answers_since: Option<Duration>,
}

impl Last {
    fn beginning(now: Duration) -> Last {
        Last { small: now, large: now, since: now, answers_since: None }
    }

    fn is_silent(&self, now: Duration) -> bool {
        now.saturating_sub(self.small) > SILENT_AFTER
    }

    /// Whether only large packets are missing, which shows only while small ones arrive all the time.
    fn is_narrow(&self, now: Duration) -> bool {
        !self.is_silent(now) && now.saturating_sub(self.large.max(self.since)) > NARROW_AFTER
    }

    /// Notes whether it answers on the underlay, and returns that once it tells the cause of the silence: at once for a
    /// peer that does not answer. One that does may have been away until a moment ago, so its probes get the time of a
    /// round to arrive.
    fn cause(&mut self, answers: bool, now: Duration) -> Option<bool> {
        let since = self.answers_since.filter(|_| answers).unwrap_or(now);
        self.answers_since = answers.then_some(since);
        (!answers || now.saturating_sub(since) >= ROUND_AND_MORE).then_some(answers)
    }
}

impl Heard {
    /// Notes the present peers, and that this is a look. After a pause of this process, all peers start over: it cannot
    /// know which probes it has missed.
    pub fn keep(&mut self, peers: impl Iterator<Item = Subnet>, now: Duration) {
        let paused = self.looked.replace(now).is_some_and(|looked| now.saturating_sub(looked) > PAUSED_AFTER);
        let before = std::mem::take(&mut self.peers);
        let last = |peer| before.get(&peer).filter(|_| !paused).copied().unwrap_or_else(|| Last::beginning(now));
        self.peers = peers.map(|peer| (peer, last(peer))).collect();
    }

    /// Notes that a probe arrived, and ignores one that is not from a peer; returns whether that ended a silence.
    pub fn note(&mut self, peer: Subnet, is_large: bool, now: Duration) -> bool {
        let Some(last) = self.peers.get_mut(&peer) else { return false };
        let was_silent = last.is_silent(now);
        if was_silent {
            (last.since, last.answers_since) = (now, None);
        }
        last.small = now;
        if is_large {
            last.large = now;
        }
        was_silent
    }

    /// The peers that have fallen silent.
    pub fn silent(&self, now: Duration) -> BTreeSet<Subnet> {
        let silent = self.peers.iter().filter(|(_, last)| last.is_silent(now));
        silent.map(|(peer, _)| *peer).take(MOST_NAMED).collect()
    }

    /// The peers whose path explains unanswered pings: those that are silent now, or were so when the last pings were
    /// sent.
    pub fn unsettled(&self, now: Duration) -> BTreeSet<Subnet> {
        let is_unsettled = |last: &Last| {
            now.saturating_sub(last.small) > EVERY * 2 || now.saturating_sub(last.since) < ASK_EVERY + EVERY
        };
        self.peers.iter().filter(|(_, last)| is_unsettled(last)).map(|(peer, _)| *peer).collect()
    }

    /// The findings, given which silent peers answer on the underlay.
    pub fn findings(&mut self, answering: &BTreeSet<Subnet>, mtu: u32, now: Duration) -> BTreeSet<Finding> {
        let narrow = self.peers.iter().filter(|(_, last)| last.is_narrow(now)).take(MOST_NAMED);
        let narrow: Vec<Finding> = narrow.map(|(peer, _)| Finding::Narrow { peer: *peer, mtu }).collect();
        let silent = self.peers.iter_mut().filter(|(_, last)| last.is_silent(now)).take(MOST_NAMED);
        let unheard = silent.filter_map(|(peer, last)| {
            last.cause(answering.contains(peer), now).map(|answers| Finding::Unheard { peer: *peer, answers })
        });
        unheard.chain(narrow).collect()
    }
}

/// A target of pings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// A peer's instances, another one each time.
    Instances(Subnet),
    /// A service, by its address.
    Service(ServiceId),
}

/// How many pings in a row each target has not answered, while the same instances served.
#[derive(Debug, Clone, Default)]
pub struct Missed(BTreeMap<Asked, Misses>);

#[derive(Debug, Clone, Default)]
struct Misses {
    count: u32,
    /// The addresses that should have answered.
    serving: BTreeSet<Ipv4Addr>,
}

/// The addresses that serve a target.
fn serving(asked: &Asked, directory: &Directory) -> BTreeSet<Ipv4Addr> {
    match asked {
        Asked::Instances(peer) => directory.serving_on(*peer).collect(),
        Asked::Service(id) => {
            let serving = directory.instances_of(id).filter(|(_, endpoint)| endpoint.serves);
            serving.map(|(_, endpoint)| endpoint.address).collect()
        }
    }
}

impl Missed {
    /// The targets of a round, and the address to ping for each: one serving instance of each peer that has any, and some
    /// services that have a serving instance.
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
        let missed = |(asked, _): &&(Asked, Ipv4Addr)| self.0.get(asked).is_some_and(|misses| misses.count > 0);
        let again = services.iter().filter(missed).take(SERVICES_AGAIN);
        peers.keys().filter_map(one_of).chain(in_turn.chain(again).cloned()).collect()
    }

    /// Notes which targets were pinged, and whether they answered, and forgets all other targets. An unanswered ping that
    /// may have gone to an `unsettled` peer, or to an instance that serves no longer, does not count: the path or the
    /// directory explains it.
    pub fn note(
        &mut self,
        asked: impl IntoIterator<Item = (Asked, bool)>,
        unsettled: &BTreeSet<Subnet>,
        directory: &Directory,
    ) {
        let mut before = std::mem::take(&mut self.0);
        let count = |(asked, answered)| {
            let serving = serving(&asked, directory);
            let is_explained = serving.iter().any(|address| unsettled.contains(&Subnet::of(*address)));
            let earlier = before.remove(&asked).filter(|earlier| earlier.serving == serving).unwrap_or_default();
            let count = if answered || is_explained { 0 } else { earlier.count.saturating_add(1) };
            (asked, Misses { count, serving })
        };
        self.0 = asked.into_iter().map(count).collect();
    }

    /// Forgets the unanswered pings of targets that other instances serve now.
    pub fn follow(&mut self, directory: &Directory) {
        self.0.retain(|asked, misses| misses.count == 0 || misses.serving == serving(asked, directory));
    }

    /// The peers whose instances, and the services that, this host does not reach.
    pub fn findings(&self) -> BTreeSet<Finding> {
        let unreached = self.0.iter().filter(|(_, misses)| misses.count >= MISSES).take(MOST_NAMED);
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
        let found = |heard: &mut Heard, now| heard.findings(&[peer(2)].into(), 1450, at(now));
        assert!(found(&mut heard, 13).is_empty(), "a new peer has time to begin");
        heard.note(peer(1), true, at(12));
        heard.note(peer(9), true, at(12));
        assert!(found(&mut heard, 14).is_empty(), "it answers: why it is silent is not known yet");
        assert_eq!(found(&mut heard, 20), [Finding::Unheard { peer: peer(2), answers: true }].into());
        assert_eq!(found(&mut heard, 26).len(), 2, "one that does not answer is known at once");
        assert!(heard.note(peer(2), true, at(27)) && !heard.note(peer(2), true, at(27)), "a silence ends once");
        assert_eq!(found(&mut heard, 27), [Finding::Unheard { peer: peer(1), answers: false }].into());
        heard.keep([peer(2)].into_iter(), at(28));
        assert!(found(&mut heard, 30).is_empty(), "a host that was removed is not missed");
    }

    #[test]
    fn a_path_for_small_packets_alone_is_narrow() {
        let mut heard = Heard::default();
        heard.keep([peer(1)].into_iter(), at(0));
        for second in 1..=60 {
            heard.note(peer(1), false, at(second));
        }
        let narrow = BTreeSet::from([Finding::Narrow { peer: peer(1), mtu: 1450 }]);
        assert_eq!(heard.findings(&BTreeSet::new(), 1450, at(60)), narrow);
        heard.note(peer(1), true, at(61));
        assert!(heard.findings(&BTreeSet::new(), 1450, at(62)).is_empty());
    }

    /// A host looks every two seconds; its peer speaks every four, and says something large every sixteen.
    #[test]
    fn what_a_cut_or_a_pause_explains_is_not_a_finding() {
        // From when to when the peer is cut off, and this process stands still; the findings by second.
        let run = |cut: std::ops::Range<u64>, paused: std::ops::Range<u64>| {
            let mut heard = Heard::default();
            let mut found = Vec::new();
            for second in (0..400).filter(|second| !paused.contains(second)) {
                if second % 2 == 0 {
                    heard.keep([peer(1)].into_iter(), at(second));
                }
                if second % 4 == 0 && !cut.contains(&second) {
                    heard.note(peer(1), second % 16 == 0, at(second));
                }
                if second % 2 == 0 {
                    let answering = if cut.contains(&second) { BTreeSet::new() } else { [peer(1)].into() };
                    found.extend(heard.findings(&answering, 1450, at(second)).into_iter().map(|it| (second, it)));
                }
            }
            found
        };
        assert_eq!(run(0..0, 0..0), []);
        let cut = run(101..202, 0..0);
        assert_eq!((cut.first().map(|it| it.0), cut.last().map(|it| it.0)), (Some(114), Some(200)), "{cut:?}");
        assert!(cut.iter().all(|(_, it)| *it == Finding::Unheard { peer: peer(1), answers: false }), "{cut:?}");
        assert_eq!(run(0..0, 101..303), [], "who stood still has missed nothing");
        assert_eq!(run(0..0, 101..122), []);
    }

    #[test]
    fn who_does_not_answer_three_times_in_a_row_is_not_reached() {
        let mut missed = Missed::default();
        let (one, two) = (Asked::Instances(peer(1)), Asked::Instances(peer(2)));
        let unreached = |number| BTreeSet::from([Finding::Unreached { peer: peer(number) }]);
        let note = |missed: &mut Missed, asked: &[(&Asked, bool)]| {
            let asked = asked.iter().map(|(asked, answered)| ((*asked).clone(), *answered));
            missed.note(asked, &BTreeSet::new(), &Directory::default());
        };
        note(&mut missed, &[(&one, false), (&two, false)]);
        note(&mut missed, &[(&one, false), (&two, true)]);
        assert!(missed.findings().is_empty());
        note(&mut missed, &[(&one, false), (&two, false)]);
        assert_eq!(missed.findings(), unreached(1));
        note(&mut missed, &[(&one, true), (&two, false)]);
        note(&mut missed, &[(&two, false)]);
        assert_eq!(missed.findings(), unreached(2));
        note(&mut missed, &[(&one, false)]);
        assert!(missed.findings().is_empty(), "what has no instances any more is not missed");
    }

    #[test]
    fn who_did_not_answer_for_a_known_reason_is_not_missed() {
        let service: ServiceId = "default/shop/web".parse().expect("an id");
        let directory = |serving: &[usize]| {
            let mut directory = Directory::default();
            for number in serving {
                let id = service.slot(u32::try_from(*number).expect("it is small")).instance(1);
                let [a, b, c, _] = peer(*number).host().octets();
                directory.put_instance(id, Some(Endpoint { address: [a, b, c, 2].into(), serves: true }));
            }
            directory
        };
        let asked = [Asked::Instances(peer(1)), Asked::Service(service.clone())];
        let miss = |missed: &mut Missed, unsettled: &[usize], serving: &[usize]| {
            let unsettled = unsettled.iter().map(|number| peer(*number)).collect();
            missed.note(asked.clone().map(|asked| (asked, false)), &unsettled, &directory(serving));
            missed.findings().len()
        };
        let mut missed = Missed::default();
        assert_eq!([0; 3].map(|_| miss(&mut missed, &[], &[1, 2])), [0, 0, 2]);
        assert_eq!(miss(&mut missed, &[2], &[1, 2]), 1, "the service may have been asked of the silent one");
        assert_eq!(miss(&mut missed, &[1], &[1, 2]), 0);
        assert_eq!([0; 3].map(|_| miss(&mut missed, &[3], &[1, 2])), [0, 0, 2], "nothing of that one was asked");
        missed.follow(&directory(&[1]));
        assert_eq!(missed.findings(), [Finding::Unreached { peer: peer(1) }].into(), "others serve it now");
        assert_eq!([0; 2].map(|_| miss(&mut missed, &[], &[1])), [1, 1], "three times those that serve now");
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
            let asked = next.into_keys().map(|asked| (asked.clone(), asked != Asked::Service(service(3))));
            missed.note(asked, &BTreeSet::new(), &directory);
        }
        assert_eq!(missed.findings(), [Finding::Service { service: service(3) }].into());
        assert!(Missed::default().next(&Directory::default(), &peers, 1).is_empty());
    }
}
