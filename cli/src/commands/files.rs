//! `wharf config` and `wharf secret`: files that the environment stores for its services.

use std::{
    io::{Read, Write},
    path::Path,
};

use bytes::Bytes;
use common::{
    api::{FilePut, FileView, List},
    error::{Code, Problem},
    file::{FileKind, MAX_CONTENT},
    name::Name,
};
use http_body_util::BodyExt;
use hyper::Method;

use super::Session;
use crate::{
    args::{ConfigFile, SecretFile, SetFile},
    client,
    output::{self, Rows},
};

/// Runs a `wharf secret` command.
pub async fn secrets(session: &Session, command: SecretFile) -> Result<u8, Problem> {
    match command {
        SecretFile::Ls => ls(session, FileKind::Secret).await,
        SecretFile::Set(wanted) => set(session, FileKind::Secret, &wanted).await,
        SecretFile::Rm { name } => rm(session, FileKind::Secret, &name).await,
    }
}

/// Runs a `wharf config` command on stored configs.
pub async fn configs(session: &Session, command: ConfigFile) -> Result<u8, Problem> {
    match command {
        ConfigFile::Ls => ls(session, FileKind::Config).await,
        ConfigFile::Get { name } => get(session, &name).await,
        ConfigFile::Set(wanted) => set(session, FileKind::Config, &wanted).await,
        ConfigFile::Rm { name } => rm(session, FileKind::Config, &name).await,
    }
}

fn path(session: &Session, kind: FileKind, name: &Name) -> String {
    session.in_environment(&format!("{kind}s/{name}"))
}

async fn ls(session: &Session, kind: FileKind) -> Result<u8, Problem> {
    let files: List<FileView> = session.client.get(&session.in_environment(&format!("{kind}s"))).await?;
    let row = |file: &FileView| {
        let name = file.stack.as_ref().map_or_else(|| file.name.to_string(), |stack| format!("{stack}/{}", file.name));
        let by = file.by.as_ref().map_or_else(String::new, ToString::to_string);
        vec![name, file.version.to_string(), file.changed_at.to_string(), by, file.used_by.join(", ")]
    };
    let rows = files.items.iter().map(row).collect();
    output::list(session.format, &files, Rows { head: &["NAME", "VERSION", "SET", "BY", "USED BY"], narrow: 5, rows });
    Ok(0)
}

async fn get(session: &Session, name: &Name) -> Result<u8, Problem> {
    let response = session.client.send(Method::GET, &path(session, FileKind::Config, name), Bytes::new()).await?;
    let cut = |why: String| {
        Problem::new(Code::Unreachable, format!("The content of config {name} could not be read")).why(why)
    };
    let body = response.into_body().collect().await.map_err(|e| cut(e.to_string()))?.to_bytes();
    std::io::stdout().write_all(&body).map_err(|e| cut(e.to_string()))?;
    Ok(0)
}

async fn set(session: &Session, kind: FileKind, SetFile { name, file }: &SetFile) -> Result<u8, Problem> {
    let content = read(file)
        .map_err(|why| Problem::new(Code::InvalidRequest, format!("{} cannot be read", file.display())).why(why))?;
    let response = session.client.send(Method::PUT, &path(session, kind, name), content).await?;
    let put: FilePut = client::read(response).await?;
    output::note(format!("✓ {kind} {name} now has version {}", put.version));
    for stack in put.stacks {
        output::note(format!("  {stack} uses it and got a new revision; to follow it: wharf ps {stack}"));
    }
    Ok(0)
}

/// Reads a file, or standard input for `-`. Reads one byte more than allowed, so that larger content is noticed.
fn read(file: &Path) -> Result<Bytes, String> {
    let mut content = Vec::new();
    let most = MAX_CONTENT as u64 + 1;
    let done = if file == Path::new("-") {
        std::io::stdin().take(most).read_to_end(&mut content)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(most).read_to_end(&mut content))
    };
    done.map_err(|e| e.to_string())?;
    if content.len() > MAX_CONTENT {
        return Err(format!("it is larger than {MAX_CONTENT} bytes"));
    }
    Ok(content.into())
}

async fn rm(session: &Session, kind: FileKind, name: &Name) -> Result<u8, Problem> {
    if !output::confirm(&format!("Remove the {kind} {name} and all its versions?"), session.yes)? {
        return Ok(1);
    }
    session.client.delete(&path(session, kind, name)).await?;
    output::note(format!("✓ {kind} {name} is removed"));
    Ok(0)
}
