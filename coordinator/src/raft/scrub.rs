//! Reads slowly what is stored and nobody reads otherwise, so that damage is found while other members still have what it
//! took. A member that finds some stops; when it is started again, it begins anew ([`rejoin`](super::rejoin)).

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use tracing::{debug, error, warn};

use super::{
    snapshot,
    store::{Store, StoreError},
};

/// The time between two passes, and between two segments of one.
const PERIOD: Duration = Duration::from_secs(6 * 3600);
const PAUSE: Duration = Duration::from_secs(2);

/// Checks a store and the newest of its snapshots again and again, until the store is closed.
pub async fn run(store: Weak<Store>, snapshots: PathBuf) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(closed) = store.upgrade().map(|store| store.closed_segments()) else { return };
        for generation in closed {
            tokio::time::sleep(PAUSE).await;
            let Some(store) = store.upgrade() else { return };
            stop_if_damaged(&store.clone(), move || store.check_segment(generation)).await;
        }
        let Some(store) = store.upgrade() else { return };
        let folder = snapshots.clone();
        stop_if_damaged(&store, move || snapshot::load_newest(&folder).map(drop)).await;
        debug!("what is stored was read");
    }
}

async fn stop_if_damaged(store: &Arc<Store>, check: impl FnOnce() -> Result<(), StoreError> + Send + 'static) {
    match tokio::task::spawn_blocking(check).await {
        Ok(Err(damage @ StoreError::Corrupt { .. })) => {
            error!(%damage, "stored data is damaged; this coordinator stops, and begins anew when it is started again");
            store.fail(damage.to_string());
        }
        // It may be out of file descriptors for once.
        Ok(Err(error)) => warn!(%error, "stored data could not be read; it is tried again in the next pass"),
        Ok(Ok(())) => {}
        Err(error) => warn!(%error, "reading stored data ended early"),
    }
}
