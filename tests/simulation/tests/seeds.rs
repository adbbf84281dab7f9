//! The short form of `scripts/simulate`, in two halves that run side by side.

use std::ops::Range;

#[track_caller]
fn hold_in(seeds: Range<u64>) {
    for seed in seeds {
        if let Err(broken) = simulation::run(seed) {
            panic!("{broken}");
        }
    }
}

#[test]
fn the_invariants_hold_whatever_happens() {
    hold_in(0..75);
}

#[test]
fn the_invariants_hold_whatever_else_happens() {
    hold_in(75..150);
}
