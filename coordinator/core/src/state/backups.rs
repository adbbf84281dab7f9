//! Backups of the state, and what a state that was rebuilt from one remembers of it.

use std::net::SocketAddr;

use common::{
    api::{BackupFailed, BackupMade},
    backup::{Recipient, Schedule},
    error::{Code, Problem},
    id::{HostId, MemberId},
    time::{Span, Timestamp},
    token::TokenId,
};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{Applied, RETURNS_WITHIN, State, not_found, set_back::Back, shortened};
use crate::command::{BackupOutcome, NewJoinToken};

/// The longest reason of a failure that is kept, in characters.
const MAX_REASON: usize = 500;

/// The section of backups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Backups {
    /// The public key that backups are encrypted to.
    recipient: Option<Recipient>,
    /// When the coordinators make backups by themselves, and since when that holds.
    schedule: Option<(Schedule, Timestamp)>,
    reports: OrdMap<MemberId, BackupReport>,
    /// Join tokens whose host takes the place of another one.
    replacing: OrdMap<TokenId, HostId>,
    /// When the state was rebuilt last, if it ever was.
    rebuilt: Option<Rebuilt>,
}

/// What came of a member's scheduled backups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The last one that succeeded.
    pub succeeded: Option<BackupMade>,
    /// The last attempt, if it failed.
    pub failed: Option<BackupFailed>,
}

/// When a state was rebuilt from a backup, or from the store of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Rebuilt {
    at: Timestamp,
    /// Until when the instances of hosts that have not been heard since are not replaced.
    waits_until: Timestamp,
    /// Where the coordinators listened that were forgotten.
    lost: Vec<SocketAddr>,
}

/// For so long a coordinator that was forgotten may come back with a certificate that is valid, and a little longer.
const LOST_FOR: Span = Span::minutes(31 * 24 * 60);

impl Backups {
    /// Sets all times back.
    pub(super) fn set_back(&mut self, back: Back) {
        self.schedule.iter_mut().for_each(|(_, since)| back.time(since));
        back.each(&mut self.reports, |report| {
            report.succeeded.iter_mut().for_each(|made| back.time(&mut made.at));
            report.failed.iter_mut().for_each(|failed| back.time(&mut failed.at));
        });
        if let Some(rebuilt) = &mut self.rebuilt {
            back.time(&mut rebuilt.at);
            back.time(&mut rebuilt.waits_until);
        }
    }
}

impl State {
    /// The public key that backups are encrypted to.
    pub fn backup_recipient(&self) -> Option<Recipient> {
        self.backups.recipient
    }

    /// When the coordinators make backups by themselves.
    pub fn backup_schedule(&self) -> Option<Schedule> {
        self.backups.schedule.map(|(schedule, _)| schedule)
    }

    /// What came of the members' scheduled backups.
    pub fn backup_reports(&self) -> &OrdMap<MemberId, BackupReport> {
        &self.backups.reports
    }

    /// When a member's next scheduled backup is due.
    pub fn backup_due(&self, member: MemberId) -> Option<Timestamp> {
        let (schedule, since) = self.backups.schedule?;
        let last = self.backups.reports.get(&member).and_then(|report| report.succeeded.as_ref());
        Some(last.map_or(since, |made| (made.at + schedule.every).max(since)))
    }

    /// The host whose place the host takes that joins by a token.
    pub fn replaced_by(&self, token: &TokenId) -> Option<HostId> {
        self.backups.replacing.get(token).copied()
    }

    /// Until when what runs on a host waits for it, because its agent has said that it will be back, or because the
    /// cluster was rebuilt and has not heard of it since.
    pub(crate) fn returns_until(&self, host: HostId) -> Timestamp {
        let Some(left) = self.hosts().get(&host).and_then(|host| host.left_at) else { return Timestamp(0) };
        let rebuilt = self.backups.rebuilt.as_ref().filter(|rebuilt| rebuilt.at == left);
        (left + RETURNS_WITHIN).max(rebuilt.map_or(Timestamp(0), |rebuilt| rebuilt.waits_until))
    }

    /// Where coordinators may come back that were forgotten when the cluster was rebuilt.
    pub fn lost_coordinators(&self) -> impl Iterator<Item = SocketAddr> {
        let rebuilt = self.backups.rebuilt.iter().filter(|rebuilt| self.clock().since(rebuilt.at) < LOST_FOR);
        let is_taken = |address: &SocketAddr| self.members().values().any(|member| member.address == *address);
        rebuilt.flat_map(|rebuilt| rebuilt.lost.iter().copied()).filter(move |address| !is_taken(address))
    }

    pub(super) fn put_backup_key(&mut self, recipient: Recipient, expected: Option<Recipient>) -> Applied {
        if self.backups.recipient == Some(recipient) {
            return self.done();
        }
        if self.backups.recipient != expected {
            return Err(Problem::new(Code::Conflict, "The backup key was not changed")
                .why("the cluster has another one")
                .fix("To replace it: wharf backup key --replace; keep the old key for the old backups"));
        }
        self.backups.recipient = Some(recipient);
        self.record("cluster", "backup-key-changed", format!("backups are encrypted to {recipient} from now on"));
        self.done()
    }

