//! A cluster that begins again with this host alone: from a backup, or from what the store of this host's member holds.
//!
//! All of it is written to a folder beside the state, which is marked as complete at its end. Only then its parts are
//! moved to their places, the identity last. A crash leaves a host as it was before, or one that the next start
//! completes.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::{
    error::{Code, Problem},
    id::{HostId, MemberId},
    name::Name,
    secret::Secret,
    time::Span,
    token::{ApiToken, JoinRole, JoinToken, SecretHash, TokenId},
};
use coordinator_core::{
    Batch, Command, Outcome, State,
    command::{Access, NewJoinToken},
    level,
    state::Rebuilding,
    view,
};
use futures::future::join_all;
use link::{
    Transport,
    clock::now,
    file,
    identity::{host_of_key, make_request, random_bytes, sign},
    keyring::{Further, Keyring},
};

use crate::{
    Config,
    birth::store_problem,
    join, raft,
    seal::{self, Seals},
};

/// The folder in which everything is prepared.
const FOLDER: &str = "rebuilding";
/// The file in it that says that nothing is missing.
const COMPLETE: &str = "complete";
/// What is moved to the state folder, in this order.
const PARTS: [&str; 4] = ["snapshots", "raft", "raft-made", "identity"];
/// How long a coordinator of the lost cluster has to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// What a cluster begins again from, and where.
pub struct Plan {
    /// The state.
    pub state: State,
    /// The file of its sealing key, unless it is in its place already.
    pub sealing_key: Option<Secret<Vec<u8>>>,
    /// What the state is, as the history tells it.
    pub from: String,
    /// The key of this host (PKCS #8).
    pub key: Secret<Vec<u8>>,
    /// This host's name, unless it takes the place of another host.
    pub name: Name,
    /// The host whose place it takes.
    pub replaces: Option<HostId>,
    /// How long the instances of hosts that have not returned are not replaced.
    pub waits: Span,
}

/// How a host whose wharf was lost comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The host.
    pub host: Name,
    /// What it becomes.
    pub role: JoinRole,
    /// The line to paste on it.
    pub line: String,
}

/// A cluster that is ready to begin again.
pub struct Rebuilt {
    /// The identity of this host in it.
    pub keyring: Keyring,
    /// A new admin token.
    pub admin: ApiToken,
    /// How the other hosts come back whose wharf was lost as well.
    pub lines: Vec<Line>,
    state: State,
    sealing_key: Option<Secret<Vec<u8>>>,
}

fn failed(why: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InstallFailed, "The cluster cannot begin again here").why(why.to_string())
}

/// The host of a state whose place this host takes: the one that is named, or has its name, or was alone on
/// this machine.
pub fn plan_of(
    state: &State,
    wanted: Option<&str>,
    (own, machine): (&Name, [u8; 16]),
) -> Result<Option<HostId>, Problem> {
    let find = |fits: &dyn Fn(&HostId, &coordinator_core::state::Host) -> bool| {
        state.hosts().iter().find(|(id, host)| fits(id, host)).map(|(id, _)| *id)
    };
    if let Some(wanted) = wanted {
        let found = find(&|id, host| host.name.as_str() == wanted || id.to_string() == wanted);
        return found.map(Some).ok_or_else(|| {
            let names: Vec<&str> = state.hosts().values().map(|host| host.name.as_str()).collect();
            Problem::new(Code::NotFound, format!("There is no host {wanted} in the backup"))
                .why(format!("its hosts are {}", names.join(", ")))
        });
    }
    let on_machine = state.hosts().iter().filter(|(_, host)| host.machine == Some(machine)).map(|(id, _)| *id);
    let on_machine: Vec<HostId> = on_machine.collect();
    // Clones of one disk may have the same machine id.
    let alone = on_machine.first().copied().filter(|_| on_machine.len() == 1);
    Ok(find(&|_, host| host.name == *own).or(alone))
}

/// Decides how the cluster begins again with the coordinator that is described by `config`. Nothing is written.
pub fn rebuild(plan: Plan, config: &Config) -> Result<Rebuilt, Problem> {
    let Plan { state, sealing_key, from, key, name, replaces, waits } = plan;
    let host = host_of_key(&key).map_err(failed)?;
    let address = config.advertise;
    let lost = state.clone();
    let rebuilding = Rebuilding { from, at: now(), host, name, replaces, address, waits };
    let (mut state, member) = state.rebuilt(&rebuilding)?;
    let identity = state.identity().cloned().ok_or_else(|| failed("the state has no cluster"))?;
    let request = make_request(&key).map_err(failed)?;
    let seals = match &sealing_key {
        Some(file) => Seals::of_file(file)?,
        None => Seals::load(&config.keys, identity.id)?,
    };
    let root = seals.root(&identity.authority)?;
    let certificate = sign(&root, identity.id, &request, Some(member), now()).map_err(failed)?;
    let admin = ApiToken { id: TokenId(random_bytes()), secret: Secret::new(random_bytes()) };
    let command = Command::PutApiToken {
        id: admin.id,
        name: Name::parse("rebuilt").expect("it is a name"),
        access: Access::Admin,
        secret: SecretHash::of(&admin.secret),
    };
    apply(&mut state, command)?;
    let lines = make_lines(&mut state, &lost, (host, address), waits)?;
    let name = state.hosts().get(&host).map(|host| host.name.clone()).ok_or_else(|| failed("it has no place"))?;
    let keyring = Keyring {
        cluster: identity.id,
        host,
        member: Some(member),
        name,
        certificate,
        key,
        root: identity.authority.certificate.clone(),
        coordinators: vec![address],
        advertise: Some(address),
        further: Further::default(),
    };
    Ok(Rebuilt { keyring, admin, lines, state, sealing_key })
}

