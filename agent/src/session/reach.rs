//! How an agent reaches a coordinator that answers.

use std::{net::SocketAddr, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use link::{Connection, LinkError, Transport};

/// How long a coordinator has to answer before the next one is asked as well.
const NEXT_AFTER: Duration = Duration::from_millis(500);

/// Connects to the first coordinator that answers, and returns its place in the list. One that does not answer at once
/// delays the next one only for a moment. If all fail, the last error counts.
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
    use common::{id::HostId, wire::PeerIdentity};
    use link::memory::{End, Network};
    use tokio::time::Instant;

    use super::*;

    /// An end that some others do not answer.
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
        let (first, second, third, missing) = (at(1), at(2), at(3), at(4));
        for (coordinators, deaf, found, waits) in [
            (vec![first, second, third], vec![], Some(0), 0),
            (vec![first, second, third], vec![first], Some(1), 1),
            (vec![first, second, third], vec![first, second], Some(2), 2),
            // One that refuses at once does not hold up the others.
            (vec![missing, second], vec![], Some(1), 0),
            (vec![missing, first, second], vec![first], Some(2), 1),
            (vec![missing], vec![], None, 0),
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
}
