//! Runs many seeds: `simulation [FIRST] [COUNT]`.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (first, count) = match (numbers.next().unwrap_or(Ok(0)), numbers.next().unwrap_or(Ok(10_000))) {
        (Ok(first), Ok(count)) => (first, count),
        _ => {
            eprintln!("usage: simulation [FIRST] [COUNT]");
            return ExitCode::from(2);
        }
    };
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(0);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            if let Err(broken) = simulation::run(seed) {
                failed.fetch_add(1, Ordering::Relaxed);
                println!("{broken}");
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| {
            scope.spawn(work);
        });
    });
    let failed = failed.into_inner();
    println!("{count} seeds from {first}: {} passed, {failed} failed", count - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