fn apply(state: &mut State, command: Command) -> Result<(), Problem> {
    let batch = Batch { at: now(), proposals: vec![command.into()] };
    match state.apply(&batch).into_iter().next() {
        Some(Outcome::Rejected(problem)) => Err(problem),
        _ => Ok(()),
    }
}

/// Makes a join token for every other host, and the line with it. Hosts that were coordinators become one again.
fn make_lines(
    state: &mut State,
    lost: &State,
    (own, address): (HostId, SocketAddr),
    valid: Span,
) -> Result<Vec<Line>, Problem> {
    let (Some(root), Some(pin)) = (join::root_pin(state), join::join_pin(state)) else { return Ok(Vec::new()) };
    if state.level() < level::BACKUPS {
        return Ok(Vec::new());
    }
    let others: Vec<(HostId, Name)> =
        state.hosts().iter().filter(|(id, _)| **id != own).map(|(id, host)| (*id, host.name.clone())).collect();
    let mut lines = Vec::new();
    for (replaces, host) in others {
        let role = if lost.member_on(replaces).is_some() { JoinRole::Coordinator } else { JoinRole::Agent };
        let token = JoinToken { id: TokenId(random_bytes()), pin: root, secret: Secret::new(random_bytes()) };
        let new = NewJoinToken {
            id: token.id,
            secret: SecretHash::of(&token.secret),
            role,
            expires_at: now() + valid,
            max_uses: 1,
            labels: Default::default(),
            from: None,
        };
        apply(state, Command::PutReplacingToken { token: Box::new(new), replaces })?;
        lines.push(Line { host, role, line: join::install_line(&pin, address, &token.reveal()) });
    }
    lines.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(lines)
}

/// The coordinators of a state that answer with the cluster's identity.
pub async fn answering(state: &State, own: SocketAddr, transport: Arc<dyn Transport>) -> Vec<SocketAddr> {
    let others = view::coordinators(state).into_iter().filter(|address| *address != own);
    let asked = others.map(|address| {
        let transport = transport.clone();
        async move {
            let dialled = tokio::time::timeout(ANSWERS_WITHIN, transport.dial(address)).await;
            // The handshake succeeds only with a certificate of the cluster's root.
            matches!(dialled, Ok(Ok(connection)) if connection.peer().member.is_some()).then_some(address)
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

impl Rebuilt {
    /// The only member.
    pub fn member(&self) -> Option<MemberId> {
        self.keyring.member
    }

    /// Writes everything. What was in its place before is kept beside; returns where.
    pub async fn write(self, config: &Config) -> Result<Vec<PathBuf>, Problem> {
        let folder = config.state.join(FOLDER);
        file::if_there(fs::remove_dir_all(&folder)).map_err(failed)?;
        link::private::ensure_folder(&folder).map_err(failed)?;
        let member = self.keyring.member.ok_or_else(|| failed("it has no member"))?;
        raft::make_store(&folder, (member, config.advertise), self.state).await.map_err(store_problem)?;
        self.keyring.save(&folder).map_err(failed)?;
        if let Some(key) = &self.sealing_key {
            seal::put_file(&config.keys, self.keyring.cluster, key).map_err(failed)?;
        }
        file::replace(&folder.join(COMPLETE), b"").map_err(failed)?;
        finish(&config.state)
    }
}

/// Moves what was prepared to its place, if it is complete. What was there before is kept; returns where.
pub fn finish(state: &Path) -> Result<Vec<PathBuf>, Problem> {
    let folder = state.join(FOLDER);
    if !folder.join(COMPLETE).exists() {
        return Ok(Vec::new());
    }
    let kept = move_parts(state, &folder).map_err(failed)?;
    fs::remove_dir_all(&folder).map_err(failed)?;
    Ok(kept)
}

fn move_parts(state: &Path, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut kept = Vec::new();
    for part in PARTS {
        let (from, to) = (folder.join(part), state.join(part));
        if !from.try_exists()? {
            continue;
        }
        if to.try_exists()? {
            let free = (1..).map(|number| state.join(format!("{part}.before-{number}"))).find(|path| !path.exists());
            if let Some(aside) = free {
                fs::rename(&to, &aside)?;
                kept.push(aside);
            }
        }
        fs::rename(&from, &to)?;
    }
    // The agent has to learn its host's work from the new coordinator, whatever it did before: its ledger stays.
    fs::File::open(state)?.sync_all()?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_prepared_is_moved_once_it_is_complete_and_nothing_is_overwritten() {
        let state = tempfile::tempdir().expect("a folder");
        let (state, folder) = (state.path(), state.path().join(FOLDER));
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
            fs::write(path, text).expect("it is written");
        };
        let read = |path: &str| fs::read_to_string(state.join(path)).unwrap_or_default();
        write(state.join("raft/log"), "old");
        write(state.join("identity"), "old");
        write(folder.join("raft/log"), "new");
        write(folder.join("identity"), "new");
        assert!(finish(state).expect("nothing is done").is_empty());
        assert_eq!((read("raft/log"), read("identity")), ("old".to_owned(), "old".to_owned()), "it is not complete");
        write(folder.join(COMPLETE), "");
        // A crash after the first part.
        fs::rename(state.join("raft"), state.join("raft.before-1")).expect("is renamed");
        fs::rename(folder.join("raft"), state.join("raft")).expect("is renamed");
        let kept = finish(state).expect("it goes on");
        assert_eq!(kept, [state.join("identity.before-1")]);
        assert_eq!((read("raft/log"), read("identity")), ("new".to_owned(), "new".to_owned()));
        assert_eq!((read("raft.before-1/log"), folder.exists()), ("old".to_owned(), false));
    }
}
