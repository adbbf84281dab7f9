//! Logs that were recorded once lead to the same state on every later version: `apply` changes what it does by feature
//! level alone. `WHARF_WRITE_GOLDEN=1` records the logs of a new level; a recorded one never changes.

use std::path::Path;

use common::codec::Format;
use coordinator_core::{Batch, State, level::LEVEL, state::StateHash};

const RECORDED: Format = Format { magic: b"WSIM", version: 1, limit: 16 << 20 };
/// Seeds that between them see every kind of command but those of members and tokens, which `formats.rs` has.
const SEEDS: [u64; 4] = [1, 9, 10, 15];

#[test]
fn a_recorded_log_leads_to_the_state_that_it_led_to() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded");
    for level in 1..=LEVEL {
        for seed in SEEDS {
            let path = folder.join(format!("level-{level}-seed-{seed}.log"));
            if !path.exists() && std::env::var_os("WHARF_WRITE_GOLDEN").is_some() {
                let (batches, state) = simulation::record(seed, level).expect("the seed holds");
                let recorded: (StateHash, Vec<Batch>) = (state.hash().expect("it is hashed"), batches);
                std::fs::write(&path, RECORDED.seal(&recorded).expect("it is sealed")).expect("the folder is there");
            }
            let name = path.display();
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}; WHARF_WRITE_GOLDEN=1"));
            let (hash, batches): (StateHash, Vec<Batch>) = RECORDED.open(&bytes).expect("it can be read");
            let mut state = State::default();
            for batch in &batches {
                state.apply(batch);
            }
            assert!(state.index() > 50, "{name}: something happened");
            assert_eq!(state.level(), level);
            assert_eq!(state.hash().expect("it is hashed"), hash, "{name}");
        }
    }
}
