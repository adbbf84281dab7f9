//! Named tasks that run as long as the process. If one ends unexpectedly, the process learns its name.
//!
//! Without this, a task that panicked would silently be missing: the process would continue without its planner.

use std::{collections::HashMap, fmt};

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The tasks of a process or of a part of it; they end together.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<()>,
    running: HashMap<Id, Task>,
    stop: CancellationToken,
}

#[derive(Debug, Clone, Copy)]
struct Task {
    name: &'static str,
    /// Whether the task may end by itself.
    may_end: bool,
}

/// A task that ended unexpectedly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedTask {
    /// The name given to `spawn`.
    pub name: &'static str,
    /// The panic message; none if the task returned.
    pub panicked: Option<String>,
}

impl fmt::Display for EndedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.panicked {
            Some(message) => write!(f, "the task {} panicked: {message}", self.name),
            None => write!(f, "the task {} ended", self.name),
        }
    }
}

impl Supervisor {
    /// A supervisor without tasks. Cancelling `stop` ends all of its tasks.
    pub fn new(stop: CancellationToken) -> Supervisor {
        Supervisor { tasks: JoinSet::new(), running: HashMap::new(), stop }
    }

    /// The token that ends all tasks.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs a task that never ends by itself.
    pub fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.add_until_stop(Task { name, may_end: false }, work);
    }

    /// Runs a task that ends by itself.
    pub fn spawn_once(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.add_until_stop(Task { name, may_end: true }, work);
    }

    /// Runs a task that watches `stop` itself, and ends some time after it.
    pub fn spawn_heeding_stop(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.add(Task { name, may_end: false }, work);
    }

    fn add_until_stop(&mut self, task: Task, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.add(task, async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    fn add(&mut self, task: Task, work: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(work);
        self.running.insert(handle.id(), task);
    }

    /// Waits until a task has ended unexpectedly. Cancel-safe.
    pub async fn failed(&mut self) -> EndedTask {
        loop {
            let Some(joined) = self.tasks.join_next_with_id().await else { return std::future::pending().await };
            if let Some(ended) = self.note(joined) {
                return ended;
            }
        }
    }

    /// Ends all tasks and waits for them; returns the first one that panicked meanwhile.
    pub async fn end(mut self) -> Option<EndedTask> {
        self.stop.cancel();
        let mut first = None;
        while let Some(joined) = self.tasks.join_next_with_id().await {
            first = first.or(self.note(joined));
        }
        first
    }

    fn note(&mut self, joined: Result<(Id, ()), JoinError>) -> Option<EndedTask> {
        let (id, panicked) = match joined {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), error.is_panic().then(|| message(error))),
        };
        let task = self.running.remove(&id)?;
        let was_asked = self.stop.is_cancelled() || task.may_end;
        (panicked.is_some() || !was_asked).then_some(EndedTask { name: task.name, panicked })
    }
}

fn message(error: JoinError) -> String {
    let payload = error.into_panic();
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_unasked_is_named() {
        let supervisor = || {
            let mut supervisor = Supervisor::new(CancellationToken::new());
            supervisor.spawn("loop", pending());
            supervisor.spawn_once("errand", async {});
            supervisor
        };
        let mut with_panic = supervisor();
        with_panic.spawn("planner", async { panic!("slot {} is filled twice", 3) });
        let ended = with_panic.failed().await;
        assert_eq!(ended.to_string(), "the task planner panicked: slot 3 is filled twice");

        let mut with_end = supervisor();
        with_end.spawn("reads", async {});
        assert_eq!(with_end.failed().await.to_string(), "the task reads ended");

        let mut errand = supervisor();
        errand.spawn_once("address", async { panic!("no address") });
        assert_eq!(errand.failed().await.to_string(), "the task address panicked: no address");
    }

    #[tokio::test]
    async fn tasks_that_are_asked_to_end_are_none_that_failed() {
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.spawn("loop", pending());
        let stop = supervisor.stop();
        supervisor.spawn("last words", async move {
            stop.cancelled().await;
            panic!("not now");
        });
        assert_eq!(supervisor.end().await, None, "what is cancelled says nothing more");
    }
}
