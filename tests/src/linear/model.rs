//! What one object does when operations come one after the other: a key is a register, and a stack is one whose
//! revision counts its changes.

use serde::{Deserialize, Serialize};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Write a value, which no other operation writes.
    Put(u64),
    /// Read a key.
    Get,
    /// Remove a key.
    Delete,
    /// Give a stack a new spec, if it has this revision.
    Deploy {
        /// The revision that it must have; any if there is none.
        expect: Option<u64>,
        /// What tells the spec from all others.
        tag: u64,
        /// Its instances.
        replicas: u32,
    },
    /// Change the instances of a stack.
    Scale(u32),
    /// Read a stack.
    Look,
}

impl Input {
    /// Whether it changes nothing.
    pub fn reads(&self) -> bool {
        matches!(self, Input::Get | Input::Look)
    }
}

/// What a client was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// It was done.
    Done,
    /// The value of a key.
    Value(u64),
    /// There is no such key or stack.
    Missing,
    /// The stack has this revision now.
    Revision(u64),
    /// The stack does not have the expected revision.
    Conflict,
    /// A stack.
    Seen(Stack),
}

/// A stack, as far as operations tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stack {
    /// How often it was changed.
    pub revision: u64,
    /// The tag of its spec.
    pub tag: u64,
    /// Its instances.
    pub replicas: u32,
}

/// The state of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Any: a window of a history begins so.
    Any,
    /// The value of a key, if it exists.
    Key(Option<u64>),
    /// A stack, if it exists.
    Stack(Option<Stack>),
}

/// The state after an operation, if the operation may be answered like that. Without an answer any would do.
pub fn step(state: State, input: &Input, output: Option<&Output>) -> Option<State> {
    let (after, answer) = match state {
        State::Any => return Some(learn(input, output)),
        State::Key(value) => of_key(value, input)?,
        State::Stack(stack) => of_stack(stack, input)?,
    };
    output.is_none_or(|output| *output == answer).then_some(after)
}

fn of_key(value: Option<u64>, input: &Input) -> Option<(State, Output)> {
    Some(match (input, value) {
        (Input::Put(new), _) => (State::Key(Some(*new)), Output::Done),
        (Input::Get, Some(value)) => (State::Key(Some(value)), Output::Value(value)),
        (Input::Delete, Some(_)) => (State::Key(None), Output::Done),
        (Input::Get | Input::Delete, None) => (State::Key(None), Output::Missing),
        _ => return None,
    })
}

fn of_stack(stack: Option<Stack>, input: &Input) -> Option<(State, Output)> {
    let revision = stack.map_or(0, |stack| stack.revision);
    Some(match (input, stack) {
        (Input::Deploy { expect: Some(expected), .. }, _) if *expected != revision => {
            (State::Stack(stack), Output::Conflict)
        }
        (Input::Deploy { tag, replicas, .. }, _) => {
            let after = Stack { revision: revision + 1, tag: *tag, replicas: *replicas };
            (State::Stack(Some(after)), Output::Revision(after.revision))
        }
        (Input::Scale(_) | Input::Look, None) => (State::Stack(None), Output::Missing),
        // That is no change.
        (Input::Scale(replicas), Some(stack)) if stack.replicas == *replicas => {
            (State::Stack(Some(stack)), Output::Done)
        }
        (Input::Scale(replicas), Some(stack)) => {
            (State::Stack(Some(Stack { revision: revision + 1, replicas: *replicas, ..stack })), Output::Done)
        }
        (Input::Look, Some(stack)) => (State::Stack(Some(stack)), Output::Seen(stack)),
        _ => return None,
    })
}

/// What an operation says about a state of which nothing is known.
fn learn(input: &Input, output: Option<&Output>) -> State {
    match (input, output) {
        (Input::Put(value), _) | (Input::Get, Some(Output::Value(value))) => State::Key(Some(*value)),
        (Input::Delete, _) | (Input::Get, Some(Output::Missing)) => State::Key(None),
        (Input::Deploy { tag, replicas, .. }, Some(Output::Revision(revision))) => {
            State::Stack(Some(Stack { revision: *revision, tag: *tag, replicas: *replicas }))
        }
        (Input::Look, Some(Output::Seen(stack))) => State::Stack(Some(*stack)),
        (Input::Look | Input::Scale(_), Some(Output::Missing)) => State::Stack(None),
        _ => State::Any,
    }
}
