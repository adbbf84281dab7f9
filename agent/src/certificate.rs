//! A look at the host's certificate: without a valid one, no coordinator accepts the host.

use std::{path::PathBuf, time::Duration};

use common::{finding::Finding, time::Timestamp};
use link::{clock, identity::validity_of, keyring::Keyring};
use tracing::warn;

use crate::findings::{Findings, Source};

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(600);
/// The host renews it at half of its life; one with less than one part of so many left was not renewed.
const LEFT_OF: u64 = 4;

/// Looks for as long as it is awaited.
pub(crate) async fn watch(state: PathBuf, findings: Findings) {
    loop {
        let validity = Keyring::load(&state).map_err(|error| error.to_string()).and_then(|keyring| {
            keyring.map(|keyring| validity_of(&keyring.certificate).map_err(|error| error.to_string())).transpose()
        });
        match validity {
            Ok(validity) => {
                let ends = validity.and_then(|(begins, ends)| ends_soon(begins, ends, clock::now()));
                findings.put(Source::Certificate, ends.map(|ends| Finding::Certificate { ends }));
            }
            Err(error) => warn!(error, "the host's certificate cannot be checked"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// When a certificate ends, if that is soon.
fn ends_soon(begins: Timestamp, ends: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let (left, whole) = (ends.since(now).0, ends.since(begins).0);
    (left < whole / LEFT_OF).then_some(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_quarter_of_a_life_is_soon() {
        let soon = |now| ends_soon(Timestamp(1000), Timestamp(2000), Timestamp(now));
        assert_eq!(
            [soon(1500), soon(1750), soon(1751), soon(9000)],
            [None, None, Some(Timestamp(2000)), Some(Timestamp(2000))]
        );
    }
}
