//! Runs many seeds: `simulation [FIRST] [COUNT] [--fail-fast]`; with the last option it stops at the first failure.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let fails_fast = words.pop_if(|word| word == "--fail-fast").is_some();
    let mut numbers = words.iter().map(|word| word.parse::<u64>());
    let (first, count) = match (numbers.next().unwrap_or(Ok(0)), numbers.next().unwrap_or(Ok(10_000))) {
        (Ok(first), Ok(count)) => (first, count),
        _ => {
            eprintln!("usage: simulation [FIRST] [COUNT] [--fail-fast]");
            return ExitCode::from(2);
        }
    };
    let next = AtomicU64::new(first);
    let (passed, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_over = fails_fast && failed.load(Ordering::Relaxed) > 0;
            if seed >= first + count || is_over {
                return;
            }
            match simulation::run(seed) {
                Ok(()) => passed.fetch_add(1, Ordering::Relaxed),
                Err(broken) => {
                    println!("{broken}");
                    failed.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| {
            scope.spawn(work);
        });
    });
    let failed = failed.into_inner();
    println!("{count} seeds from {first}: {} passed, {failed} failed", passed.into_inner());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
