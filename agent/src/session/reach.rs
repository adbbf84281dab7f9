//! How an agent finds a coordinator that answers: soon, since a host that is away for long loses what it runs, and never
//! with so many others at the same moment that none of them is served.

use std::{net::SocketAddr, time::Duration};

use common::id::HostId;
use futures::{StreamExt, stream::FuturesUnordered};
use link::{Connection, LinkError, Transport};

/// How long a coordinator has to answer before the next one is asked as well.
const NEXT_AFTER: Duration = Duration::from_millis(500);
/// How long an agent waits after its first failure, at most.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// After which time a session counts as one that was there.
pub(super) const STAYED: Duration = Duration::from_secs(5);
/// The longest wait between two attempts is that of so many hosts a second, within these limits.
const HOSTS_PER_SECOND: u32 = 1000;
const LONGEST_PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// How long to wait before the next attempt, after so many that failed, in a cluster of so many hosts. Hosts differ in
/// their identity: those that lost the same leader do not all come back at the same moment.
pub(super) fn pause(attempts: u32, hosts: usize, host: HostId) -> Duration {
    let [least, most] = LONGEST_PAUSE;
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
    let longest = (Duration::from_secs(1).saturating_mul(hosts) / HOSTS_PER_SECOND).clamp(least, most);
    let pause = FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(longest);
    // Half of it for all, and a part of the other half.
    let [a, b, ..] = host.0;
    pause / 2 + pause * u32::from(u16::from_be_bytes([a, b])) / (2 * u32::from(u16::MAX))
}

/// Connects to the first coordinator that answers, and says which it is. Each one that does not answer at once holds up the
/// next one for a moment alone. Of errors the last one counts.
pub(super) async fn reach(
    transport: &dyn Transport,
    coordinators: &[SocketAddr],
) -> Result<(usize, Connection), LinkError> {
    let mut waiting = coordinators.iter().enumerate();
    let mut dialling = FuturesUnordered::new();
    let mut failed = LinkError::TimedOut(Duration::ZERO);
    loop {
        if let Some((place, address)) = waiting.next() {
            dialling.push(async move { (place, transport.dial(*address).await) });
        } else if dialling.is_empty() {
            return Err(failed);
        }
        // Until one has answered, failed, or had its time.
        let is_last = waiting.len() == 0;
        tokio::select! {
            Some((place, dialled)) = dialling.next() => match dialled {
                Ok(connection) => return Ok((place, connection)),
                Err(error) => failed = error,
            },
            () = tokio::time::sleep(NEXT_AFTER), if !is_last => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use common::wire::PeerIdentity;
    use link::memory::{End, Network};
    use tokio::time::Instant;

    use super::*;

    /// An end to which some others do not say a word.
    struct Deaf(End, Vec<SocketAddr>);

    #[async_trait]
    impl Transport for Deaf {
        async fn dial(&self, to: SocketAddr) -> Result<Connection, LinkError> {
            if self.1.contains(&to) {
                std::future::pending::<()>().await;
            }
            self.0.dial(to).await
        }

        async fn accept(&self) -> Option<Connection> {
            None
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_holds_up_the_next_one_for_a_moment_alone() {
        let at = |last: u8| SocketAddr::from(([10, 0, 0, last], 7443));
        let (first, second, third, nobody) = (at(1), at(2), at(3), at(4));
        for (coordinators, deaf, found, waits) in [
            (vec![first, second, third], vec![], Some(0), 0),
            (vec![first, second, third], vec![first], Some(1), 1),
            (vec![first, second, third], vec![first, second], Some(2), 2),
            // One that refuses at once holds up nobody.
            (vec![nobody, second], vec![], Some(1), 0),
            (vec![nobody, first, second], vec![first], Some(2), 1),
            (vec![nobody], vec![], None, 0),
            (vec![], vec![], None, 0),
        ] {
            let network = Network::default();
            let identity = |last| PeerIdentity { host: HostId([last; 10]), member: None };
            let _ends = [first, second, third].map(|address| network.end(address, identity(1)));
            let own = Deaf(network.end(at(9), identity(9)), deaf);
            let began = Instant::now();
            let reached = tokio::time::timeout(Duration::from_secs(60), reach(&own, &coordinators)).await;
            let place = reached.expect("it does not wait for the deaf").map(|(place, _)| place).ok();
            assert_eq!(place, found, "{coordinators:?}, and not {:?}", own.1);
            assert!(began.elapsed() >= NEXT_AFTER * waits, "each has its time: {coordinators:?}");
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
