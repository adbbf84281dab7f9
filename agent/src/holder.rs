//! The program of the container that holds the network of an instance with sidekicks: it does nothing until it is asked
//! to end.

use tokio::signal::unix::{SignalKind, signal};

/// Where it lies in that container.
pub const PROGRAM: &str = "/.wharf/holder";

/// Whether this process was started as one.
pub fn is_asked_for() -> bool {
    std::env::args_os().next().is_some_and(|program| program == PROGRAM)
}

/// Waits for the end; the result is the exit code.
pub fn run() -> u8 {
    let waiting = async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        Ok::<(), std::io::Error>(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(waiting)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("wharf: the network cannot be held: {error}");
            1
        }
    }
}
