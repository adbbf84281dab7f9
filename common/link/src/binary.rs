//! Binaries of wharf: what they are, and how one comes from another host.
//!
//! Whoever receives a binary checks its hash before anything of it runs, and then asks the binary itself what it is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{
    upgrade::{BinaryHash, BinaryInfo, MAX_BINARY, MAX_VERSION, Piece, Target},
    wire::{BinaryFrame, Open},
};
use ring::digest::{Context, SHA256};
use tokio::process::Command;

use crate::{Connection, LinkError, Stream};

/// The bytes of one message.
const PIECE: usize = 1 << 20;
/// How long a binary may take to say what it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A file that was written a moment ago may be open in a child that another thread is about to start.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Why a binary cannot be had or used.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// The peer cannot send it.
    #[error("it did not arrive: {0}")]
    Link(#[from] LinkError),
    /// The peer refuses to send it.
    #[error("{0}")]
    Refused(String),
    /// It cannot be written or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It has more bytes than it may.
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    /// What arrived is something else.
    #[error("its SHA-256 is {found}, and should be {expected}")]
    WrongHash {
        /// What it should be.
        expected: BinaryHash,
        /// What it is.
        found: BinaryHash,
    },
    /// It does not run here.
    #[error("it does not run here: {0}")]
    DoesNotRun(String),
}

/// The hash of a file.
pub fn hash_of(path: &Path) -> io::Result<BinaryHash> {
    let (mut file, mut context, mut buffer) = (File::open(path)?, Context::new(&SHA256), vec![0; PIECE]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(finished(context)),
            read => context.update(&buffer[..read]),
        }
    }
}

fn finished(context: Context) -> BinaryHash {
    BinaryHash(context.finish().as_ref().try_into().expect("a SHA-256 has 32 bytes"))
}

/// A binary that is written piece by piece, and has its name only when it is whole and the right one.
pub struct Arriving {
    beside: PathBuf,
    file: File,
    context: Context,
    size: u64,
}

impl Arriving {
    /// Begins a file of this mode beside `path`.
    pub fn begin(path: &Path, mode: u32) -> Result<Arriving, BinaryError> {
        let beside = path.with_extension("part");
        let failed = |source| BinaryError::Io { path: beside.clone(), source };
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside);
        let file = opened.map_err(failed)?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        file.set_permissions(permissions).map_err(failed)?;
        Ok(Arriving { beside, file, context: Context::new(&SHA256), size: 0 })
    }

    /// Adds the next bytes.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), BinaryError> {
        self.size += bytes.len() as u64;
        if self.size > MAX_BINARY {
            return Err(BinaryError::TooLarge(MAX_BINARY));
        }
        self.context.update(bytes);
        self.file.write_all(bytes).map_err(|source| BinaryError::Io { path: self.beside.clone(), source })
    }

    /// Gives it its name durably, if it is what it should be; returns its size.
    pub fn finish(self, path: &Path, expected: BinaryHash) -> Result<u64, BinaryError> {
        let found = finished(self.context);
        let failed = |source| BinaryError::Io { path: path.to_owned(), source };
        if found != expected {
            fs::remove_file(&self.beside).map_err(failed)?;
            return Err(BinaryError::WrongHash { expected, found });
        }
        self.file.sync_all().map_err(failed)?;
        drop(self.file);
        fs::rename(&self.beside, path).map_err(failed)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(self.size)
    }
}

