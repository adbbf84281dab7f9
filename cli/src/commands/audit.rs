//! `wharf audit`: who changed what in the cluster.

use std::path::{Path, PathBuf};

use common::{
    audit::{AuditLine, AuditPage, check, check_copy},
    error::{Code, Problem},
};

use super::Session;
use crate::{
    args::Audit,
    output::{self, Rows},
};

/// Runs a command on the audit.
pub async fn run(session: &Session, command: Audit) -> Result<u8, Problem> {
    match command {
        Audit::Ls { newest } => ls(session, newest).await,
        Audit::Export => {
            for line in entries(session, 0).await?.0 {
                output::line(&as_json(&line)?);
            }
            Ok(0)
        }
        Audit::Verify { files } => verify(session, &files).await,
    }
}

async fn ls(session: &Session, count: usize) -> Result<u8, Problem> {
    let page: AuditPage = session.client.get(&format!("/api/v1/audit?after={}", u64::MAX)).await?;
    let (lines, _) = entries(session, page.newest.saturating_sub(count as u64)).await?;
    let row = |line: &AuditLine| {
        let entry = &line.entry;
        let by = match (&entry.name, &entry.token) {
            (Some(name), Some(token)) => format!("{name} ({token})"),
            (None, Some(token)) => format!("join token {token}"),
            _ => "the cluster".to_owned(),
        };
        let from = entry.from.map_or_else(String::new, |from| from.to_string());
        vec![entry.number.to_string(), entry.at.to_string(), by, line.what.clone(), entry.subject.clone(), from]
    };
    let rows = lines.iter().map(row).collect();
    output::list(
        session.format,
        &lines,
        Rows { head: &["NUMBER", "AT", "BY", "COMMAND", "SUBJECT", "FROM"], narrow: 5, rows },
    );
    Ok(0)
}

/// The entries after a number that the cluster holds, the oldest first, and the last page of them.
async fn entries(session: &Session, after: u64) -> Result<(Vec<AuditLine>, AuditPage), Problem> {
    let mut lines: Vec<AuditLine> = Vec::new();
    loop {
        let after = lines.last().map_or(after, |line| line.entry.number);
        let mut page: AuditPage = session.client.get(&format!("/api/v1/audit?after={after}")).await?;
        lines.append(&mut page.entries);
        if lines.last().is_none_or(|line| line.entry.number >= page.newest) {
            return Ok((lines, page));
        }
    }
}

async fn verify(session: &Session, files: &[PathBuf]) -> Result<u8, Problem> {
    let (cluster, page) = entries(session, 0).await?;
    let broken = |place: String, why: String| {
        Problem::new(Code::Conflict, format!("The audit of {place} is broken")).why(why).fix(
            "Compare the entry with the files in the folder audit of each coordinator's state, and with exported ones",
        )
    };
    let of_cluster = || format!("the cluster {}", session.context);
    check(&cluster).map_err(|found| broken(of_cluster(), found.to_string()))?;
    if cluster.last().map(|line| line.hash).unwrap_or_default() != page.hash {
        return Err(broken(of_cluster(), "its newest entry does not have the hash that the state names".to_owned()));
    }
    for file in files {
        let copy = read(file)?;
        let place = file.display().to_string();
        check(&copy).and_then(|()| check_copy(&copy, &cluster)).map_err(|found| broken(place, found.to_string()))?;
        output::note(format!("✓ {}: {}", file.display(), extent(&copy)));
    }
    output::note(format!("✓ the cluster: {}", extent(&cluster)));
    output::note("  Keep the hash of the newest entry elsewhere: it shows that nothing up to it was rewritten");
    output::line(&page.hash.to_string());
    Ok(0)
}

/// Which entries are there and belong together.
fn extent(lines: &[AuditLine]) -> String {
    match (lines.first(), lines.last()) {
        (Some(first), Some(last)) => {
            format!("the entries {} to {} are whole", first.entry.number, last.entry.number)
        }
        _ => "there is no entry".to_owned(),
    }
}

fn read(path: &Path) -> Result<Vec<AuditLine>, Problem> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Problem::new(Code::NotFound, format!("The file {} cannot be read", path.display())).why(error.to_string())
    })?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let read = serde_json::from_str(line).map_err(|error| {
            Problem::new(Code::InvalidRequest, format!("The file {} holds no entries of an audit", path.display()))
                .why(format!("line {}: {error}", number + 1))
        })?;
        lines.push(read);
    }
    Ok(lines)
}

fn as_json(line: &AuditLine) -> Result<String, Problem> {
    serde_json::to_string(line)
        .map_err(|error| Problem::new(Code::Internal, "An entry cannot be printed").why(error.to_string()))
}
