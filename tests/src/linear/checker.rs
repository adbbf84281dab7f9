//! Decides whether a history of one object is linearizable: whether each operation can be given a moment between its
//! call and its answer, so that the answers are those of the model when the operations happen at these moments.
//!
//! The search is that of Wing and Gong with the memory of Lowe ("Testing for linearizability", 2017): it takes the
//! operations in every order that their times allow, and never looks twice at the same operations in the same state.
//! An operation without an answer may happen at any time after its call, or not at all.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use simulation::random::Random;

use super::model::{Input, Output, State, step};

/// An operation as its client saw it. Times are microseconds since the history began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked.
    pub client: usize,
    /// What for.
    pub input: Input,
    /// When.
    pub call: u64,
    /// When the answer came, and which; none if what came of it is unknown.
    pub answer: Option<(u64, Output)>,
}

/// What the checker found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    Violation,
    /// The search took too long.
    Undecided,
}

/// The most steps of one search.
const MOST_STEPS: usize = 20_000_000;

/// Checks the operations on one object, which begins in a state.
pub fn check(operations: &[Operation], initial: State) -> Verdict {
    Search::of(operations).run(initial)
}

/// The shortest part of a history that cannot have happened, whatever was before; nothing of one that can.
pub fn shortest(operations: &[Operation], initial: State) -> Vec<Operation> {
    if check(operations, initial) != Verdict::Violation {
        return Vec::new();
    }
    let mut ends: Vec<u64> = operations.iter().filter_map(|operation| Some(operation.answer.as_ref()?.0)).collect();
    ends.sort_unstable();
    // A history that begins like one that cannot have happened cannot have happened either.
    let end = ends.partition_point(|end| check(&until(operations, *end), initial) != Verdict::Violation);
    let all = until(operations, ends[end]);
    let mut begins: Vec<u64> = all.iter().map(|operation| operation.call).collect();
    begins.sort_unstable();
    // A later part of one that can have happened can have happened too.
    let later = begins.partition_point(|begin| check(&since(&all, *begin), State::Any) == Verdict::Violation);
    later.checked_sub(1).map_or_else(|| all.clone(), |last| since(&all, begins[last]))
}

/// The history as it was at a time.
fn until(operations: &[Operation], end: u64) -> Vec<Operation> {
    let begun = operations.iter().filter(|operation| operation.call <= end).cloned();
    begun.map(|operation| Operation { answer: operation.answer.filter(|(at, _)| *at <= end), ..operation }).collect()
}

/// The history from a time on. What was under way then may have happened before, so its answer says nothing.
fn since(operations: &[Operation], begin: u64) -> Vec<Operation> {
    let unfinished = operations.iter().filter(|operation| operation.answer.as_ref().is_none_or(|(at, _)| *at >= begin));
    let cut = unfinished
        .cloned()
        .map(|operation| Operation { answer: operation.answer.filter(|_| operation.call >= begin), ..operation });
    cut.collect()
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Call(usize),
    Answer(usize),
}

/// Calls and answers in the order of time as a linked list, from which the search lifts what has happened. Place 0 is
/// before the first event, the last place is after all.
struct Search<'a> {
    operations: &'a [Operation],
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The place of each operation's answer.
    answers: Vec<Option<usize>>,
    /// A random number for each operation: their sum (by exclusive or) stands for a set of them.
    names: Vec<u128>,
}

impl Search<'_> {
    fn of(operations: &[Operation]) -> Search<'_> {
        let mut timed = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            timed.push((operation.call, 0, Event::Call(number)));
            // At one moment calls come before answers: the two are taken for concurrent.
            timed.extend(operation.answer.iter().map(|(at, _)| (*at, 1, Event::Answer(number))));
        }
        timed.sort_by_key(|(at, order, _)| (*at, *order));
        let events: Vec<Event> = timed.into_iter().map(|(_, _, event)| event).collect();
        let mut answers = vec![None; operations.len()];
        for (index, event) in events.iter().enumerate() {
            if let Event::Answer(number) = event {
                answers[*number] = Some(index + 1);
            }
        }
        let places = events.len() + 2;
        let mut random = Random::new(events.len() as u64);
        let mut half = || random.below(usize::MAX) as u128;
        let names = operations.iter().map(|_| half() << 64 | half()).collect();
        Search {
            operations,
            events,
            next: (1..=places).collect(),
            previous: (0..places).map(|place| place.saturating_sub(1)).collect(),
            answers,
            names,
        }
    }

    fn run(mut self, initial: State) -> Verdict {
        let mut unanswered = self.answers.iter().flatten().count();
        let (mut state, mut happened, mut place) = (initial, 0_u128, self.next[0]);
        let mut seen = HashSet::new();
        let mut taken: Vec<(usize, usize, State)> = Vec::new();
        for _ in 0..MOST_STEPS {
            if unanswered == 0 {
                return Verdict::Linearizable;
            }
            // While an answer is missing, some event is left.
            match self.events[place - 1] {
                Event::Call(number) => {
                    let with = happened ^ self.names[number];
                    let after = self.after(number, state).filter(|after| seen.insert((with, *after)));
                    let Some(after) = after else {
                        place = self.next[place];
                        continue;
                    };
                    taken.push((place, number, state));
                    (state, happened) = (after, with);
                    unanswered -= usize::from(self.answers[number].is_some());
                    self.lift(place, number);
                    place = self.next[0];
                }
                // It must have happened by now, but nothing before led there.
                Event::Answer(_) => {
                    let Some((call, number, before)) = taken.pop() else { return Verdict::Violation };
                    self.put_back(call, number);
                    unanswered += usize::from(self.answers[number].is_some());
                    happened ^= self.names[number];
                    (state, place) = (before, self.next[call]);
                }
            }
        }
        Verdict::Undecided
    }

    /// The state after an operation. One without an answer is only of interest if it changes something.
    fn after(&self, number: usize, state: State) -> Option<State> {
        let operation = &self.operations[number];
        let output = operation.answer.as_ref().map(|(_, output)| output);
        step(state, &operation.input, output).filter(|after| output.is_some() || *after != state)
    }

    fn lift(&mut self, call: usize, number: usize) {
        self.unlink(call);
        if let Some(answer) = self.answers[number] {
            self.unlink(answer);
        }
    }

    fn put_back(&mut self, call: usize, number: usize) {
        if let Some(answer) = self.answers[number] {
            self.link(answer);
        }
        self.link(call);
    }

    fn unlink(&mut self, place: usize) {
        let (before, after) = (self.previous[place], self.next[place]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn link(&mut self, place: usize) {
        let (before, after) = (self.previous[place], self.next[place]);
        self.next[before] = place;
        self.previous[after] = place;
    }
}
