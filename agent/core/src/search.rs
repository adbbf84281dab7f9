//! The search for the coordinator that leads: which ones to try, and when. A host that is away for long loses what it
//! runs, so it tries soon; and hosts that lost the same leader do not all come back at the same moment, or none of them
//! would be served.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use common::id::HostId;

/// How many redirections in a row are followed at once.
const MOST_REDIRECTIONS: u32 = 3;
/// The wait after the first failure, at most.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A session that lasted so long ends a series of failures.
const STAYED: Duration = Duration::from_secs(5);
/// The longest wait between two attempts is that of so many hosts a second, within these limits.
const HOSTS_PER_SECOND: u32 = 1000;
const LONGEST_PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// The coordinators that a host knows, in the order in which it tries them, and the attempts that failed in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    host: HostId,
    coordinators: VecDeque<SocketAddr>,
    attempts: u32,
    redirections: u32,
}

/// An attempt that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// How long its session lasted; zero if there was none.
    pub stayed: Duration,
    /// The leader that the coordinator named, if it redirected the host.
    pub leader: Option<SocketAddr>,
}

impl Search {
    /// A search that begins with these coordinators.
    pub fn new(host: HostId, coordinators: &[SocketAddr]) -> Search {
        Search { host, coordinators: coordinators.iter().copied().collect(), attempts: 0, redirections: 0 }
    }

    /// The coordinators, the next one first.
    pub fn coordinators(&mut self) -> &[SocketAddr] {
        self.coordinators.make_contiguous()
    }

    /// Notes which of them answered, and returns its address. Those before it did not answer: they, and then this one,
    /// come last the next time.
    pub fn answered(&mut self, place: usize) -> SocketAddr {
        let address = self.coordinators[place];
        self.coordinators.rotate_left(place + 1);
        address
    }

    /// Notes the coordinators that the cluster has now. The one in use keeps its place at the end.
    pub fn learn(&mut self, all: Vec<SocketAddr>) {
        self.coordinators.retain(|known| all.contains(known));
        for address in all {
            if !self.coordinators.contains(&address) {
                self.coordinators.push_front(address);
            }
        }
    }

    /// Notes how an attempt ended, in a cluster of so many hosts; returns how long to wait before the next one.
    pub fn ended(&mut self, attempt: Attempt, hosts: usize) -> Option<Duration> {
        if attempt.stayed >= STAYED {
            (self.attempts, self.redirections) = (0, 0);
        }
        if let Some(leader) = attempt.leader {
            self.coordinators.retain(|other| *other != leader);
            self.coordinators.push_front(leader);
            self.redirections += 1;
            if self.redirections <= MOST_REDIRECTIONS {
                return None;
            }
        }
        let pause = pause(self.attempts, hosts, self.host);
        (self.attempts, self.redirections) = (self.attempts.saturating_add(1), 0);
        Some(pause)
    }
}

/// The wait before the next attempt, after so many that failed, in a cluster of so many hosts. It differs by host.
fn pause(attempts: u32, hosts: usize, host: HostId) -> Duration {
    let [least, most] = LONGEST_PAUSE;
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
    let longest = (Duration::from_secs(1).saturating_mul(hosts) / HOSTS_PER_SECOND).clamp(least, most);
    let pause = FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(longest);
    // Half of it for all, and a part of the other half.
    let [a, b, ..] = host.0;
    pause / 2 + pause * u32::from(u16::from_be_bytes([a, b])) / (2 * u32::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 7443))
    }

    fn search(coordinators: &[u8]) -> Search {
        let coordinators: Vec<SocketAddr> = coordinators.iter().map(|last| at(*last)).collect();
        Search::new(HostId([0; 10]), &coordinators)
    }

    fn order(search: &mut Search) -> Vec<u8> {
        let last = |address: &SocketAddr| match address {
            SocketAddr::V4(address) => address.ip().octets()[3],
            SocketAddr::V6(_) => panic!("there is none"),
        };
        search.coordinators().iter().map(last).collect()
    }

    #[test]
    fn the_one_that_answered_and_those_that_did_not_come_last() {
        for (place, address, expected) in [(0, 1, [2, 3, 1]), (1, 2, [3, 1, 2]), (2, 3, [1, 2, 3])] {
            let mut search = search(&[1, 2, 3]);
            assert_eq!(search.answered(place), at(address));
            assert_eq!(order(&mut search), expected);
        }
    }

    #[test]
    fn coordinators_come_and_go_and_the_one_in_use_stays_last() {
        for (all, expected) in [
            (vec![1, 2, 3], vec![1, 2, 3]),
            (vec![3, 1], vec![1, 3]),
            (vec![1, 2, 3, 4], vec![4, 1, 2, 3]),
            (vec![4, 5], vec![5, 4]),
            (vec![], vec![]),
        ] {
            let mut search = search(&[1, 2, 3]);
            search.learn(all.iter().map(|last| at(*last)).collect());
            assert_eq!(order(&mut search), expected, "{all:?}");
        }
    }

    #[test]
    fn a_named_leader_is_tried_at_once_but_not_for_ever() {
        let mut search = search(&[1, 2]);
        let (stayed, short) = (STAYED, Duration::ZERO);
        let mut ended = |stayed, leader: Option<u8>| {
            let attempt = Attempt { stayed, leader: leader.map(at) };
            let pause = search.ended(attempt, 3).map(|pause| pause.as_millis());
            (pause, order(&mut search))
        };
        for (stayed, leader, expected) in [
            (short, Some(2), (None, vec![2, 1])),
            (short, Some(3), (None, vec![3, 2, 1])),
            (short, Some(1), (None, vec![1, 3, 2])),
            (short, Some(1), (Some(125), vec![1, 3, 2])),
            // A pause ends a series of redirections, and does not end a series of failures.
            (short, Some(2), (None, vec![2, 1, 3])),
            (short, None, (Some(250), vec![2, 1, 3])),
            (short, None, (Some(500), vec![2, 1, 3])),
            (stayed, None, (Some(125), vec![2, 1, 3])),
            (short, None, (Some(250), vec![2, 1, 3])),
        ] {
            assert_eq!(ended(stayed, leader), expected, "{stayed:?} {leader:?}");
        }
    }

    #[test]
    fn pauses_grow_with_the_attempts_and_the_hosts_and_differ_by_host() {
        let host = |first: u8| HostId([first; 10]);
        let millis = |attempts, hosts, first| pause(attempts, hosts, host(first)).as_millis();
        for (attempts, hosts, least, most) in [
            (0, 0, 125, 250),
            (1, 3, 250, 500),
            (2, 3, 500, 1000),
            (3, 3, 500, 1000),
            (100, 1000, 500, 1000),
            (100, 2500, 1250, 2500),
            (100, 10_000, 2500, 5000),
            (0, 10_000, 125, 250),
            (u32::MAX, usize::MAX, 2500, 5000),
        ] {
            assert_eq!([millis(attempts, hosts, 0), millis(attempts, hosts, 255)], [least, most], "{attempts} {hosts}");
            let between = millis(attempts, hosts, 128);
            assert!(least < between && between < most, "{between} of {attempts} {hosts}");
        }
    }
}
