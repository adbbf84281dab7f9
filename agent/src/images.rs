//! Keeps room on Docker's disk: remembers which images wharf pulled, and removes those that nothing needs any more, and
//! old build caches, when the disk fills up.
//!
//! One task does all of it. An image that is being removed must not be found by an action that is about to use it, so the
//! task removes one at a time, between the requests of actions, and decides again before each ([`next_step`]).

mod stored;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agent_core::images::{
    Assigned, Fill, ImageId, ImageRecord, ReadyImage, Removal, ServicePart, Snapshot, Step, UNUSED_CACHE, next_step,
};
use common::{assignment::Assignment, host::HostCondition, quantity::Bytes};
use link::clock::now;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::runtime::{ContainerRuntime, Removed};
pub(crate) use stored::StoredRecord;
pub use stored::{Contents, IMAGES_FORMAT};

/// The time between two looks at the disk.
const EVERY: Duration = Duration::from_secs(5 * 60);
/// The time until the next look after a pull, since others may come with it, and until the first look.
const AFTER_PULL: Duration = Duration::from_secs(5);
/// How many requests may wait. Those that come later wait to be sent.
const MOST_WAITING: usize = 64;

/// How actions tell the task which images they use.
#[derive(Debug)]
pub struct Images(mpsc::Sender<Request>);

/// What an action asks for. Each is answered when it is done.
#[derive(Debug)]
pub(crate) enum Request {
    /// That no image is being removed.
    Settle(oneshot::Sender<()>),
    /// That the image of a part is remembered.
    Note(Box<(ServicePart, ReadyImage)>, oneshot::Sender<()>),
}

impl Images {
    /// A way to a task, and its end there.
    pub(crate) fn channel() -> (Images, mpsc::Receiver<Request>) {
        let (requests, received) = mpsc::channel(MOST_WAITING);
        (Images(requests), received)
    }

    /// Waits until no image is being removed. After that, no image of the assignment will be.
    pub(crate) async fn settle(&self) {
        self.ask(Request::Settle).await;
    }

    /// Remembers, durably, the image of a part of which a container is about to be made.
    pub(crate) async fn note(&self, part: ServicePart, ready: ReadyImage) {
        self.ask(|done| Request::Note(Box::new((part, ready)), done)).await;
    }

    async fn ask(&self, request: impl FnOnce(oneshot::Sender<()>) -> Request) {
        let (done, answer) = oneshot::channel();
        // Without the task the agent stops: no image is removed any more, and one that is not noted stays.
        if self.0.send(request(done)).await.is_ok() && answer.await.is_err() {
            debug!("the agent stops before an image is noted");
        }
    }
}

/// The task and what it knows.
pub(crate) struct ImageKeeper {
    runtime: Arc<dyn ContainerRuntime>,
    requests: mpsc::Receiver<Request>,
    record: StoredRecord,
    assignment: watch::Receiver<Assignment>,
    look_at: Instant,
}

/// A clean-up that has begun.
struct Progress {
    before: Fill,
    tried: BTreeSet<ImageId>,
    removed: usize,
}

impl ImageKeeper {
    /// A task that has not begun, and the way to it.
    pub(crate) fn new(
        runtime: Arc<dyn ContainerRuntime>,
        record: StoredRecord,
        assignment: watch::Receiver<Assignment>,
    ) -> (Images, ImageKeeper) {
        let (images, requests) = Images::channel();
        let look_at = Instant::now() + AFTER_PULL;
        (images, ImageKeeper { runtime, requests, record, assignment, look_at })
    }

    /// Answers actions, and looks at the disk now and then, after pulls, and when a condition of the host changes.
    pub(crate) async fn run(mut self, mut conditions: watch::Receiver<Vec<HostCondition>>) {
        loop {
            tokio::select! {
                biased;
                Some(request) = self.requests.recv() => self.serve(request).await,
                Ok(()) = conditions.changed() => self.look().await,
                () = sleep_until(self.look_at) => self.look().await,
            }
        }
    }

