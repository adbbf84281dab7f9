//! Which peers are heard through the overlay, judged by what has arrived: each host tells the others that it is
//! there, so a path that is broken in one direction is known by the host at its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{
    finding::{Finding, MOST_NAMED},
    network::Subnet,
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
/// How often one of each peer's instances is asked.
pub const ASK_EVERY: Duration = Duration::from_secs(6);
/// A peer is not reached when so many in a row did not answer.
const MISSES: u32 = 3;

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

/// How many instances of each peer did not answer, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Missed(BTreeMap<Subnet, u32>);

impl Missed {
    /// Notes which peers' instances were asked, and whether they answered: nothing is missed of others.
    pub fn note(&mut self, asked: impl IntoIterator<Item = (Subnet, bool)>) {
        let before = std::mem::take(&mut self.0);
        let misses = |peer: Subnet| before.get(&peer).copied().unwrap_or_default();
        let count = |(peer, answered)| (peer, if answered { 0 } else { misses(peer).saturating_add(1) });
        self.0 = asked.into_iter().map(count).collect();
    }

    /// The peers of whose instances none is reached.
    pub fn findings(&self) -> BTreeSet<Finding> {
        let unreached = self.0.iter().filter(|(_, misses)| **misses >= MISSES).take(MOST_NAMED);
        unreached.map(|(peer, _)| Finding::Unreached { peer: *peer }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::network::NetworkPlan;

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
        let (one, two) = (peer(1), peer(2));
        missed.note([(one, false), (two, false)]);
        missed.note([(one, false), (two, true)]);
        assert!(missed.findings().is_empty());
        missed.note([(one, false), (two, false)]);
        assert_eq!(missed.findings(), [Finding::Unreached { peer: one }].into());
        missed.note([(one, true), (two, false)]);
        missed.note([(two, false)]);
        assert_eq!(missed.findings(), [Finding::Unreached { peer: two }].into());
        missed.note([(one, false)]);
        assert!(missed.findings().is_empty(), "what has no instances any more is not missed");
    }
}
