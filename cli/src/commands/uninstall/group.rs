//! The part of uninstalling that concerns a coordinator: it leaves the group, or the user learns what the group loses.

use std::sync::Arc;

use common::{
    error::{Code, Problem},
    id::MemberId,
};
use coordinator::raft;
use link::{Transport, call::Caller, keyring::Keyring, quic::Quic};

use crate::output;

/// This host's membership in the group of coordinators.
pub struct Membership {
    member: MemberId,
    coordinators: Vec<Caller>,
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It is the only member: without it the cluster's state is lost.
    Only,
    /// The number of members, including this one.
    OneOf(usize),
    /// No coordinator answered.
    Unknown,
}

impl Membership {
    /// Asks the coordinators for this host's membership; `None` if this host is no member (any more).
    pub async fn find(keyring: &Keyring) -> Result<Option<Membership>, Problem> {
        let Some(member) = keyring.member else { return Ok(None) };
        let failed = |why: String| Problem::new(Code::InstallFailed, "The coordinators cannot be queried").why(why);
        let any = match keyring.coordinators.iter().any(std::net::SocketAddr::is_ipv6) {
            true => ([0u16; 8], 0).into(),
            false => ([0, 0, 0, 0], 0).into(),
        };
        let quic = Quic::dial_only(any, keyring.credentials()).map_err(|e| failed(e.to_string()))?;
        let quic: Arc<dyn Transport> = Arc::new(quic);
        let mut addresses = keyring.coordinators.clone();
        addresses.extend(keyring.advertise.filter(|own| !keyring.coordinators.contains(own)));
        let mut coordinators: Vec<Caller> = addresses.iter().map(|a| Caller::new(quic.clone(), *a)).collect();
        let mut part = Part::Unknown;
        for coordinator in coordinators.clone() {
            match raft::group_of(&coordinator).await {
                Ok(None) => return Ok(None),
                Ok(Some(group)) => {
                    part = part_of(member, &group);
                    // Coordinators that joined later are missing in the keyring.
                    let later = group.iter().filter_map(|known| known.address.parse().ok());
                    let later: Vec<_> = later.filter(|address| !addresses.contains(address)).collect();
                    coordinators.extend(later.into_iter().map(|address| Caller::new(quic.clone(), address)));
                    break;
                }
                Err(_) => {}
            }
        }
        Ok(Some(Membership { member, coordinators, part }))
    }

    /// Describes what removing this host does to the group.
    pub fn note(&self) -> String {
        note(self.member, self.part)
    }

    /// Leaves the group. If that fails, prints how to remove the member later; uninstalling goes on either way.
    pub async fn leave(self) {
        if self.part == Part::Only {
            return;
        }
        match raft::leave(&self.coordinators, self.member).await {
            Ok(()) => output::note(format!("✓ coordinator {} has left its group", self.member)),
            Err(problem) => {
                output::problem(&problem);
                output::note(format!(
                    "! the other coordinators still count it; to remove it, run on another one: wharf member rm {}",
                    self.member
                ));
            }
        }
    }
}

fn part_of(member: MemberId, group: &[raft::GroupMember]) -> Part {
    let voters = group.iter().filter(|known| known.votes);
    match (voters.clone().count(), voters.into_iter().any(|known| known.id == member)) {
        (1, true) => Part::Only,
        (_, _) => Part::OneOf(group.len()),
    }
}

fn note(member: MemberId, part: Part) -> String {
    match part {
        Part::Only => format!(
            "! coordinator {member} is the only one: the cluster's state, its tokens and its secrets are lost with it"
        ),
        Part::OneOf(count) => format!("  coordinator {member}, one of {count}: it leaves the group first"),
        Part::Unknown => {
            format!("! coordinator {member}: no coordinator answers now; if it cannot leave, the others still count it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_what_the_group_loses() {
        let known = |id: u64, votes| raft::GroupMember { id: MemberId(id), votes, address: String::new() };
        let cases = [
            (part_of(MemberId(1), &[known(1, true)]), "are lost with it"),
            (part_of(MemberId(1), &[known(1, true), known(2, false)]), "are lost with it"),
            (part_of(MemberId(2), &[known(1, true), known(2, false)]), "one of 2: it leaves the group first"),
            (part_of(MemberId(2), &[known(1, true), known(2, true)]), "one of 2: it leaves the group first"),
            (Part::Unknown, "no coordinator answers now"),
        ];
        for (part, words) in cases {
            let said = note(MemberId(1), part);
            assert!(said.contains(words), "{part:?}: {said}");
        }
    }
}
