//! The binaries on this coordinator's disk, under their hashes.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{
    error::{Code, Problem},
    upgrade::{BinaryHash, Target},
    wire::PROTOCOLS,
};
use link::{
    binary::{self, Arriving, BinaryError},
    file::if_there,
    private::ensure_folder,
};

/// They are run once, to ask what they are; nobody else may read them.
pub const MODE: u32 = 0o700;

/// The folder of binaries. Clones share it.
#[derive(Clone)]
pub struct Binaries(Arc<PathBuf>);

impl Binaries {
    /// Below a coordinator's state folder.
    pub fn below(state: &Path) -> Binaries {
        Binaries(Arc::new(state.join("binaries")))
    }

    fn path(&self, hash: BinaryHash) -> PathBuf {
        self.0.join(hash.to_string())
    }

    /// Whether a binary is here and whole.
    pub fn holds(&self, hash: BinaryHash) -> bool {
        self.path(hash).exists()
    }

    /// Opens a binary.
    pub fn open(&self, hash: BinaryHash) -> io::Result<Option<File>> {
        if_there(File::open(self.path(hash)))
    }

    /// Where a binary will lie; makes the folder.
    pub fn prepare(&self, hash: BinaryHash) -> io::Result<PathBuf> {
        ensure_folder(&self.0)?;
        Ok(self.path(hash))
    }

    /// Begins to take a binary in.
    pub fn receive(&self, hash: BinaryHash) -> Result<Arriving, Problem> {
        let path = self.prepare(hash).map_err(|error| refused(error.to_string()))?;
        Arriving::begin(&path, MODE).map_err(|error| problem(&error))
    }

    /// Takes a binary in that has arrived whole, if its hash is right and it runs here; returns what it is.
    pub async fn take_in(&self, arrived: Arriving, hash: BinaryHash) -> Result<Target, Problem> {
        let path = self.path(hash);
        let place = path.clone();
        let size = match tokio::task::spawn_blocking(move || arrived.finish(&place, hash)).await {
            Ok(finished) => finished.map_err(|error| problem(&error))?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let asked = binary::ask(&path).await;
        let fits = asked.map_err(|error| problem(&error)).and_then(|info| {
            let common = info.protocols.iter().any(|version| PROTOCOLS.contains(version));
            if common { Ok(info) } else { Err(refused(no_protocol(&info.protocols))) }
        });
        match fits {
            Ok(info) => Ok(Target { hash, size, version: info.version, level: info.level }),
            Err(problem) => {
                self.remove(&path);
                Err(problem)
            }
        }
    }

    /// Removes all other binaries.
    pub fn keep_only(&self, hash: Option<BinaryHash>) {
        let kept = hash.map(|hash| self.path(hash));
        let entries = match if_there(fs::read_dir(&*self.0)) {
            Ok(entries) => entries,
            Err(error) => return tracing::warn!(%error, "old binaries could not be listed"),
        };
        // Those that arrive have no name yet; they are written over.
        let old = entries.into_iter().flatten().flatten().map(|entry| entry.path());
        old.filter(|path| Some(path) != kept.as_ref() && path.extension().is_none())
            .for_each(|path| self.remove(&path));
    }

    fn remove(&self, path: &Path) {
        if let Err(error) = if_there(fs::remove_file(path)) {
            tracing::warn!(%error, path = %path.display(), "a binary could not be removed");
        }
    }
}

fn no_protocol(theirs: &[u16]) -> String {
    format!("it supports the wire protocols {theirs:?}, and this coordinator {PROTOCOLS:?}")
}

fn refused(why: String) -> Problem {
    Problem::new(Code::InvalidRequest, "The binary was refused").why(why)
}

fn problem(error: &BinaryError) -> Problem {
    match error {
        BinaryError::TooLarge(_) => Problem::new(Code::TooLarge, "The binary was refused").why(error.to_string()),
        BinaryError::Io { .. } => Problem::new(Code::StoreFailed, "The binary was not stored").why(error.to_string()),
        _ => refused(error.to_string()).fix("Use a binary of wharf for this machine: wharf upgrade --to FILE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_binary_is_taken_in_if_it_runs_here_and_older_ones_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let binaries = Binaries::below(folder.path());
        let script = |protocols: &str| {
            format!("#!/bin/sh\necho '{{\"version\":\"1.2.3\",\"level\":3,\"protocols\":{protocols}}}'\n")
        };
        let hash_of = |text: &str| {
            let path = folder.path().join("text");
            fs::write(&path, text).expect("it is written");
            binary::hash_of(&path).expect("it is read")
        };
        let take = async |text: &str, hash| {
            let mut arriving = binaries.receive(hash).expect("there is room");
            arriving.add(text.as_bytes()).expect("there is room");
            binaries.take_in(arriving, hash).await
        };
        let (first, second) = (script("[1]"), script("[1, 2]"));
        let target = take(&first, hash_of(&first)).await.expect("it runs");
        assert_eq!((target.version.as_str(), target.level, target.size), ("1.2.3", 3, first.len() as u64));
        take(&second, hash_of(&second)).await.expect("it runs");
        binaries.keep_only(Some(hash_of(&second)));
        assert!(!binaries.holds(hash_of(&first)) && binaries.holds(hash_of(&second)));
        for (text, hash, expected) in [
            (script("[99]"), hash_of(&script("[99]")), "it supports the wire protocols [99]"),
            (first.clone(), hash_of(&second), "its SHA-256 is"),
            ("#!/bin/sh\nexit 1\n".to_owned(), hash_of("#!/bin/sh\nexit 1\n"), "it does not run here: exit status: 1"),
        ] {
            let refused = take(&text, hash).await.expect_err("it is refused").to_string();
            assert!(refused.contains(expected), "{refused}");
        }
        assert!(!binaries.holds(hash_of("#!/bin/sh\nexit 1\n")), "what was refused is gone");
    }
}
