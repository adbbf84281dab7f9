//! The audit as people read it.

use common::audit::{AuditEntry, AuditLine, AuditPage};

use crate::{Command, State, state::REBUILT};

/// The entries of the audit with a higher number, the oldest first, at most `most` of them.
pub fn audit(cluster: &State, after: u64, most: usize) -> AuditPage {
    let later = cluster.audit().range(after.saturating_add(1)..).take(most);
    let (newest, hash) = cluster.audit_newest();
    AuditPage {
        entries: later.map(|(_, entry)| line(entry)).collect(),
        oldest: cluster.audit().get_min().map_or(0, |(number, _)| *number),
        newest,
        hash,
    }
}

fn line(entry: &AuditEntry) -> AuditLine {
    AuditLine { entry: entry.clone(), what: words(entry.command), hash: entry.hash().unwrap_or_default() }
}

/// What a command is called, in words: `put stack`.
fn words(command: u16) -> String {
    if command == REBUILT {
        return "begin again".to_owned();
    }
    let Some(name) = Command::name_of(command) else { return format!("command {command} of a newer version") };
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}
