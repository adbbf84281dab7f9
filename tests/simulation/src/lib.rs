//! Both cores against a world that goes wrong: hosts come and go, letters get lost, come twice and
//! overtake each other, leaders change, programs fail, people change their minds. After each step
//! the invariants are checked; at the end everything is mended, and all must become as wanted.
//!
//! It is deterministic: a seed that fails once fails always. Nothing waits, no thread runs.

mod host;
mod oracle;
mod people;
mod random;
mod world;

use coordinator_core::{Batch, State, level};

use world::World;

/// How many things happen before everything is mended.
const STEPS: u64 = 400;

/// Runs one seed; an error names the rule that was broken.
pub fn run(seed: u64) -> Result<(), String> {
    play(seed, level::LEVEL).map(drop)
}

/// The log of one seed in a cluster of a feature level, and the state that it leads to.
pub fn record(seed: u64, level: u16) -> Result<(Vec<Batch>, State), String> {
    play(seed, level).map(World::recorded)
}

fn play(seed: u64, level: u16) -> Result<World, String> {
    let at = |step: &str, broken: String| format!("seed {seed}, {step}: {broken}");
    let mut world = World::new(seed, level).map_err(|broken| at("at the beginning", broken))?;
    for step in 0..world.length(STEPS) {
        world.step().map_err(|broken| at(&format!("step {step}"), broken))?;
    }
    world.settle().map_err(|broken| at("after it was mended", broken))?;
    world.replay().map_err(|broken| at("in the replay", broken))?;
    Ok(world)
}
