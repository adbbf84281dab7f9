//! The checker of histories against a search that tries every order, on thousands of small random histories, and on
//! a long one with one wrong answer.

use simulation::random::Random;
use tests::linear::{
    checker::{Operation, Verdict, check, shortest},
    model::{Input, Output, Stack, State, step},
};

/// Whether the operations that are left can happen in some order: all of them that were answered, any of the others.
fn some_order_explains(left: &[Operation], state: State) -> bool {
    if left.iter().all(|operation| operation.answer.is_none()) {
        return true;
    }
    let first_answer = left.iter().filter_map(|operation| Some(operation.answer.as_ref()?.0)).min();
    (0..left.len()).any(|chosen| {
        let operation = &left[chosen];
        let may_be_next = first_answer.is_none_or(|answer| operation.call <= answer);
        let output = operation.answer.as_ref().map(|(_, output)| output);
        let after = step(state, &operation.input, output).filter(|_| may_be_next);
        after.is_some_and(|after| {
            let mut others = left.to_vec();
            others.remove(chosen);
            some_order_explains(&others, after)
        })
    })
}

fn input(random: &mut Random, initial: State, tag: u64) -> Input {
    let replicas = random.below(3) as u32;
    match (initial, random.below(5)) {
        // Values that come twice make more orders possible.
        (State::Key(_), 0..2) => Input::Put(random.below(3) as u64),
        (State::Key(_), 2) => Input::Delete,
        (State::Key(_) | State::Any, _) => Input::Get,
        (State::Stack(_), 0) => Input::Deploy { expect: Some(random.below(3) as u64), tag, replicas },
        (State::Stack(_), 1) => Input::Deploy { expect: None, tag, replicas },
        (State::Stack(_), 2) => Input::Scale(replicas),
        (State::Stack(_), _) => Input::Look,
    }
}

/// What the model answers.
fn answer(state: State, input: &Input) -> (State, Output) {
    let stack = match state {
        State::Stack(stack) => stack,
        _ => None,
    };
    let next = stack.map_or(1, |stack| stack.revision + 1);
    let mut candidates = vec![Output::Done, Output::Missing, Output::Conflict, Output::Revision(next)];
    candidates.extend((0..3).map(Output::Value));
    candidates.extend(stack.map(Output::Seen));
    let found = candidates.into_iter().find_map(|output| Some((step(state, input, Some(&output))?, output)));
    found.expect("each operation has one answer")
}

/// Operations of three clients that happen each at a moment between its call and its answer.
fn history(random: &mut Random, initial: State, length: usize) -> Vec<Operation> {
    let (mut state, mut time) = (initial, 10);
    let mut free = [0_u64; 3];
    let mut operations = Vec::new();
    for number in 0..length {
        time += 1 + random.below(4) as u64;
        let client = random.below(3);
        let call = free[client].max(time - random.below(8) as u64).min(time);
        let at = time.max(call);
        let input = input(random, initial, 100 + number as u64);
        let (after, output) = answer(state, &input);
        state = after;
        let back = at + random.below(8) as u64;
        free[client] = back + 1;
        time = time.max(call);
        let answer = (!random.chance(15)).then_some((back, output));
        operations.push(Operation { client, input, call, answer });
    }
    operations
}

/// Exchanges an answer for another one.
fn spoil(random: &mut Random, operations: &mut [Operation]) {
    let victim = random.below(operations.len());
    let stack = Stack { revision: 1, tag: 100 + random.below(4) as u64, replicas: random.below(3) as u32 };
    let others = match operations[victim].input {
        Input::Get => vec![Output::Missing, Output::Value(0), Output::Value(1), Output::Value(2)],
        Input::Put(_) | Input::Delete | Input::Scale(_) => vec![Output::Done, Output::Missing],
        Input::Deploy { .. } => vec![Output::Conflict, Output::Revision(1), Output::Revision(2)],
        Input::Look => vec![Output::Missing, Output::Seen(stack)],
    };
    if let Some((_, output)) = &mut operations[victim].answer {
        *output = random.pick(others).expect("there are some");
    }
}

#[test]
fn it_agrees_with_a_search_of_every_order() {
    let mut seen = [0; 2];
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let initial = if random.chance(50) { State::Key(None) } else { State::Stack(None) };
        let length = 2 + random.below(6);
        let mut operations = history(&mut random, initial, length);
        let is_spoilt = random.chance(70);
        if is_spoilt {
            spoil(&mut random, &mut operations);
        }
        let expected = some_order_explains(&operations, initial);
        assert!(expected || is_spoilt, "seed {seed}: what happened in an order is linearizable: {operations:?}");
        let wanted = if expected { Verdict::Linearizable } else { Verdict::Violation };
        assert_eq!(check(&operations, initial), wanted, "seed {seed}: {operations:?}");
        let part = shortest(&operations, initial);
        assert_eq!(part.is_empty(), expected, "seed {seed}: {operations:?}");
        seen[usize::from(expected)] += 1;
    }
    assert!(seen.iter().all(|count| *count > 3_000), "both kinds are many: {seen:?}");
}

fn done(client: usize, input: Input, (call, back): (u64, u64), output: Output) -> Operation {
    Operation { client, input, call, answer: Some((back, output)) }
}

#[test]
fn an_old_value_in_a_long_history_is_found_and_shown_alone() {
    let mut operations = Vec::new();
    for number in 0..3_000 {
        let at = number * 10;
        operations.push(done(0, Input::Put(number), (at, at + 4), Output::Done));
        operations.push(done(1, Input::Get, (at + 5, at + 9), Output::Value(number)));
        if number % 1_000 == 0 {
            // It may happen at any time, and never does.
            operations.push(Operation { client: 2, input: Input::Put(1_000_000 + number), call: at, answer: None });
        }
    }
    assert_eq!(check(&operations, State::Key(None)), Verdict::Linearizable);
    assert!(shortest(&operations, State::Key(None)).is_empty());
    operations.push(done(3, Input::Get, (20_006, 20_008), Output::Value(1_999)));
    assert_eq!(check(&operations, State::Key(None)), Verdict::Violation);
    let part = shortest(&operations, State::Key(None));
    let answered = part.iter().filter(|operation| operation.answer.is_some()).count();
    assert!(answered <= 3, "{part:?}");
    assert!(part.iter().any(|operation| operation.client == 3), "{part:?}");
}

#[test]
fn a_write_that_is_made_twice_is_found() {
    let key = [
        done(0, Input::Put(1), (0, 10), Output::Done),
        done(1, Input::Put(2), (20, 30), Output::Done),
        done(1, Input::Get, (40, 50), Output::Value(2)),
        done(1, Input::Get, (60, 70), Output::Value(1)),
    ];
    assert_eq!(check(&key, State::Key(None)), Verdict::Violation);
    let stack = [
        done(0, Input::Deploy { expect: None, tag: 1, replicas: 1 }, (0, 10), Output::Revision(1)),
        done(0, Input::Scale(2), (20, 30), Output::Done),
        done(0, Input::Look, (40, 50), Output::Seen(Stack { revision: 3, tag: 1, replicas: 2 })),
    ];
    assert_eq!(check(&stack, State::Stack(None)), Verdict::Violation);
}
