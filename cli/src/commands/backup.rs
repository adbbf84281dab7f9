//! `wharf backup`: makes, checks, lists and schedules backups.

use std::{
    fs::{File, OpenOptions},
    io::{BufReader, IsTerminal, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use common::{
    api::{BackupView, MemberBackups, PutBackupKey},
    backup::{BackupKey, Schedule},
    error::{Code, Problem},
    token::InvalidToken,
};
use coordinator::backup::{self, BackupError, Contents, Head};
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::json;

use super::Session;
use crate::{
    args::{Backup, BackupCommand, Format, STATE},
    output::{self, Rows},
};

/// Runs a `wharf backup` command that needs a cluster.
pub async fn run(session: &Session, backup: Backup) -> Result<u8, Problem> {
    match backup.command {
        None => make(session, backup.to.as_deref()).await,
        Some(BackupCommand::Key { replace }) => make_key(session, replace).await,
        Some(BackupCommand::Schedule { every, keep, off: _ }) => schedule(session, every, keep).await,
        Some(BackupCommand::Status) => status(session).await,
        Some(BackupCommand::Verify { .. } | BackupCommand::Ls { .. }) => Ok(0),
    }
}

/// Runs a `wharf backup` command that needs no cluster; none if the command needs one.
pub fn run_alone(backup: &Backup, format: Format) -> Option<Result<u8, Problem>> {
    match &backup.command {
        Some(BackupCommand::Verify { file, key }) => Some(verify(file, key.as_deref(), format)),
        Some(BackupCommand::Ls { folder }) => Some(ls(folder.as_deref(), format)),
        _ => None,
    }
}

/// Why a backup file cannot be used.
pub fn unusable(path: &Path, error: &BackupError) -> Problem {
    let problem = Problem::new(Code::BackupUnusable, format!("The backup {} cannot be used", path.display()))
        .why(error.to_string());
    match error {
        BackupError::OtherKey(_) => problem.fix("Use the key that was shown when this public key was made"),
        _ => problem.fix("Use another backup: wharf backup ls FOLDER"),
    }
}

/// Makes a key, has backups encrypted to it, and prints its private part.
async fn make_key(session: &Session, replace: bool) -> Result<u8, Problem> {
    let (key, recipient) = backup::make_key();
    session.client.put("/api/v1/backup/key", &PutBackupKey { recipient, replace }).await?;
    output::note(format!("✓ backups of {} are encrypted to {recipient}", session.context));
    output::note("  This is the key that opens them, shown only once. Keep it outside of the cluster:");
    output::line(&key.reveal());
    Ok(0)
}

async fn make(session: &Session, to: Option<&Path>) -> Result<u8, Problem> {
    if let Some(to) = to.filter(|to| to.exists()) {
        return Err(exists(to));
    }
    let view: BackupView = session.client.get("/api/v1/backup/status").await?;
    if view.recipient.is_none() {
        make_key(session, false).await?;
    }
    let folder = to.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let part = folder.join(format!(".wharf-{}.part", std::process::id()));
    let made = receive(session, &part, to).await;
    link::file::if_there(std::fs::remove_file(&part)).map_err(|e| unwritable(&part, &e))?;
    let (path, head, size) = made?;
    output::note(format!("✓ backup of the cluster {} at index {}, {size} bytes", head.cluster, head.index));
    output::note("  to check it: wharf backup verify   to use it: wharf restore");
    output::line(&path.display().to_string());
    Ok(0)
}

fn exists(path: &Path) -> Problem {
    Problem::new(Code::Conflict, format!("The file {} exists, and no backup was made", path.display()))
        .fix("Choose another name with --to, or move the file away")
}

fn unwritable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(Code::StoreFailed, format!("The backup cannot be written to {}", path.display()))
        .why(error.to_string())
}

/// Receives a backup into a file beside its place, and gives it its name once it is durable and whole.
async fn receive(session: &Session, part: &Path, to: Option<&Path>) -> Result<(PathBuf, Head, u64), Problem> {
    let failed = |error: std::io::Error| unwritable(part, &error);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).map_err(failed)?;
    let mut body = session.client.send(Method::GET, "/api/v1/backup", Bytes::new()).await?.into_body();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let broken = |why: String| Problem::new(Code::Unreachable, "The backup did not arrive whole").why(why);
        let frame = frame.map_err(|e| broken(e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len() as u64;
        file.write_all(&data).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    drop(file);
    let read = File::open(part).map_err(failed)?;
    let head = backup::walk(BufReader::new(read)).map_err(|error| {
        Problem::new(Code::Unreachable, "The backup did not arrive whole").why(error.to_string()).fix("Try again")
    })?;
    let path = to.map_or_else(|| PathBuf::from(backup::name_of(&head)), Path::to_owned);
    // It never takes the place of a file that came meanwhile.
    std::fs::hard_link(part, &path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(&path),
        _ => unwritable(&path, &error),
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok((path, head, size))
}

async fn schedule(session: &Session, every: Option<common::time::Span>, keep: u32) -> Result<u8, Problem> {
    let Some(every) = every else {
        session.client.delete("/api/v1/backup/schedule").await?;
        output::note("✓ the coordinators make no backups by themselves any more; those that exist stay");
        return Ok(0);
    };
    session.client.put("/api/v1/backup/schedule", &Schedule { every, keep }).await?;
    output::note(format!("✓ every coordinator makes a backup every {every} and keeps {keep}"));
    output::note("  copy them to a place outside of the cluster; to see how they went: wharf backup status");
    Ok(0)
}

async fn status(session: &Session) -> Result<u8, Problem> {
    let view: BackupView = session.client.get("/api/v1/backup/status").await?;
    let key = view.recipient.map_or_else(|| "none: wharf backup key".to_owned(), |recipient| recipient.to_string());
    output::note(format!("backup key: {key}"));
    output::note(match view.schedule {
        Some(Schedule { every, keep }) => format!("schedule: every {every}, {keep} are kept"),
        None => "schedule: none: wharf backup schedule".to_owned(),
    });
    let row = |of: &MemberBackups| {
        let made = of.succeeded.as_ref();
        vec![
            of.member.to_string(),
            of.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            made.map_or_else(|| "never".to_owned(), |made| made.at.to_string()),
            of.failed.as_ref().map_or_else(|| "-".to_owned(), |failed| format!("{}: {}", failed.at, failed.why)),
            made.map_or_else(String::new, |made| made.index.to_string()),
            made.map_or_else(String::new, |made| made.path.clone()),
        ]
    };
    let head = ["MEMBER", "HOST", "LAST BACKUP", "FAILED SINCE", "INDEX", "FILE"];
    output::list(session.format, &view, Rows { head: &head, narrow: 4, rows: view.members.iter().map(row).collect() });
    Ok(u8::from(view.members.iter().any(|member| member.failed.is_some())))
}

/// Reads a backup with the key from a file or from standard input.
pub fn open(file: &Path, key: Option<&Path>) -> Result<(Head, Contents), Problem> {
    let unreadable = |error: std::io::Error| unusable(file, &BackupError::Io(error));
    // The file first: nobody types a key for one that is damaged.
    backup::walk(BufReader::new(File::open(file).map_err(unreadable)?)).map_err(|error| unusable(file, &error))?;
    let key = read_key(key)?;
    let from = BufReader::with_capacity(256 << 10, File::open(file).map_err(unreadable)?);
    backup::read(from, &key).map_err(|error| unusable(file, &error))
}

fn read_key(path: Option<&Path>) -> Result<BackupKey, Problem> {
    let refuse = |why: String| {
        Problem::new(Code::TokenMalformed, "The backup key cannot be read")
            .why(why)
            .fix("Pass the key that wharf backup key has printed: --key FILE, or on standard input")
    };
    let text = match path.filter(|path| *path != Path::new("-")) {
        Some(path) => std::fs::read_to_string(path).map_err(|e| refuse(format!("{}: {e}", path.display())))?,
        None if std::io::stdin().is_terminal() => {
            eprint!("Backup key: ");
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map_err(|e| refuse(e.to_string()))?;
            line
        }
        None => {
            let mut text = String::new();
            std::io::stdin().take(4096).read_to_string(&mut text).map_err(|e| refuse(e.to_string()))?;
            text
        }
    };
    text.trim().parse().map_err(|error: InvalidToken| refuse(error.to_string()))
}

fn verify(file: &Path, key: Option<&Path>, format: Format) -> Result<u8, Problem> {
    let size = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let (head, Contents { state, .. }) = open(file, key)?;
    let counts = json!({
        "cluster": head.cluster, "index": head.index, "at": head.at, "level": head.level, "wharf": head.wharf,
        "recipient": head.recipient, "hash": head.hash.to_string(), "bytes": size,
        "hosts": state.hosts().len(), "members": state.members().len(), "stacks": state.stacks().len(),
        "instances": state.instances().len(), "keys": state.keys().len(), "files": state.files().len(),
    });
    let rows = counts.as_object().into_iter().flatten().map(|(key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        vec![key.clone(), if key == "at" { head.at.to_string() } else { text }]
    });
    output::list(format, &counts, Rows { head: &["WHAT", "IS"], narrow: 2, rows: rows.collect() });
    output::note("✓ the backup is whole, and its state has the hash that it had when the backup was made");
    Ok(0)
}

fn ls(folder: Option<&Path>, format: Format) -> Result<u8, Problem> {
    let folder = folder.map_or_else(|| backup::beside(Path::new(STATE)), Path::to_owned);
    let failed = |error: std::io::Error| {
        Problem::new(Code::NotFound, format!("The folder {} cannot be listed", folder.display())).why(error.to_string())
    };
    let found = backup::list(&folder).map_err(failed)?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for (path, head) in found {
        let shown = path.display().to_string();
        let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let (value, [at, index, cluster, key]) = match head {
            Ok(head) => (
                json!({ "path": shown, "at": head.at, "index": head.index, "bytes": size,
                    "cluster": head.cluster, "recipient": head.recipient }),
                [head.at.to_string(), head.index.to_string(), head.cluster.to_string(), head.recipient.to_string()],
            ),
            Err(error) => (
                json!({ "path": shown, "error": error.to_string(), "bytes": size }),
                [format!("unusable: {error}"), String::new(), String::new(), String::new()],
            ),
        };
        rows.push(vec![shown, at, index, size.to_string(), cluster, key]);
        values.push(value);
    }
    let head = ["FILE", "MADE", "INDEX", "BYTES", "CLUSTER", "KEY"];
    output::list(format, &values, Rows { head: &head, narrow: 4, rows });
    Ok(0)
}
