//! What clients did and were answered, gathered while they work.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{
    checker::{self, Operation, Verdict},
    model::State,
};

/// How the name of a stack begins; every other object is a key.
pub const STACK: &str = "stack";

/// A line of the file that keeps a history.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// The object.
    pub object: String,
    /// What was done with it.
    #[serde(flatten)]
    pub operation: Operation,
}

/// How many operations ended how.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Tally {
    /// Those that were answered.
    pub answered: usize,
    /// Writes of which nothing is known.
    pub unknown: usize,
    /// Operations that were refused as not made.
    pub refused: usize,
    /// Reads without an answer, which say nothing.
    pub unread: usize,
    /// Writes that were answered when they were repeated under their `Idempotency-Key`.
    pub repeated: usize,
}

#[derive(Default)]
struct Gathered {
    objects: BTreeMap<String, Vec<Operation>>,
    tally: Tally,
    /// The index at which each value of a key was written.
    indexes: BTreeMap<(String, u64), u64>,
    /// When writes were acknowledged.
    acknowledged: Vec<u64>,
    complaints: Vec<String>,
}

/// Takes what all clients do.
pub struct Recorder {
    began: Instant,
    gathered: Mutex<Gathered>,
}

impl Recorder {
    /// Begins a history.
    pub fn begin() -> Recorder {
        Recorder { began: Instant::now(), gathered: Mutex::default() }
    }

    /// Microseconds since it began.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().expect("no panic while it is held")
    }

    /// Takes an operation that was answered, or may have been made.
    pub fn take(&self, object: &str, operation: Operation, is_write: bool) {
        let mut gathered = self.gathered();
        match &operation.answer {
            Some((at, _)) => {
                gathered.tally.answered += 1;
                if is_write {
                    gathered.acknowledged.push(*at);
                }
            }
            None => gathered.tally.unknown += 1,
        }
        gathered.objects.entry(object.to_owned()).or_default().push(operation);
    }

    /// Changes the counts.
    pub fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.gathered().tally);
    }

    /// Notes at which index a value was written: a value that is written once has one.
    pub fn note_index(&self, object: &str, value: u64, index: u64) {
        let known = *self.gathered().indexes.entry((object.to_owned(), value)).or_insert(index);
        if known != index {
            self.complain(format!("{object}: value {value} was written at index {known} and again at {index}"));
        }
    }

    /// Notes something that must never happen, whatever the order.
    pub fn complain(&self, what: String) {
        self.gathered().complaints.push(what);
    }

    /// Ends the history.
    pub fn end(&self) -> History {
        let Gathered { objects, tally, mut acknowledged, complaints, .. } = std::mem::take(&mut *self.gathered());
        acknowledged.sort_unstable();
        History { objects, tally, acknowledged, complaints }
    }
}

/// A history of all objects.
pub struct History {
    /// The operations on each object.
    pub objects: BTreeMap<String, Vec<Operation>>,
    /// How they ended.
    pub tally: Tally,
    /// When writes were acknowledged, in order.
    pub acknowledged: Vec<u64>,
    /// What must never happen and did.
    pub complaints: Vec<String>,
}

/// The state of an object that nobody has written yet.
pub fn initial(object: &str) -> State {
    if object.starts_with(STACK) { State::Stack(None) } else { State::Key(None) }
}

impl History {
    /// What cannot have happened: a text for each object, with the shortest part of its history that shows it.
    pub fn violations(&self) -> Vec<String> {
        let judged =
            self.objects.iter().filter_map(|(object, operations)| match checker::check(operations, initial(object)) {
                Verdict::Linearizable => None,
                Verdict::Undecided => Some(format!("{object}: the search took too long")),
                Verdict::Violation => {
                    let part = checker::shortest(operations, initial(object));
                    Some(format!("{object}: no order explains\n{}", table(&part)))
                }
            });
        self.complaints.iter().cloned().chain(judged).collect()
    }

    /// The longest time without an acknowledged write, in microseconds.
    pub fn longest_silence(&self) -> u64 {
        let times = std::iter::once(0).chain(self.acknowledged.iter().copied());
        times.zip(&self.acknowledged).map(|(before, at)| at - before).max().unwrap_or(0)
    }

    /// All operations, one a line.
    pub fn lines(&self) -> Vec<Line> {
        let all = self.objects.iter().flat_map(|(object, operations)| {
            operations.iter().map(|operation| Line { object: object.clone(), operation: operation.clone() })
        });
        all.collect()
    }
}

/// Operations for people, by the time of their calls.
fn table(operations: &[Operation]) -> String {
    let mut sorted: Vec<&Operation> = operations.iter().collect();
    sorted.sort_by_key(|operation| operation.call);
    let line = |operation: &&Operation| {
        let ended = match &operation.answer {
            Some((at, output)) => format!("{at:>9} {output:?}"),
            None => "        ? unknown".to_owned(),
        };
        format!("  client {} {:>9} .. {ended}: {:?}\n", operation.client, operation.call, operation.input)
    };
    sorted.iter().map(line).collect()
}
