//! The watcher of a trial: a process of the binary before, which outlives the one that started it.
//!
//! It ends a new binary that was not kept in time, and starts the service again from the binary before if nothing else
//! does: systemd does so by itself.

use std::{
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{TRIAL, execute_as, mark::Mark};

/// The name of the process that starts the watcher, and of the watcher.
const STARTER: &str = "wharf-watch-start";
const WATCHER: &str = "wharf-watch";
const OWN: &str = "/proc/self/exe";
/// How often the watcher looks. It has no runtime, and waits for three things at a time.
const LOOK: Duration = Duration::from_millis(50);
/// A binary that runs goes back by itself before the watcher ends it.
const SLACK: Duration = Duration::from_secs(5);

fn is_called(name: &str) -> bool {
    std::env::args_os().next().is_some_and(|program| program == name)
}

/// Whether this process was started to watch.
pub fn is_asked_for() -> bool {
    is_called(STARTER) || is_called(WATCHER)
}

/// Starts the watcher of this process. It is no child of this process, which could not bury it after `exec`.
pub(super) fn start(state: &Path) -> io::Result<()> {
    let me = std::process::id();
    let mut command = Command::new(OWN);
    command.arg0(STARTER).arg(state).arg(me.to_string()).args(std::env::args_os().skip(1));
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("the watcher was not started: {status}"))) }
}

/// Runs as the starter or as the watcher; the result is the exit code.
pub fn run() -> u8 {
    let ran = if is_called(STARTER) { detach() } else { watch() };
    match ran {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("wharf: the watcher of an upgrade failed: {error}");
            1
        }
    }
}

fn detach() -> io::Result<()> {
    let mut command = Command::new(OWN);
    command.arg0(WATCHER).args(std::env::args_os().skip(1)).stdin(Stdio::null()).stdout(Stdio::null());
    command.process_group(0).spawn().map(drop)
}

fn watch() -> io::Result<()> {
    let missing = || io::Error::other("it was started without its arguments");
    let mut arguments = std::env::args_os().skip(1);
    let state = PathBuf::from(arguments.next().ok_or_else(missing)?);
    let pid =
        arguments.next().and_then(|text| text.to_str()?.parse().ok()).and_then(Pid::from_raw).ok_or_else(missing)?;
    let began = Process::of(pid).ok_or_else(|| io::Error::other("the process is gone"))?;
    let mut ended = None;
    loop {
        // It was kept, or has gone back by itself.
        let Some(mark) = Mark::load(&state)?.filter(|mark| mark.failed.is_none()) else { return Ok(()) };
        let is_over = mark.left(TRIAL).is_zero() && ended.get_or_insert_with(std::time::Instant::now).elapsed() > SLACK;
        let is_there = Process::of(pid).is_some_and(|now| now == began);
        if is_there && is_over {
            kill_process(pid, Signal::KILL)?;
        }
        if !is_there {
            let why = if ended.is_some() {
                format!("it did nothing, and was killed after {TRIAL:?}")
            } else {
                "it ended by itself".to_owned()
            };
            Mark::fail(&state, &why)?;
            eprintln!("wharf: the binary that was tried failed: {why}");
            // systemd starts the service again.
            if std::env::var_os("NOTIFY_SOCKET").is_some() {
                return Ok(());
            }
            return Err(execute_as(&mark.place, arguments));
        }
        std::thread::sleep(LOOK);
    }
}

/// A process that lives: its start tells it from a later one with the same id.
#[derive(PartialEq, Eq)]
struct Process {
    started: String,
}

impl Process {
    fn of(pid: Pid) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // The name in parentheses may hold anything; state and start are the 3rd and the 22nd field.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let started = fields.nth(18)?.to_owned();
        (!["Z", "X"].contains(&state)).then_some(Process { started })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_there_until_it_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("it can be run");
        let pid = Pid::from_raw(child.id() as i32).expect("it has an id");
        let began = Process::of(pid).expect("it lives");
        assert!(Process::of(pid).is_some_and(|now| now == began));
        child.kill().expect("it is ours");
        // It is not buried yet.
        while Process::of(pid).is_some() {
            std::thread::yield_now();
        }
        child.wait().expect("it is ours");
        assert!(Process::of(pid).is_none());
    }
}