    /// Does what actions ask for, and all that waits with it: one write serves all.
    async fn serve(&mut self, first: Request) {
        let mut waiting = vec![first];
        while let Ok(request) = self.requests.try_recv() {
            waiting.push(request);
        }
        let (mut notes, mut asking) = (Vec::new(), Vec::new());
        for request in waiting {
            match request {
                Request::Settle(done) => asking.push(done),
                Request::Note(note, done) => {
                    notes.push(*note);
                    asking.push(done);
                }
            }
        }
        if notes.iter().any(|(_, ready)| ready.is_new()) {
            self.look_at = self.look_at.min(Instant::now() + AFTER_PULL);
        }
        let note_all = |record: &mut ImageRecord| {
            notes.into_iter().for_each(|(part, ready)| record.note(part, ready, now()));
        };
        self.record.change(note_all).await;
        for done in asking {
            if done.send(()).is_err() {
                debug!("the action that asked has ended");
            }
        }
    }

    /// Looks at the disk, and cleans it up if it is too full.
    async fn look(&mut self) {
        self.look_at = Instant::now() + EVERY;
        // A host without an assignment does not know what it needs.
        if !self.assignment.borrow().is_known() {
            return;
        }
        let mut progress = None;
        let cleaned = self.clean_up(&mut progress).await;
        if let Err(why) = cleaned {
            warn!(why, "Docker's disk cannot be cleaned up now; trying again later");
        }
        let Some(Progress { before, tried, removed }) = progress.filter(|progress| progress.removed > 0) else {
            return;
        };
        let freed = self.runtime.disk().await.map_or(0, |after| before.used.0.saturating_sub(after.used.0));
        info!(removed, kept = tried.len() - removed, freed, "Docker's disk was cleaned up");
    }

    /// Goes on step by step until there is room, or nothing more may go.
    async fn clean_up(&mut self, progress: &mut Option<Progress>) -> Result<(), String> {
        loop {
            let images = self.runtime.images().await?;
            let Some(fill) = self.runtime.disk().await else { return Ok(()) };
            let assigned = Assigned::of(&self.assignment.borrow());
            self.record.change(|record| record.observe(&images, &assigned, now())).await;
            let tried = progress.as_ref().map(|progress| &progress.tried);
            let record = self.record.record();
            match next_step(&Snapshot { images: &images, record, assigned: &assigned, fill, tried }) {
                Step::Rest => return Ok(()),
                Step::BuildCaches => {
                    *progress = Some(Progress { before: fill, tried: BTreeSet::new(), removed: 0 });
                    self.prune().await;
                }
                Step::Image(removal) => {
                    let removed = self.remove(&removal).await;
                    if let Some(progress) = progress {
                        progress.tried.insert(removal.id);
                        progress.removed += usize::from(removed == Removed::Gone);
                    }
                }
            }
            while let Ok(request) = self.requests.try_recv() {
                self.serve(request).await;
            }
        }
    }

    /// Removes all references to an image, and it with the last one. One that cannot be removed does not keep the others.
    async fn remove(&self, removal: &Removal) -> Removed {
        for name in &removal.names {
            match self.runtime.remove_image(name).await {
                Ok(Removed::Gone) => {}
                Ok(Removed::Kept) => {
                    debug!(name, "Docker uses an image, and keeps it");
                    return Removed::Kept;
                }
                Err(why) => {
                    warn!(name, why, "an image cannot be removed");
                    return Removed::Kept;
                }
            }
        }
        let image = removal.names.join(", ");
        info!(image, size = removal.size.0, "removed an image that wharf pulled and nothing uses");
        Removed::Gone
    }

    /// Removes the build caches. That may take long and touches no image, so actions are answered meanwhile.
    async fn prune(&mut self) {
        let runtime = self.runtime.clone();
        let mut pruning = std::pin::pin!(runtime.prune_build_caches(UNUSED_CACHE));
        let pruned = loop {
            tokio::select! {
                biased;
                Some(request) = self.requests.recv() => self.serve(request).await,
                pruned = &mut pruning => break pruned,
            }
        };
        match pruned {
            Ok(Bytes(0)) => debug!("there are no old build caches"),
            Ok(freed) => info!(freed = freed.0, "removed build caches that were not used for a day"),
            // Images go nevertheless: an engine may be unable to do this.
            Err(why) => warn!(why, "Docker does not remove its build caches"),
        }
    }
}

#[cfg(test)]
mod tests;