/// Fetches a binary from a coordinator into a file of this mode.
pub async fn fetch(connection: &Connection, hash: BinaryHash, path: &Path, mode: u32) -> Result<u64, BinaryError> {
    let mut stream = connection.open().await?;
    stream.outgoing.send(&Open::Binary(hash)).await?;
    let mut arriving = Arriving::begin(path, mode)?;
    loop {
        match stream.incoming.receive::<BinaryFrame>().await?.ok_or(LinkError::Ended)? {
            BinaryFrame::Bytes(Piece(bytes)) => arriving.add(&bytes)?,
            BinaryFrame::End => break,
            BinaryFrame::Refused(problem) => return Err(BinaryError::Refused(problem.to_string())),
        }
    }
    let path = path.to_owned();
    // It waits for the disk, and heartbeats may not.
    match tokio::task::spawn_blocking(move || arriving.finish(&path, hash)).await {
        Ok(finished) => finished,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// Sends a binary as the answer to [`Open::Binary`].
pub async fn send(mut stream: Stream, mut file: File) -> Result<(), LinkError> {
    loop {
        let mut bytes = Vec::with_capacity(PIECE);
        (&mut file).take(PIECE as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            break;
        }
        stream.outgoing.send(&BinaryFrame::Bytes(Piece(bytes))).await?;
    }
    stream.outgoing.send(&BinaryFrame::End).await?;
    stream.outgoing.finish().await
}

/// Asks a binary what it is. Its hash must have been checked.
pub async fn ask(path: &Path) -> Result<BinaryInfo, BinaryError> {
    let refuse = |why: String| BinaryError::DoesNotRun(why);
    let output = tokio::time::timeout(ANSWER_WITHIN, output_of(path)).await;
    let output = output.map_err(|_| refuse(format!("it said nothing within {ANSWER_WITHIN:?}")))?;
    let output = output.map_err(|error| refuse(error.to_string()))?;
    if !output.status.success() {
        return Err(refuse(format!("{} of: wharf version --client", output.status)));
    }
    let info: BinaryInfo = serde_json::from_slice(&output.stdout)
        .map_err(|_| refuse("it does not say its version and its feature level: it is older, or no wharf".into()))?;
    let is_word = !info.version.is_empty() && info.version.len() <= MAX_VERSION && info.version.is_ascii();
    if is_word { Ok(info) } else { Err(refuse("its version is no version".into())) }
}

async fn output_of(path: &Path) -> io::Result<std::process::Output> {
    let mut tries = 0;
    loop {
        let mut command = Command::new(path);
        command.args(["version", "--client", "--output", "json"]).stdin(std::process::Stdio::null());
        match command.kill_on_drop(true).output().await {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Checks that a binary is the one that was announced.
pub async fn check(path: &Path, target: &Target) -> Result<(), BinaryError> {
    let info = ask(path).await?;
    if (&info.version, info.level) == (&target.version, target.level) {
        return Ok(());
    }
    Err(BinaryError::DoesNotRun(format!("it says that it is {} of feature level {}", info.version, info.level)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("binary");
        let mut arriving = Arriving::begin(&path, 0o700).expect("it can be written");
        arriving.add(text.as_bytes()).expect("there is room");
        let mut context = Context::new(&SHA256);
        context.update(text.as_bytes());
        let size = arriving.finish(&path, finished(context)).expect("it is what it is");
        assert_eq!(size, text.len() as u64);
        path
    }

    #[tokio::test]
    async fn a_binary_says_what_it_is_or_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let says = r#"{"version":"1.2.3","level":3,"protocols":[1]}"#;
        let path = script(folder.path(), &format!("#!/bin/sh\necho '{says}'\n"));
        let info = ask(&path).await.expect("it says so");
        assert_eq!(info, BinaryInfo { version: "1.2.3".into(), level: 3, protocols: vec![1] });
        let hash = hash_of(&path).expect("it is read");
        let target = Target { hash, size: 1, version: "1.2.3".into(), level: 3 };
        check(&path, &target).await.expect("it is the one");
        let other = check(&path, &Target { level: 4, ..target }).await.expect_err("it is another").to_string();
        assert!(other.contains("1.2.3 of feature level 3"), "{other}");
        for (text, expected) in [
            ("#!/bin/sh\nexit 3\n", "exit status: 3"),
            ("#!/bin/sh\necho 0.1.0\n", "it is older, or no wharf"),
            ("\x7fELF and no more", "os error"),
        ] {
            let refused = ask(&script(folder.path(), text)).await.expect_err("it is refused").to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[test]
    fn what_is_not_the_right_binary_never_gets_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("binary");
        let mut arriving = Arriving::begin(&path, 0o700).expect("it can be written");
        arriving.add(b"something").expect("there is room");
        let refused = arriving.finish(&path, BinaryHash([1; 32])).expect_err("it is something else");
        assert!(matches!(refused, BinaryError::WrongHash { .. }), "{refused}");
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0, "nothing is left");
    }
}
