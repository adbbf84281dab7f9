//! How a member comes back whose store is damaged.
//!
//! It may have acknowledged what it no longer has, and voted for whom it no longer knows. So it takes no part until the
//! leader has taken it out of the group, by a change that a majority of the others has. Nothing that it ever said
//! counts then. It puts the damaged files aside, begins with an empty store, and the leader takes it in again as it
//! takes in every member: as a learner that votes once it has caught up.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{error::Problem, id::MemberId, wire::Open};
use coordinator_core::access::Refusal;
use link::{LinkError, call::Caller};
use tracing::{error, info, warn};

use super::{
    Consensus, MemberAnswer, MemberCall, NotProposed, Start, StoreError, group_of, membership, removed_from_the_group,
    store::MADE,
};

/// The leader may have to wait for a majority.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);
const PAUSE: Duration = Duration::from_secs(1);
/// What is put aside, in this order: as long as the log is damaged, it is tried again.
const PARTS: [&str; 2] = ["snapshots", "raft"];

/// Has the others take this member out of the group and puts its damaged store aside, so that it can begin with an empty
/// one. Returns only if that was done, or this member was removed for good.
pub async fn begin_anew(start: Start<'_>, damage: &StoreError) -> Result<(), Problem> {
    let Start { me, directory, transport, others, .. } = start;
    error!(%damage, "this coordinator's store is damaged; it asks the others to go on without it, and begins anew");
    let caller = |address: SocketAddr| (address, Caller::new(transport.clone(), address));
    let mut callers: BTreeMap<SocketAddr, Caller> = others.iter().copied().map(caller).collect();
    let mut said = String::new();
    loop {
        let mut reasons = Vec::new();
        for (address, asked) in callers.clone() {
            // Those that it knows may not lead, and know more.
            let group = group_of(&asked).await.ok().flatten().unwrap_or_default();
            let addresses =
                group.iter().filter(|member| member.id != me).filter_map(|member| member.address.parse().ok());
            for (address, found) in addresses.map(caller) {
                callers.entry(address).or_insert(found);
            }
            match ask(&asked).await {
                Ok(MemberAnswer::LetGo(Ok(()))) => {
                    let aside = put_aside(directory).map_err(|error| failed(directory, &error))?;
                    info!(?aside, "the damaged store was put aside for analysis; this coordinator begins anew");
                    return Ok(());
                }
                Ok(MemberAnswer::Refused(Refusal::Removed)) => return Err(removed_from_the_group()),
                Ok(MemberAnswer::LetGo(Err(NotProposed::NotLeader))) => {}
                Ok(MemberAnswer::LetGo(Err(error))) => reasons.push(format!("{address}: {error}")),
                Ok(MemberAnswer::Refused(refusal)) => reasons.push(format!("{address}: {refusal}")),
                Ok(_) => reasons.push(format!("{address}: it sent an unexpected answer")),
                Err(error) => reasons.push(format!("{address}: {error}")),
            }
        }
        let reasons = if reasons.is_empty() { "none of them leads".to_owned() } else { reasons.join("; ") };
        if said != reasons {
            warn!(reasons, "the others have not taken this coordinator out of the group yet; asking again");
            said = reasons;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(caller: &Caller) -> Result<MemberAnswer, LinkError> {
    let open = Open::Member(common::codec::encode(&MemberCall::LetGo)?);
    caller.ask(&open, ANSWER_WITHIN).await
}

fn failed(directory: &Path, error: &io::Error) -> Problem {
    crate::birth::store_problem(StoreError::Failed { path: directory.to_owned(), reason: error.to_string() })
}

/// Renames what a store is made of, and says how it is called now.
fn put_aside(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut aside = Vec::new();
    for part in PARTS {
        let path = directory.join(part);
        let free = (1..).map(|number| directory.join(format!("{part}.damaged-{number}"))).find(|path| !path.exists());
        if let Some(to) = free.filter(|_| path.exists()) {
            fs::rename(&path, &to)?;
            aside.push(to);
        }
    }
    fs::File::open(directory)?.sync_all()?;
    link::file::if_there(fs::remove_file(directory.join(MADE)))?;
    fs::File::open(directory)?.sync_all()?;
    Ok(aside)
}

impl Consensus {
    /// Takes a member that has lost its store out of the group, if this member leads.
    pub(super) async fn let_go(&self, member: Option<MemberId>) -> Result<(), NotProposed> {
        let Some(member) = member.filter(|member| *member != self.me()) else {
            return Err(NotProposed::Unknown("only another member can be let go".to_owned()));
        };
        if !self.leadership().leads {
            return Err(NotProposed::NotLeader);
        }
        warn!(member = member.0, "a coordinator has lost its store: it is taken out of the group and begins anew");
        membership::take_out(self, member).await.map_err(NotProposed::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_kept_however_often_that_happens() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        for round in 1..=2 {
            for part in PARTS {
                fs::create_dir(folder.join(part)).expect("is made");
                fs::write(folder.join(part).join("content"), [round]).expect("is written");
            }
            let expected: Vec<PathBuf> =
                PARTS.iter().map(|part| folder.join(format!("{part}.damaged-{round}"))).collect();
            assert_eq!(put_aside(folder).expect("is renamed"), expected);
            for path in expected {
                assert_eq!(fs::read(path.join("content")).expect("is there"), [round]);
            }
        }
        assert_eq!(put_aside(folder).expect("there is nothing"), Vec::<PathBuf>::new());
    }
}
