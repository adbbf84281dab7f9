//! How a cluster comes into being, and what a coordinator settles at its start.

use link::clock::now;
use std::{net::SocketAddr, path::Path, time::Duration};

use common::{
    codec::Format,
    error::{Code, Problem},
    id::{ClusterId, MemberId},
    name::Name,
    secret::Secret,
    token::{ApiToken, SecretHash, TokenId},
};
use coordinator_core::{
    Command, RequestId,
    command::{Access, Authority, Genesis},
    level::{self, LEVEL},
};
use link::{
    file,
    identity::{
        Certified, IdentityError, host_of_key, make_join_certificate, make_request, make_root, random_bytes, sign,
    },
    keyring::{Keyring, pending_key},
};
use serde::{Deserialize, Serialize};

use crate::{
    Config,
    raft::{Consensus, StoreError},
    seal,
};

/// How the file of a new cluster is sealed.
pub const GENESIS_FORMAT: Format = Format { magic: b"WGEN", version: 1, limit: 64 << 10 };
const GENESIS_FILE: &str = "genesis";

/// What a new cluster is made of, on disk until it lies in the replicated state.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct GenesisFile {
    /// The first command.
    pub genesis: Genesis,
    /// The admin token.
    pub admin: (TokenId, SecretHash),
}

/// A new cluster's first host and its admin token, which is shown once.
pub struct Newborn {
    /// The first host's keyring, already on disk.
    pub keyring: Keyring,
    /// The admin token.
    pub admin: ApiToken,
}

fn internal(what: &str, why: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InstallFailed, what).why(why.to_string())
}

/// Makes a cluster on this host. Nothing is shared yet: a crash before the end leaves a host that
/// belongs to no cluster, and the next call begins anew.
pub fn make_cluster(config: &Config, name: Name) -> Result<Newborn, Problem> {
    let failed = |why: &dyn std::fmt::Display| internal("The cluster cannot be created", why);
    let (cluster, member) = (ClusterId(random_bytes()), MemberId(1));
    let authority = make_authority(cluster).map_err(|e| failed(&e))?;
    let root = Certified { certificate: authority.certificate.clone(), key: authority.key.clone() };
    let authority = seal_authority(config, cluster, &authority)?;
    let key = pending_key(&config.state).map_err(|e| failed(&e))?;
    let host = host_of_key(&key).map_err(|e| failed(&e))?;
    let request = make_request(&key).map_err(|e| failed(&e))?;
    let certificate = sign(&root, cluster, &request, Some(member), now()).map_err(|e| failed(&e))?;
    let admin = ApiToken { id: TokenId(random_bytes()), secret: Secret::new(random_bytes()) };
    let genesis = Genesis {
        cluster,
        authority,
        settings: config.settings,
        network: config.network,
        member,
        address: config.advertise,
        host,
        name: name.clone(),
        level: LEVEL,
    };
    let file = GenesisFile { genesis, admin: (admin.id, SecretHash::of(&admin.secret)) };
    let bytes = GENESIS_FORMAT.seal(&file).map_err(|e| failed(&e))?;
    file::replace(&config.state.join(GENESIS_FILE), &bytes).map_err(|e| failed(&e))?;
    let keyring = Keyring {
        cluster,
        host,
        member: Some(member),
        name,
        certificate,
        key,
        root: root.certificate,
        coordinators: vec![config.advertise],
        advertise: Some(config.advertise),
        further: Default::default(),
    };
    keyring.save(&config.state).map_err(|e| failed(&e))?;
    Ok(Newborn { keyring, admin })
}

/// Seals the authority's keys with the first sealing key, which it makes: they lie open in no file.
fn seal_authority(config: &Config, cluster: ClusterId, authority: &Authority) -> Result<Authority, Problem> {
    let made = seal::make(&config.keys, cluster);
    let seals = made.map_err(|error| internal("The cluster cannot be created", error))?;
    seals.first().map_or_else(|| Ok(authority.clone()), |by| seals.sealed(by, authority))
}

/// Makes the keys that all coordinators of a new cluster will share.
fn make_authority(cluster: ClusterId) -> Result<Authority, IdentityError> {
    let (root, join) = (make_root(cluster, now())?, make_join_certificate(now())?);
    Ok(Authority {
        certificate: root.certificate,
        key: root.key,
        join_certificate: join.certificate,
        join_key: join.key,
    })
}

