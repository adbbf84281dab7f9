//! The short form of `scripts/simulate`.

#[test]
fn the_invariants_hold_whatever_happens() {
    for seed in 0..150 {
        if let Err(broken) = simulation::run(seed) {
            panic!("{broken}");
        }
    }
}
