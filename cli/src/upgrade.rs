//! How this process goes on with another binary, and comes back by itself if that does not work.
//!
//! The new binary lies beside the present one and is tried from there, in the same process (`exec`). It takes the place
//! of the present one only when the leader has seen the host healthy with it. Until then, whatever starts the service
//! again, be it a boot or the service manager, starts the binary that worked. A binary that hangs or dies is noticed by
//! a watcher ([`watch`]), a process of the old binary.

mod mark;
pub mod watch;

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use agent::upgrade::OwnBinary;
use common::{
    error::{Code, Problem},
    upgrade::BinaryHash,
};
use link::file::if_there;
use tokio::{sync::watch as channel, time::Instant};
use tracing::{info, warn};

pub use mark::{MARK_FORMAT, Mark};

/// How long a new binary has until the leader keeps it.
pub const TRIAL: Duration = Duration::from_secs(60);

/// The binary of this process.
pub struct Own {
    state: PathBuf,
    /// Where the binary lies that the service is started from.
    place: PathBuf,
    /// Until when this process must be kept; none if it is no trial.
    until: Option<Instant>,
    ready: channel::Receiver<Option<BinaryHash>>,
    kept: channel::Receiver<bool>,
    for_agent: OwnBinary,
}

/// Why the process should end its parts.
pub enum Next {
    /// To go on with the binary that lies ready.
    Change(BinaryHash),
    /// To go back to the binary before.
    Back(String),
}

impl Own {
    /// Finds out which binary this process runs, and whether that is a trial. The end of an earlier trial is noted. A
    /// process without an agent takes part in no trial: that of its host's agent is another process's.
    pub fn find(state: &Path, has_agent: bool) -> Result<Own, Problem> {
        let failed = |why: String| Problem::new(Code::InstallFailed, "This process does not know its binary").why(why);
        let own = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let mark = if has_agent { Mark::load(state).map_err(|error| failed(error.to_string()))? } else { None };
        let is_trial = |mark: &Mark| mark.trial == own && mark.failed.is_none();
        let (place, until, went_back) = match mark {
            Some(mark) if is_trial(&mark) => {
                info!(place = %mark.place.display(), "this binary is tried; it is kept once the host is healthy with it");
                name_process();
                (mark.place.clone(), Some(Instant::now() + mark.left(TRIAL)), None)
            }
            Some(mark) => {
                let why = mark.failed.clone().unwrap_or_else(|| "the host restarted while it was tried".to_owned());
                warn!(why, "another binary was tried and not kept; this host has gone back");
                mark.remove(state).map_err(|error| failed(error.to_string()))?;
                (mark.place, None, Some(why))
            }
            None => (own, None, None),
        };
        let (ready, kept) = (channel::Sender::new(None), channel::Sender::new(false));
        let (is_ready, is_kept) = (ready.subscribe(), kept.subscribe());
        let for_agent = OwnBinary { trial: beside(&place, "next"), went_back, ready, kept };
        Ok(Own { state: state.to_owned(), place, until, ready: is_ready, kept: is_kept, for_agent })
    }

    /// What the agent needs of it.
    pub fn for_agent(&self) -> OwnBinary {
        self.for_agent.clone()
    }

    /// Waits until the process should go on with another binary. A trial that the leader keeps ends meanwhile.
    pub async fn next(&mut self) -> Next {
        loop {
            let until = self.until;
            let expired = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(ready) = async { self.ready.wait_for(Option::is_some).await.map(|ready| *ready) } => {
                    if let Some(hash) = ready {
                        return Next::Change(hash);
                    }
                }
                Ok(_) = async { self.kept.wait_for(|kept| *kept).await.map(|kept| *kept) }, if until.is_some() => {
                    if let Err(error) = self.keep() {
                        return Next::Back(format!("it could not take its place: {error}"));
                    }
                }
                () = expired => {
                    return Next::Back(format!("the cluster did not see the host healthy with it within {TRIAL:?}"));
                }
            }
        }
    }

    /// Puts the binary that was tried in the place of the one before, which stays beside it.
    fn keep(&mut self) -> io::Result<()> {
        let previous = beside(&self.place, "previous");
        if_there(std::fs::remove_file(&previous))?;
        if std::fs::hard_link(&self.place, &previous).is_err() {
            std::fs::copy(&self.place, &previous)?;
        }
        std::fs::rename(&self.for_agent.trial, &self.place)?;
        std::fs::File::open(self.place.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        Mark::forget(&self.state)?;
        self.until = None;
        info!(place = %self.place.display(), "the new binary is kept");
        Ok(())
    }

    /// Ends a trial because the process was asked to stop, or because it failed for a reason.
    pub fn give_up(&self, why: &str) -> io::Result<()> {
        if self.until.is_some() { Mark::fail(&self.state, why) } else { Ok(()) }
    }

    /// Whether this process runs a binary that is tried.
    pub fn is_trial(&self) -> bool {
        self.until.is_some()
    }

    /// Goes on with the binary that lies ready; returns only if no binary can be run.
    pub fn change(&self) -> Problem {
        let began = self.begin();
        let error = match began {
            Ok(()) => execute(&self.for_agent.trial, &self.place),
            Err(error) => error,
        };
        warn!(%error, "the new binary cannot be run; this process goes on with the one before");
        self.back(&format!("it cannot be run: {error}"))
    }

    fn begin(&self) -> io::Result<()> {
        Mark::begin(&self.place, &self.for_agent.trial, TRIAL).save(&self.state)?;
        watch::start(&self.state)
    }

    /// Goes on with the binary before, for a reason; returns only if that cannot be run.
    pub fn back(&self, why: &str) -> Problem {
        if let Err(error) = Mark::fail(&self.state, why) {
            warn!(%error, "the reason could not be stored");
        }
        let error = execute(&self.place, &self.place);
        Problem::new(Code::InstallFailed, "The service cannot go on").why(format!("{}: {error}", self.place.display()))
    }
}

/// A file beside the binary.
fn beside(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.file_name().map_or_else(|| OsString::from("wharf"), ToOwned::to_owned);
    name.push(format!(".{ending}"));
    place.with_file_name(name)
}

/// The files that upgrades leave beside a binary.
pub fn left_beside(place: &Path) -> [PathBuf; 2] {
    [beside(place, "next"), beside(place, "previous")]
}

/// Replaces this process by a binary with the same arguments; returns only an error.
fn execute(binary: &Path, name: &Path) -> io::Error {
    Command::new(binary).arg0(name).args(std::env::args_os().skip(1)).exec()
}

/// The same with the arguments of another process.
fn execute_as(binary: &Path, arguments: impl Iterator<Item = OsString>) -> io::Error {
    Command::new(binary).args(arguments).exec()
}

/// Gives the process its usual name, by which people and scripts find it: the kernel took that of the file.
fn name_process() {
    if let Err(error) = std::fs::write("/proc/self/comm", "wharf") {
        warn!(%error, "the process keeps the name of its file");
    }
}