/// Brings a new cluster's first state into the group, if this member has it; again and again until
/// it is there, for the process may die between any two steps.
pub async fn finish(config: &Config, consensus: &Consensus) -> Result<(), Problem> {
    let path = config.state.join(GENESIS_FILE);
    let failed = |why: &dyn std::fmt::Display| internal("The cluster cannot be created", why);
    let Some(bytes) = file::read(&path).map_err(|e| failed(&e))? else { return Ok(()) };
    let GenesisFile { genesis, admin: (id, secret) } = GENESIS_FORMAT.open(&bytes).map_err(|e| failed(&e))?;
    consensus.found(genesis.address).await?;
    let name = Name::parse("admin").expect("it is a name");
    let commands =
        [Command::Initialize(Box::new(genesis)), Command::PutApiToken { id, name, access: Access::Admin, secret }];
    for command in commands {
        match consensus.write(RequestId(random_bytes()), command).await {
            Ok(_) => {}
            Err(problem) if problem.code == Code::Conflict => {}
            Err(problem) => return Err(problem),
        }
    }
    remove(&path).map_err(|e| failed(&e))
}

/// The authority's keys are in the replicated state now; a second copy only adds risk.
fn remove(path: &Path) -> std::io::Result<()> {
    std::fs::remove_file(path)
}

/// Tells the group when this member is reached somewhere else than before.
pub async fn keep_address(consensus: Consensus, address: SocketAddr) {
    loop {
        let published = consensus.current();
        let known = published.cluster.members().get(&consensus.me()).map(|member| member.address);
        if known == Some(address) {
            return;
        }
        if known.is_some() {
            let command = Command::MemberAddress { member: consensus.me(), address };
            if let Err(problem) = consensus.write(RequestId(random_bytes()), command).await {
                tracing::warn!(%problem, "the new address could not be announced; trying again");
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Tells the group which feature levels this binary understands, when that is not known.
pub async fn announce_level(consensus: Consensus) {
    loop {
        let published = consensus.current();
        let known = published.cluster.members().get(&consensus.me()).map(|member| member.level);
        if known == Some(LEVEL) {
            return;
        }
        if known.is_some() {
            let command = Command::MemberUnderstands { member: consensus.me(), level: LEVEL };
            if let Err(problem) = consensus.write(RequestId(random_bytes()), command).await {
                tracing::warn!(%problem, "the feature level could not be announced; trying again");
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Completes when this binary turns out to be too old for the state.
pub async fn is_too_old(consensus: Consensus) -> Problem {
    let mut published = consensus.watch();
    loop {
        if let Some(problem) = level::too_old(&published.borrow_and_update().cluster) {
            return problem;
        }
        if published.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// A store's error in four parts.
pub fn store_problem(error: StoreError) -> Problem {
    match &error {
        StoreError::Corrupt { path, .. } => Problem::new(Code::StoreCorrupt, "This coordinator's store is damaged")
            .why(error.to_string())
            .fix("If it has always been the only coordinator: put a copy of its state folder back that was made while it was stopped")
            .fix("Else: from another coordinator, wharf member rm <id>, then join this host with a new line")
            .fix(format!("Keep {} for analysis; wharf does not change it", path.display())),
        StoreError::Newer { .. } => level::cannot_read(&error),
        StoreError::Foreign { .. } => Problem::new(Code::StoreCorrupt, "The store belongs to another coordinator")
            .why(error.to_string())
            .fix("Give this coordinator its own state folder"),
        StoreError::Failed { .. } => Problem::new(Code::StoreFailed, "This coordinator's store cannot be used")
            .why(error.to_string())
            .fix("Free some space, or check the disk: df -h, dmesg"),
    }
}

/// A listening port that cannot be had, named with its holder.
pub fn port_problem(address: SocketAddr, reason: &str) -> Problem {
    let problem = Problem::new(Code::PortTaken, format!("Cannot listen on {address}"));
    match link::socket::holder_of(address.port()) {
        Some(holder) => problem
            .why(format!("port {} is used by {holder}", address.port()))
            .fix("Stop that process, or choose another port: wharf up --listen"),
        None => problem.why(reason).fix("Choose another address: wharf up --listen"),
    }
}

/// The host joined as an agent.
pub fn not_a_coordinator(keyring: &Keyring) -> Problem {
    Problem::new(Code::MemberRefused, format!("Host {} is not a coordinator", keyring.name))
        .why("it joined as an agent")
        .fix("Run its agent: wharf agent")
}
