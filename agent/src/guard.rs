//! The first process of a strict singleton's container: it runs the program and ends it with its lease. It
//! needs neither the agent nor Docker nor the network: when it ends, the kernel ends all else in there.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use link::clock::BootTime;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

use crate::leases::{Ends, FILE};

/// Where the guard lies in a container.
pub const PROGRAM: &str = "/.wharf/guard";
/// Where the folder of its lease lies there.
pub const LEASE: &str = "/.wharf/lease";
/// The longest time between two looks at the clock: sleep does not count while the machine sleeps.
const LOOK: Duration = Duration::from_millis(250);
/// The signals that it passes on to the program.
const PASSED_ON: [Signal; 8] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::WINCH, Signal::CONT];
/// As the kernel's SIGKILL would have it.
const KILLED: u8 = 137;
/// As shells say it: the program was not found.
const NOT_FOUND: u8 = 127;

/// Whether this process was started as a guard.
pub fn is_asked_for() -> bool {
    std::env::args_os().next().is_some_and(|program| program == PROGRAM)
}

/// Runs the program that the arguments name; the result is its exit code.
pub fn run() -> u8 {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("wharf: no program to guard was given");
        return NOT_FOUND;
    };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(guard(program, arguments.collect(), &Path::new(LEASE).join(FILE))),
        Err(error) => {
            eprintln!("wharf: the guard cannot run: {error}");
            NOT_FOUND
        }
    }
}

async fn guard(program: OsString, arguments: Vec<OsString>, lease: &Path) -> u8 {
    if is_over(lease) {
        eprintln!("wharf: the lease of this instance has expired, so its program is not started");
        return KILLED;
    }
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => {
            eprintln!("wharf: the guard cannot watch for ended processes: {error}");
            return NOT_FOUND;
        }
    };
    let child = match Command::new(&program).args(arguments).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("wharf: {}: {error}", PathBuf::from(program).display());
            return NOT_FOUND;
        }
    };
    let pid = Pid::from_child(&child);
    for passed in PASSED_ON {
        tokio::spawn(pass_on(passed, pid));
    }
    loop {
        tokio::select! {
            _ = ended.recv() => if let Some(status) = bury(pid) { return code(status) },
            () = tokio::time::sleep(LOOK) => if is_over(lease) {
                eprintln!("wharf: the lease has expired without an extension, so the program is killed");
                return KILLED;
            },
        }
    }
}

/// A lease that cannot be read is over.
fn is_over(lease: &Path) -> bool {
    Ends::read(lease).map_or(true, |ends| ends.hard <= BootTime::now())
}

async fn pass_on(passed: Signal, to: Pid) {
    let mut heard = match signal(SignalKind::from_raw(passed.as_raw())) {
        Ok(heard) => heard,
        Err(error) => return eprintln!("wharf: {passed:?} cannot be forwarded: {error}"),
    };
    while heard.recv().await.is_some() {
        // It may have ended in this moment.
        let _ = kill_process(to, passed);
    }
}

/// Collects ended processes, because the first process of a container inherits all orphans; returns how the program
/// ended, if it did.
fn bury(program: Pid) -> Option<ExitStatus> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == program {
            ended = Some(ExitStatus::from_raw(status.as_raw()));
        }
    }
    ended
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(i32::from(KILLED));
    u8::try_from(code).unwrap_or(KILLED)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn lease(milliseconds: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE);
        let hard = BootTime::now().0 + milliseconds;
        fs::write(&file, [0_u64.to_le_bytes(), hard.to_le_bytes()].concat()).expect("is written");
        (folder, file)
    }

    fn shell(words: &str) -> (OsString, Vec<OsString>) {
        ("/bin/sh".into(), vec!["-c".into(), words.into()])
    }

    #[tokio::test]
    async fn a_program_ends_by_itself_or_with_its_lease() {
        let (_folder, valid) = lease(60_000);
        let (program, words) = shell("exit 7");
        assert_eq!(guard(program, words, &valid).await, 7);
        let (program, words) = shell("kill -9 $$");
        assert_eq!(guard(program, words, &valid).await, 137);
        assert_eq!(guard("/no/such/program".into(), Vec::new(), &valid).await, NOT_FOUND);

        let (folder, over) = lease(0);
        let mark = folder.path().join("mark");
        let (program, words) = shell(&format!("touch {}", mark.display()));
        assert_eq!(guard(program, words, &over).await, KILLED);
        assert!(!mark.exists(), "without a lease it is not even started");
        assert!(is_over(&folder.path().join("no-such-file")));

        let (folder, short) = lease(500);
        let end = folder.path().join("end");
        // In a container it would end with the guard.
        let (program, words) = shell(&format!("sleep 2; touch {}", end.display()));
        assert_eq!(guard(program, words, &short).await, KILLED);
        assert!(!end.exists(), "it does not wait for the program");
    }
}
