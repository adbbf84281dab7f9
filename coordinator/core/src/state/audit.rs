//! The audit: what people and joining hosts changed, and what the cluster itself changed in their place, as a chain of
//! hashes.

use std::{net::IpAddr, sync::Arc};

use common::{
    audit::{AuditEntry, AuditHash},
    name::Name,
    token::TokenId,
};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::State;
use crate::{
    command::{Command, Proposal},
    level,
};

/// How many entries the state holds; coordinators keep older ones in files.
pub const MOST_ENTRIES: usize = 8192;
/// The longest subject of an entry, in bytes.
const MAX_SUBJECT: usize = 256;
/// The command of an entry that tells that the cluster began again.
pub const REBUILT: u16 = 0;

/// The section of the audit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Audit {
    entries: OrdMap<u64, Arc<AuditEntry>>,
    /// The number and the hash of the newest entry.
    newest: (u64, AuditHash),
}

/// Who did what.
#[derive(Default)]
struct Change {
    token: Option<TokenId>,
    name: Option<Name>,
    from: Option<IpAddr>,
    command: u16,
    subject: String,
}

impl State {
    /// The newest entries of the audit, by number.
    pub fn audit(&self) -> &OrdMap<u64, Arc<AuditEntry>> {
        &self.audit.entries
    }

    /// The number and the hash of the newest entry of the audit.
    pub fn audit_newest(&self) -> (u64, AuditHash) {
        self.audit.newest
    }

    /// Enters a command that was applied, if it is one of those that are kept.
    pub(super) fn enter(&mut self, proposal: &Proposal) {
        let Some(subject) = subject(&proposal.command) else { return };
        let mut change = Change { command: proposal.command.tag(), subject, ..Change::default() };
        match (&proposal.by, &proposal.command) {
            (Some(person), _) => {
                (change.token, change.name, change.from) = (Some(person.token), Some(person.name.clone()), person.from);
            }
            (None, Command::Admit(admission)) => {
                (change.token, change.from) = (Some(admission.token), Some(admission.from));
            }
            (None, _) => {}
        }
        self.add_to_audit(change);
    }

    /// Enters that the cluster begins again.
    pub(super) fn enter_rebuilt(&mut self, from: &str) {
        self.add_to_audit(Change { command: REBUILT, subject: from.to_owned(), ..Change::default() });
    }

    fn add_to_audit(&mut self, change: Change) {
        if self.basics.level < level::AUDIT {
            return;
        }
        let (number, previous) = self.audit.newest;
        let mut subject = change.subject;
        subject.truncate(subject.floor_char_boundary(MAX_SUBJECT));
        let entry = AuditEntry {
            number: number + 1,
            at: self.basics.clock,
            token: change.token,
            name: change.name,
            from: change.from,
            command: change.command,
            subject,
            index: self.index(),
            previous,
        };
        // An entry that cannot be hashed would break the chain where everybody sees it.
        self.audit.newest = (entry.number, entry.hash().unwrap_or_default());
        self.audit.entries.insert(entry.number, Arc::new(entry));
        while self.audit.entries.len() > MOST_ENTRIES
            && let Some(oldest) = self.audit.entries.get_min().map(|(number, _)| *number)
        {
            self.audit.entries.remove(&oldest);
        }
    }
}

/// What an entry says that a command is about; none if it is not kept. Kept are the commands that a token may ask for,
/// whoever asked, and those by which the cluster, its hosts and its level came to be. The text is part of what is hashed,
/// so it is made of ids and names alone, and never of words that a later version might choose otherwise.
fn subject(command: &Command) -> Option<String> {
    let text = match command {
        Command::PutStack { id, .. } | Command::RemoveStack(id) => id.to_string(),
        Command::ScaleService { id: service, .. }
        | Command::MoveRollout { service, .. }
        | Command::Promote { service, .. }
        | Command::RollBack { service, .. }
        | Command::Retry(service) => service.to_string(),
        Command::Rebalance { services } => services.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        Command::PutFile { id, .. } | Command::RemoveFile(id) => {
            let stack = id.stack.as_ref().map_or_else(String::new, |stack| format!("{stack}/"));
            format!("{}/{stack}{}", id.environment, id.name)
        }
        Command::PutKey { environment, key, .. } | Command::RemoveKey { environment, key } => {
            format!("{environment}/{key}")
        }
        Command::PutEnvironment(name) | Command::RemoveEnvironment(name) => name.to_string(),
        Command::PutToken { id, .. } | Command::PutApiToken { id, .. } | Command::RemoveApiToken(id) => id.to_string(),
        Command::PutRegistry(credentials) => credentials.registry.clone(),
        Command::RemoveRegistry(registry) => registry.clone(),
        Command::RemoveMember(member) | Command::ForgetMember(member) => member.to_string(),
        Command::BeginUpgrade(target) => target.hash.to_string(),
        Command::RaiseLevel(level) => level.to_string(),
        Command::Initialize(_)
        | Command::PutSettings(_)
        | Command::SetClockBack { .. }
        | Command::PauseUpgrade
        | Command::ResumeUpgrade
        | Command::AbortUpgrade
        | Command::RotateSealingKey { .. }
        | Command::RotateJoinKey { .. }
        | Command::RotateRoot(_)
        | Command::MoveRoot { .. }
        | Command::PutBackupKey { .. }
        | Command::PutBackupSchedule(_) => String::new(),
        other => return of_host(other),
    };
    Some(text)
}

/// The same of commands about hosts and how they join.
fn of_host(command: &Command) -> Option<String> {
    match command {
        Command::PutJoinToken(token) | Command::PutReplacingToken { token, .. } => Some(token.id.to_string()),
        Command::RevokeJoinToken(id) => Some(id.to_string()),
        Command::Admit(admission) => Some(admission.host.to_string()),
        Command::SetAvailability { host, .. }
        | Command::PutHostLabels { host, .. }
        | Command::Oversubscribe { host, .. }
        | Command::AcceptHost { host, .. }
        | Command::RemoveHost(host) => Some(host.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
