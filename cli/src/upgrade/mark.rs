//! The durable mark of a trial, in the state folder: which binary is tried, and how it ended.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use common::codec::Format;
use link::{clock::BootTime, file};
use serde::{Deserialize, Serialize};

/// The format of the file.
pub const MARK_FORMAT: Format = Format { magic: b"WTRY", version: 1, limit: 64 << 10 };
const FILE: &str = "trial";

/// A trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Where the binary lies that works.
    pub place: PathBuf,
    /// Where the one lies that is tried.
    pub trial: PathBuf,
    /// Until when it must be kept, on the clock since the boot, in milliseconds.
    pub until: u64,
    /// Why it is not kept, if that is decided.
    pub failed: Option<String>,
}

fn path(state: &Path) -> PathBuf {
    state.join(FILE)
}

impl Mark {
    /// A trial that begins now.
    pub fn begin(place: &Path, trial: &Path, within: Duration) -> Mark {
        let until = BootTime::now().0 + within.as_millis() as u64;
        Mark { place: place.to_owned(), trial: trial.to_owned(), until, failed: None }
    }

    /// How long it still has, of at most so long: after a boot the clock begins anew.
    pub fn left(&self, most: Duration) -> Duration {
        Duration::from_millis(self.until.saturating_sub(BootTime::now().0)).min(most)
    }

    /// The mark in a state folder, if there is one.
    pub fn load(state: &Path) -> io::Result<Option<Mark>> {
        let Some(bytes) = file::read(&path(state))? else { return Ok(None) };
        MARK_FORMAT
            .open(&bytes)
            .map(Some)
            .map_err(|error| io::Error::other(format!("{}: {error}", path(state).display())))
    }

    /// Writes it durably.
    pub fn save(&self, state: &Path) -> io::Result<()> {
        file::replace(&path(state), &MARK_FORMAT.seal(self).map_err(io::Error::other)?)
    }

    /// Notes why a trial failed, unless that is noted or there is none.
    pub fn fail(state: &Path, why: &str) -> io::Result<()> {
        match Mark::load(state)? {
            Some(mark) if mark.failed.is_none() => Mark { failed: Some(why.to_owned()), ..mark }.save(state),
            Some(_) | None => Ok(()),
        }
    }

    /// Removes the mark: its trial was kept.
    pub fn forget(state: &Path) -> io::Result<()> {
        file::if_there(std::fs::remove_file(path(state))).map(drop)
    }

    /// Removes the mark and what was tried.
    pub fn remove(&self, state: &Path) -> io::Result<()> {
        file::if_there(std::fs::remove_file(&self.trial))?;
        Mark::forget(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_keeps_the_first_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path();
        Mark::fail(state, "nothing was tried").expect("nothing is written");
        assert_eq!(Mark::load(state).expect("it can be read"), None);
        let mark = Mark::begin(Path::new("/bin/wharf"), &state.join("wharf.next"), Duration::from_secs(60));
        mark.save(state).expect("it is written");
        assert!(mark.left(Duration::from_secs(60)) > Duration::from_secs(50));
        assert_eq!(Mark { until: u64::MAX, ..mark.clone() }.left(Duration::from_secs(60)), Duration::from_secs(60));
        Mark::fail(state, "first").expect("it is written");
        Mark::fail(state, "second").expect("it is written");
        let found = Mark::load(state).expect("it is read").expect("it is there");
        assert_eq!(found.failed.as_deref(), Some("first"));
        std::fs::write(&mark.trial, b"x").expect("it is written");
        found.remove(state).expect("it is removed");
        assert!(!mark.trial.exists());
        assert_eq!(Mark::load(state).expect("it can be read"), None);
    }
}
