//! Backups of the cluster: made while it runs, on request or on a schedule, and what is done with them when it is lost.
//!
//! A backup is the whole state at one index, and the key that its secrets are sealed with. It is encrypted to a key
//! whose private part no coordinator has: neither a coordinator nor a backup is enough to read old backups. What the
//! file looks like is in `backup/file.rs`; how a cluster begins again is in `backup/rebuild.rs`.

mod file;
mod folder;
mod rebuild;
mod schedule;

use std::{io::Write, sync::Arc};

use common::{
    error::{Code, Problem},
    secret::Secret,
};
use coordinator_core::State;
use link::clock::now;
use serde::{Deserialize, Serialize};

use crate::{Coordinator, raft::Consensus, seal::Seals};

pub use file::{BackupError, Head, make_key, read, read_head, recipient_of, walk};
pub use folder::{beside, keep_newest, list, name_of, save};
pub use rebuild::{Line, Plan, Rebuilt, answering, finish, plan_of, rebuild};
pub use schedule::run;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contents {
    /// The file of the key that secrets are sealed with.
    pub sealing_key: Secret<Vec<u8>>,
    /// The state.
    pub state: State,
}

/// A backup that is to be written.
pub struct Draft {
    head: Head,
    contents: Contents,
}

impl Draft {
    /// A backup of the state as a majority has it now.
    pub async fn of_now(consensus: &Consensus, seals: Arc<Seals>) -> Result<Draft, Problem> {
        let published = consensus.read().await?;
        // To hash a large state takes a while.
        let drafted = tokio::task::spawn_blocking(move || Draft::of(published.cluster.clone(), &seals)).await;
        drafted.map_err(|error| Problem::new(Code::Internal, "No backup was made").why(error.to_string()))?
    }

    /// A backup of a state.
    pub fn of(state: State, seals: &Seals) -> Result<Draft, Problem> {
        let refuse = |code| Problem::new(code, "No backup was made");
        let identity = state.identity().ok_or_else(crate::raft::no_leader)?;
        let recipient = state.backup_recipient().ok_or_else(|| {
            refuse(Code::Conflict).why("there is no key to encrypt it to").fix("Make one: wharf backup key")
        })?;
        let sealing_key = seals.file().map_err(|e| refuse(Code::StoreFailed).why(e.to_string()))?.ok_or_else(|| {
            refuse(Code::SealingKeyMissing)
                .why("this coordinator has no sealing key, without which no secret could be read again")
                .fix("Ask another coordinator; see which: wharf member ls")
        })?;
        let hash = state.hash().map_err(|e| refuse(Code::Internal).why(e.to_string()))?;
        let head = Head {
            cluster: identity.id,
            index: state.index(),
            at: now(),
            level: state.level(),
            wharf: env!("CARGO_PKG_VERSION").to_owned(),
            recipient,
            hash,
        };
        Ok(Draft { head, contents: Contents { sealing_key, state } })
    }

    /// What it says of itself in clear.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Writes it; returns its size.
    pub fn write(&self, to: impl Write) -> Result<u64, BackupError> {
        file::write(&self.head, &self.contents, to)
    }
}

/// The task that makes scheduled backups.
pub(crate) fn scheduled(coordinator: &Coordinator) -> impl Future<Output = ()> + Send + use<> {
    schedule::run(coordinator.consensus.clone(), coordinator.seals.clone(), coordinator.backups.clone())
}

#[cfg(test)]
pub(crate) mod tests {
    use common::{
        api::Settings,
        id::{ClusterId, HostId, MemberId},
        name::default_environment,
        network::NetworkPlan,
        time::Timestamp,
    };
    use coordinator_core::{
        Batch, Command,
        command::{Authority, Genesis},
        level::LEVEL,
    };

    use super::*;

    /// A state with so many keys.
    pub(crate) fn state(keys: usize) -> State {
        let none = || Secret::new(vec![1]);
        let genesis = Genesis {
            cluster: ClusterId([9; 10]),
            authority: Authority { certificate: vec![1], key: none(), join_certificate: vec![1], join_key: none() },
            settings: Settings::default(),
            network: NetworkPlan::default(),
            member: MemberId(1),
            address: ([10, 0, 0, 1], 7443).into(),
            host: HostId([1; 10]),
            name: "h1".parse().expect("a name"),
            level: LEVEL,
        };
        let put = |number: usize| Command::PutKey {
            environment: default_environment(),
            key: format!("key-{number:05}").into(),
            value: vec![b'v'; 50].into(),
        };
        let commands = std::iter::once(Command::Initialize(Box::new(genesis))).chain((0..keys).map(put));
        let mut state = State::default();
        state.apply(&Batch { at: Timestamp(1000), proposals: commands.map(Into::into).collect() });
        assert_eq!(state.keys().len(), keys);
        state
    }
}