    pub(super) fn put_backup_schedule(&mut self, schedule: Option<Schedule>) -> Applied {
        let refuse = |code, why: String| Err(Problem::new(code, "The schedule of backups was not changed").why(why));
        if let Some(violation) = schedule.as_ref().and_then(Schedule::violation) {
            return refuse(Code::InvalidRequest, violation);
        }
        if schedule.is_some() && self.backups.recipient.is_none() {
            return refuse(
                Code::Conflict,
                "there is no key to encrypt backups to; make one: wharf backup key".to_owned(),
            );
        }
        if self.backup_schedule() != schedule {
            self.backups.schedule = schedule.map(|schedule| (schedule, self.basics.clock));
            self.backups.reports = OrdMap::new();
            let message = match schedule {
                Some(Schedule { every, keep }) => {
                    format!("every coordinator makes a backup every {every} and keeps {keep}")
                }
                None => "the coordinators make no backups by themselves any more".to_owned(),
            };
            self.record("cluster", "backup-schedule-changed", message);
        }
        self.done()
    }

    pub(super) fn backup_ended(&mut self, member: MemberId, outcome: &BackupOutcome) -> Applied {
        if !self.members().contains_key(&member) {
            return Err(not_found("member", member));
        }
        let at = self.basics.clock;
        let report = self.backups.reports.entry(member).or_default();
        match outcome {
            BackupOutcome::Made { index, bytes, path } => {
                let path = shortened(path.clone(), MAX_REASON);
                report.succeeded = Some(BackupMade { at, index: *index, bytes: *bytes, path });
                if report.failed.take().is_some() {
                    self.record(format!("member {member}"), "backup-made", "scheduled backups succeed again");
                } else {
                    self.touch();
                }
            }
            BackupOutcome::Failed { why } => {
                let why = shortened(why.clone(), MAX_REASON);
                let is_new = report.failed.as_ref().is_none_or(|failed| failed.why != why);
                report.failed = Some(BackupFailed { at, why: why.clone() });
                if is_new {
                    self.record(format!("member {member}"), "backup-failed", format!("no backup was made: {why}"));
                } else {
                    self.touch();
                }
            }
        }
        self.done()
    }

    /// Forgets what came of the backups of a member that has left.
    pub(super) fn forget_backups_of(&mut self, member: MemberId) {
        self.backups.reports.remove(&member);
    }

    pub(super) fn put_replacing_token(&mut self, token: &NewJoinToken, replaces: HostId) -> Applied {
        if !self.hosts().contains_key(&replaces) {
            return Err(not_found("host", replaces));
        }
        if token.max_uses != 1 {
            return Err(Problem::new(Code::InvalidRequest, "The join token was not made")
                .why("a token for a host that takes the place of another one has one use"));
        }
        let outcome = self.put_join_token(token)?;
        let kept = self.backups.replacing.iter().filter(|(id, _)| self.join_tokens().contains_key(*id));
        self.backups.replacing = kept.map(|(id, host)| (*id, *host)).collect();
        self.backups.replacing.insert(token.id, replaces);
        Ok(outcome)
    }

    /// Notes that the state was rebuilt: what other members had done before no longer counts.
    pub(super) fn note_rebuilt(&mut self, at: Timestamp, waits: Span, lost: Vec<SocketAddr>) {
        self.backups.reports = OrdMap::new();
        self.backups.replacing = OrdMap::new();
        self.backups.rebuilt = Some(Rebuilt { at, waits_until: at + waits, lost });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, testing::Fixture};

    const FIRST: Recipient = Recipient([1; 32]);
    const SECOND: Recipient = Recipient([2; 32]);

    fn every(seconds: u64, keep: u32) -> Option<Schedule> {
        Some(Schedule { every: Span::seconds(seconds), keep })
    }

    #[test]
    fn a_key_is_replaced_only_by_who_says_which() {
        let mut fixture = Fixture::of_hosts(1);
        let refused = fixture.refused(Command::PutBackupSchedule(every(3600, 3)));
        assert!(refused.contains("there is no key"), "{refused}");
        fixture.done(Command::PutBackupKey { recipient: FIRST, expected: None });
        fixture.done(Command::PutBackupKey { recipient: FIRST, expected: None });
        let refused = fixture.refused(Command::PutBackupKey { recipient: SECOND, expected: None });
        assert!(refused.contains("the cluster has another one"), "{refused}");
        fixture.done(Command::PutBackupKey { recipient: SECOND, expected: Some(FIRST) });
        assert_eq!(fixture.cluster.backup_recipient(), Some(SECOND));
        for odd in [every(1, 3), every(3600, 0), every(3600, 1001), every(40 * 86_400, 1)] {
            fixture.refused(Command::PutBackupSchedule(odd));
        }
    }

    #[test]
    fn a_backup_is_due_one_period_after_the_last_one_that_succeeded() {
        let mut fixture = Fixture::of_hosts(1);
        let me = MemberId(1);
        fixture.done(Command::PutBackupKey { recipient: FIRST, expected: None });
        assert_eq!(fixture.cluster.backup_due(me), None);
        fixture.done(Command::PutBackupSchedule(every(3600, 3)));
        let began = fixture.cluster.clock();
        assert_eq!(fixture.cluster.backup_due(me), Some(began));
        let failed = BackupOutcome::Failed { why: "the disk is full".to_owned() };
        fixture.done(Command::BackupEnded { member: me, outcome: failed });
        assert_eq!(fixture.cluster.backup_due(me), Some(began), "it is tried again");
        let made = BackupOutcome::Made { index: 7, bytes: 9, path: "/b".to_owned() };
        fixture.done(Command::BackupEnded { member: me, outcome: made });
        let report = &fixture.cluster.backup_reports()[&me];
        assert!(report.failed.is_none() && report.succeeded.is_some());
        let due = fixture.cluster.clock() + Span::seconds(3600);
        assert_eq!(fixture.cluster.backup_due(me), Some(due));
        fixture.done(Command::PutBackupSchedule(None));
        assert_eq!(fixture.cluster.backup_due(me), None);
    }
}
