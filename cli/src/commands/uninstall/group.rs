//! What a coordinator's host does before it goes: it leaves the group, or says what the group loses.

use std::sync::Arc;

use common::{
    error::{Code, Problem},
    id::MemberId,
};
use coordinator::raft;
use link::{Transport, call::Caller, keyring::Keyring, quic::Quic};

use crate::output;

/// This host's part in the group of coordinators.
pub struct Membership {
    member: MemberId,
    coordinators: Vec<Caller>,
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It holds the cluster's state alone.
    Only,
    /// So many are in the group with it.
    OneOf(usize),
    /// Nobody says.
    Unknown,
}

impl Membership {
    /// Asks the coordinators; none if this host runs none, or the group has removed it.
    pub async fn find(keyring: &Keyring) -> Result<Option<Membership>, Problem> {
        let Some(member) = keyring.member else { return Ok(None) };
        let failed = |why: String| Problem::new(Code::InstallFailed, "The coordinators cannot be asked").why(why);
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
                    // Those that joined later are unknown to the keyring.
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

    /// What removing this host does to the group.
    pub fn note(&self) -> String {
        note(self.member, self.part)
    }

    /// Leaves the group, or says that it could not: what else there is goes all the same.
    pub async fn leave(self) {
        if self.part == Part::Only {
            return;
        }
        match raft::leave(&self.coordinators, self.member).await {
            Ok(()) => output::note(format!("✓ coordinator {} has left its group", self.member)),
            Err(problem) => {
                output::problem(&problem);
                output::note(format!(
                    "! the others still count it, and need a majority without it; on another one: wharf member rm {}",
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
            format!(
                "! coordinator {member}: no coordinator answers now; if it cannot leave, the others go on counting it"
            )
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
