//! Both cores in a faulty world: hosts come and go; messages are lost, duplicated and reordered; leaders change;
//! programs fail; users change their minds. The invariants are checked after each step. At the end all faults are
//! repaired, and the cluster must reach the wanted state.
//!
//! The simulation is deterministic: a failing seed always fails. It uses no timers and no threads.

mod host;
mod oracle;
mod people;
pub mod random;
mod world;

use coordinator_core::{Batch, State, level};

use world::World;

/// The number of steps before all faults are repaired.
const STEPS: u64 = 400;

/// Runs one seed. The error names the broken rule.
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
