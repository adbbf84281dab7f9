//! Who may do what: one pure function, for the API, for the link, and for every command when it is applied.
//!
//! A certificate says who a peer was when it was made, and lives for a month; a token may be revoked at any time. So
//! what they may do is decided by the state for each call and for each command.

mod needs;

use common::{
    error::{Code, Problem},
    id::{HostId, MemberId},
    role::{Grant, Permission, Resource},
    token::TokenId,
    upgrade::BinaryHash,
    wire::PeerIdentity,
};
use serde::{Deserialize, Serialize};

use crate::{Command, Proposal, State, command::Person};

pub use needs::{Need, needs};

/// Somebody whose identity is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// A person or a program with an API token.
    Token(TokenId),
    /// The agent of a host, or the coordinator on it, by its certificate.
    Peer(PeerIdentity),
    /// The cluster: what its leader decides.
    Cluster,
}

/// What a principal wants to do.
#[derive(Debug, Clone)]
pub enum Action<'a> {
    /// To make a request of the API that needs a permission.
    Api(Permission, &'a Resource),
    /// To have a command applied.
    Change(&'a Command),
    /// To speak for a host, and to get what it runs.
    Host(HostId),
    /// To take part in the group as a member: Raft's messages, and who is in the group.
    Agree(MemberId),
    /// To read what coordinators alone may: the newest index, the output of instances, findings, the sealing key.
    Inside,
    /// To hand a proposal to the leader.
    Forward(&'a Proposal),
    /// To read a binary: the one of the running upgrade, and no other.
    Binary(BinaryHash),
}

/// Why an action is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The state does not know the principal: the state may be behind.
    #[error("the cluster does not know the caller")]
    Unknown,
    /// The host or the member was removed, for good.
    #[error("the caller was removed from the cluster")]
    Removed,
    /// The principal may not do this.
    #[error("the caller may not do this")]
    NotAllowed,
}

/// Decides by a state whether a principal may do something. Everything that is not named here is denied.
pub fn authorize(principal: &Principal, action: &Action<'_>, state: &State) -> Result<(), Refusal> {
    match (principal, action) {
        (Principal::Token(id), Action::Api(permission, resource)) => {
            allowed_if(grant_of(*id, state)?.permits(*permission, resource))
        }
        (Principal::Token(id), Action::Change(command)) => {
            let grant = grant_of(*id, state)?;
            allowed_if(lacking(grant, command, state).is_none() && !needs(command).is_empty())
        }
        (Principal::Cluster, Action::Change(_)) => Ok(()),
        // A host speaks for itself alone; a coordinator's host has an agent too.
        (Principal::Peer(peer), Action::Host(host)) => {
            allowed_if(peer.host == *host)?;
            host_stands(*host, state)
        }
        (Principal::Peer(peer), Action::Agree(member)) => {
            allowed_if(peer.member == Some(*member))?;
            match member_stands(peer, state) {
                // A member that is behind learns of newer ones from what they send.
                Err(Refusal::Unknown) => Ok(()),
                decided => decided,
            }
        }
        (Principal::Peer(peer), Action::Inside) => member_stands(peer, state),
        (Principal::Peer(peer), Action::Binary(hash)) => {
            host_stands(peer.host, state)?;
            allowed_if(state.upgrade().is_some_and(|run| run.is_open() && run.target.hash == *hash))
        }
        (Principal::Peer(peer), Action::Forward(proposal)) => {
            member_stands(peer, state)?;
            allowed_if(may_forward(peer, proposal))
        }
        (Principal::Token(_) | Principal::Cluster | Principal::Peer(_), _) => Err(Refusal::NotAllowed),
    }
}

fn allowed_if(condition: bool) -> Result<(), Refusal> {
    if condition { Ok(()) } else { Err(Refusal::NotAllowed) }
}

fn grant_of(id: TokenId, state: &State) -> Result<&Grant, Refusal> {
    state.api_tokens().get(&id).map(|token| &token.grant).ok_or(Refusal::Unknown)
}

/// The first thing that a command needs and a grant does not have.
fn lacking(grant: &Grant, command: &Command, state: &State) -> Option<Need> {
    let missing = needs(command).into_iter().find(|need| !grant.permits(need.permission, &need.resource));
    missing.or_else(|| {
        let touched = match command {
            Command::PutToken { grant, .. } => Some(grant.clone()),
            Command::PutApiToken { access, .. } => Some(access.grant()),
            Command::RemoveApiToken(id) => state.api_tokens().get(id).map(|token| token.grant.clone()),
            _ => None,
        };
        let touched = touched.filter(|touched| !grant.covers(touched))?;
        let because = Some(format!("the other token has the role {touched}"));
        Some(Need { permission: Permission::Manage, resource: Resource::Cluster, because })
    })
}

/// The refusal of a command that a person asked for, in words.
pub fn explain(person: &Person, refusal: Refusal, command: &Command, state: &State) -> Problem {
    let refused = |code, why: String| Problem::new(code, "The change was not made").why(why);
    let Ok(grant) = grant_of(person.token, state) else {
        return refused(Code::Unauthenticated, format!("the token {} was revoked", person.name))
            .fix("Use another token: wharf token create");
    };
    match lacking(grant, command, state) {
        Some(need) => {
            let problem = refused(Code::Denied, lack(person, grant));
            need.because.iter().fold(problem, Problem::why).fix(remedy(need.permission, &need.resource))
        }
        None => refused(Code::Denied, refusal.to_string()),
    }
}

/// What a token has, for the person who was refused.
pub fn lack(person: &Person, grant: &Grant) -> String {
    format!("the token {} has the role {grant}", person.name)
}

/// The token that a refused action needs, in words.
pub fn remedy(permission: Permission, resource: &Resource) -> String {
    let roles: Vec<&str> = permission.roles().map(|role| role.word()).collect();
    let place = match resource {
        Resource::Cluster => " for the whole cluster".to_owned(),
        Resource::Environment(name) => format!(" in {name}"),
        Resource::Covered => String::new(),
    };
    format!("Use a token with the role {}{place}: wharf token create", roles.join(" or "))
}

fn host_stands(host: HostId, state: &State) -> Result<(), Refusal> {
    match (state.removed_hosts().contains_key(&host), state.hosts().contains_key(&host)) {
        (true, _) => Err(Refusal::Removed),
        (false, true) => Ok(()),
        (false, false) => Err(Refusal::Unknown),
    }
}

/// Members are numbered in turn and never twice: a lower number that is not there was removed.
fn member_stands(peer: &PeerIdentity, state: &State) -> Result<(), Refusal> {
    let id = peer.member.ok_or(Refusal::NotAllowed)?;
    match state.members().get(&id) {
        Some(member) => allowed_if(member.host == peer.host),
        None if id.0 > state.last_member() => Err(Refusal::Unknown),
        None => Err(Refusal::Removed),
    }
}

/// What a coordinator may hand to the leader: what a token asked of it, which is authorised again when it is applied,
/// a host that joins, and what it says of itself.
fn may_forward(peer: &PeerIdentity, proposal: &Proposal) -> bool {
    match &proposal.command {
        _ if proposal.by.is_some() => true,
        Command::Admit(_) | Command::HostTrusts { .. } => true,
        Command::MemberAddress { member, .. }
        | Command::MemberUnderstands { member, .. }
        | Command::BackupEnded { member, .. }
        | Command::HoldsSealingKey { member, .. }
        | Command::RemoveMember(member) => peer.member == Some(*member),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::{
        error::Code,
        id::StackId,
        role::Role,
        spec::{MountSource, MountSpec, ServiceSpec, StackSpec, VolumeSpec},
        token::SecretHash,
        upgrade::Target,
    };

    use super::*;
    use crate::{
        command::Access,
        testing::{Fixture, admission, host, name, stack, web},
    };

    fn token(number: u8, access: Access) -> Command {
        let (id, secret) = (TokenId([number; 5]), SecretHash([number; 32]));
        Command::PutApiToken { id, name: name("ann"), access, secret }
    }

    /// Hosts 1 and 2 are there, 3 was removed; of the coordinators, 1 and 3 are there and 2 was removed.
    fn state() -> State {
        let mut fixture = Fixture::of_hosts(3);
        let member = |of| crate::state::Member::new(host(of), admission(of).address);
        fixture.cluster.set_members([(MemberId(1), member(1)), (MemberId(3), member(2))].into_iter().collect(), 3);
        fixture.done(Command::RemoveHost(host(3)));
        fixture.done(token(1, Access::Viewer));
        fixture.done(token(2, Access::Admin));
        fixture.cluster
    }

    #[test]
    fn who_may_do_what_is_decided_by_the_state() {
        let cluster = state();
        let peer = |of: u8, member: u64| {
            Principal::Peer(PeerIdentity { host: host(of), member: (member > 0).then_some(MemberId(member)) })
        };
        let viewer = Principal::Token(TokenId([1; 5]));
        let admin = Principal::Token(TokenId([2; 5]));
        let revoked = Principal::Token(TokenId([9; 5]));
        let person = Person { token: TokenId([9; 5]), name: name("ann"), from: None };
        let asked = Proposal { request: None, by: Some(person), command: token(7, Access::Admin) };
        let unasked: Proposal = token(7, Access::Admin).into();
        let joins: Proposal = Command::Admit(Box::new(admission(4))).into();
        let leaves: Proposal = Command::RemoveMember(MemberId(3)).into();
        let everything = Resource::Cluster;
        let read = Action::Api(Permission::Read, &everything);
        let change = Action::Api(Permission::Manage, &everything);
        let internal = Command::RaiseLevel(9);
        let (unknown, removed, not) = (Err(Refusal::Unknown), Err(Refusal::Removed), Err(Refusal::NotAllowed));
        let agree = |id| Action::Agree(MemberId(id));
        let cases: [(Principal, Action, Result<(), Refusal>); 39] = [
            (viewer, read.clone(), Ok(())),
            (viewer, change.clone(), not),
            (admin, change, Ok(())),
            (revoked, read.clone(), unknown),
            (viewer, Action::Change(&asked.command), not),
            (admin, Action::Change(&asked.command), Ok(())),
            (revoked, Action::Change(&asked.command), unknown),
            (admin, Action::Change(&internal), not),
            (peer(1, 1), Action::Change(&internal), not),
            (Principal::Cluster, Action::Change(&internal), Ok(())),
            (Principal::Cluster, Action::Inside, not),
            (admin, Action::Inside, not),
            (admin, Action::Host(host(1)), not),
            (peer(1, 1), read, not),
            (peer(1, 0), Action::Host(host(1)), Ok(())),
            (peer(1, 0), Action::Host(host(2)), not),
            (peer(1, 1), Action::Host(host(2)), not),
            (peer(3, 0), Action::Host(host(3)), removed),
            (peer(4, 0), Action::Host(host(4)), unknown),
            (peer(1, 0), Action::Inside, not),
            (peer(1, 1), Action::Inside, Ok(())),
            (peer(2, 2), Action::Inside, removed),
            (peer(2, 1), Action::Inside, not),
            (peer(4, 4), Action::Inside, unknown),
            (peer(1, 0), agree(1), not),
            (peer(1, 1), agree(1), Ok(())),
            (peer(1, 1), agree(3), not),
            (peer(2, 2), agree(2), removed),
            (peer(2, 1), agree(1), not),
            (peer(4, 4), agree(4), Ok(())),
            (peer(1, 1), Action::Forward(&asked), Ok(())),
            (peer(1, 1), Action::Forward(&unasked), not),
            (peer(1, 1), Action::Forward(&joins), Ok(())),
            (peer(2, 3), Action::Forward(&leaves), Ok(())),
            (peer(1, 1), Action::Forward(&leaves), not),
            (peer(1, 0), Action::Forward(&joins), not),
            (peer(2, 2), Action::Forward(&asked), removed),
            (peer(4, 4), Action::Forward(&asked), unknown),
            (admin, Action::Forward(&unasked), not),
        ];
        for (principal, action, expected) in cases {
            assert_eq!(authorize(&principal, &action, &cluster), expected, "{principal:?} {action:?}");
        }
        let empty = State::default();
        assert_eq!(authorize(&peer(1, 1), &agree(1), &empty), Ok(()), "who joins knows nobody yet");
        assert_eq!(authorize(&peer(1, 1), &Action::Inside, &empty), unknown);
    }

    #[test]
    fn hosts_of_the_cluster_read_the_binary_of_the_running_upgrade_and_no_other() {
        let mut fixture = Fixture { cluster: state(), now: crate::testing::BEGINNING };
        let [wanted, other] = [BinaryHash([1; 32]), BinaryHash([2; 32])];
        let ask = |fixture: &Fixture, of: u8, hash| {
            let peer = Principal::Peer(PeerIdentity { host: host(of), member: None });
            authorize(&peer, &Action::Binary(hash), &fixture.cluster)
        };
        assert_eq!(ask(&fixture, 1, wanted), Err(Refusal::NotAllowed), "there is no upgrade");
        let target = Target { hash: wanted, size: 1, version: "2.0.0".into(), level: crate::level::LEVEL };
        fixture.done(Command::BeginUpgrade(Box::new(target)));
        assert_eq!(ask(&fixture, 1, wanted), Ok(()));
        assert_eq!(ask(&fixture, 1, other), Err(Refusal::NotAllowed));
        assert_eq!(ask(&fixture, 3, wanted), Err(Refusal::Removed));
        assert_eq!(ask(&fixture, 9, wanted), Err(Refusal::Unknown));
        let token = Principal::Token(TokenId([2; 5]));
        assert_eq!(authorize(&token, &Action::Binary(wanted), &fixture.cluster), Err(Refusal::NotAllowed));
        fixture.done(Command::AbortUpgrade);
        assert_eq!(ask(&fixture, 1, wanted), Err(Refusal::NotAllowed), "it has ended");
    }

    #[test]
    fn a_write_of_a_revoked_token_is_refused_when_it_is_applied() {
        let mut fixture = Fixture::of_hosts(1);
        fixture.done(token(1, Access::Viewer));
        fixture.done(token(2, Access::Admin));
        let mut ask = |number: u8, command: Command| {
            let by = Some(Person { token: TokenId([number; 5]), name: name("ann"), from: None });
            let proposals = vec![Proposal { request: None, by, command }];
            let outcomes = fixture.cluster.apply(&crate::Batch { at: fixture.now, proposals });
            match outcomes.into_iter().next().expect("an outcome") {
                crate::Outcome::Rejected(problem) => Err(problem.code),
                _ => Ok(()),
            }
        };
        assert_eq!(ask(1, token(3, Access::Admin)), Err(Code::Denied), "it may only read");
        assert_eq!(ask(2, token(3, Access::Admin)), Ok(()));
        assert_eq!(ask(2, Command::RemoveApiToken(TokenId([2; 5]))), Ok(()));
        assert_eq!(ask(2, token(4, Access::Admin)), Err(Code::Unauthenticated), "it was revoked before");
        assert!(!fixture.cluster.api_tokens().contains_key(&TokenId([4; 5])));
    }

    fn grant(role: Role, environments: &[&str]) -> Grant {
        let names = environments.iter().map(|environment| name(environment)).collect();
        Grant { role, environments: (!environments.is_empty()).then_some(names) }
    }

    fn put(environment: &str, change: impl FnOnce(&mut ServiceSpec)) -> Command {
        let id = StackId { environment: name(environment), ..stack() };
        put_spec(id, StackSpec { services: [(name("web"), web(change))].into(), ..StackSpec::default() })
    }

    fn put_spec(id: StackId, spec: StackSpec) -> Command {
        let what = "deployed".to_owned();
        Command::PutStack { id, spec: Arc::new(spec), files: vec![], expect_revision: None, what, goes_back: false }
    }

    #[test]
    fn a_token_changes_what_its_grant_covers_and_nothing_else() {
        let mut fixture = Fixture::of_hosts(1);
        fixture.done(Command::PutEnvironment(name("staging")));
        fixture.done(Command::PutEnvironment(name("production")));
        let grants = [
            grant(Role::Viewer, &[]),
            grant(Role::Operator, &[]),
            grant(Role::Deployer, &["staging"]),
            grant(Role::Deployer, &[]),
            grant(Role::Admin, &["staging"]),
            grant(Role::Admin, &[]),
        ];
        for (number, grant) in grants.iter().enumerate() {
            let (id, secret) = (TokenId([number as u8; 5]), SecretHash([7; 32]));
            fixture.done(Command::PutToken { id, name: name("ci"), grant: grant.clone(), secret });
        }
        let staging_web = StackId { environment: name("staging"), ..stack() }.service(name("web"));
        let volume = VolumeSpec { external: true, ..VolumeSpec::default() };
        let foreign = StackSpec { volumes: [(name("data").into(), volume)].into(), ..StackSpec::default() };
        let new_token = |grant: Grant| Command::PutToken {
            id: TokenId([99; 5]),
            name: name("new"),
            grant,
            secret: SecretHash([7; 32]),
        };
        // In the order of the grants: viewer, operator, deployer of staging, deployer, admin of staging, admin.
        let cases: [(&str, Command, &str); 16] = [
            ("deploys in staging", put("staging", |_| ()), "..yyyy"),
            ("deploys in production", put("production", |_| ()), "...y.y"),
            ("joins production", put("staging", |web| web.joins = [name("production")].into()), "...y.y"),
            ("is privileged", put("staging", |web| web.container.isolation.privileged = true), "...y.y"),
            ("logs elsewhere", put("staging", |web| web.container.log.driver = Some("syslog".into())), "...y.y"),
            ("mounts what is another's", put_spec(staging_web.stack.clone(), foreign), "...y.y"),
            ("scales", Command::ScaleService { id: staging_web.clone(), replicas: 2 }, ".yyyyy"),
            ("retries", Command::Retry(staging_web.clone()), ".yyyyy"),
            ("rebalances", Command::Rebalance { services: vec![staging_web] }, ".yyyyy"),
            ("drains", Command::SetAvailability { host: host(1), availability: Default::default() }, ".y...y"),
            ("removes a host", Command::RemoveHost(host(1)), ".....y"),
            ("makes another environment", Command::PutEnvironment(name("third")), ".....y"),
            ("makes a viewer there", new_token(grant(Role::Viewer, &["staging"])), "....yy"),
            ("makes a viewer of all", new_token(grant(Role::Viewer, &[])), ".....y"),
            ("ends the admin's token", Command::RemoveApiToken(TokenId([5; 5])), ".....y"),
            ("places an instance itself", Command::RaiseLevel(9), "......"),
        ];
        for (what, command, expected) in cases {
            let may = |number: usize| {
                let principal = Principal::Token(TokenId([number as u8; 5]));
                authorize(&principal, &Action::Change(&command), &fixture.cluster).is_ok()
            };
            let found: String = (0..grants.len()).map(|number| if may(number) { 'y' } else { '.' }).collect();
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_missing_and_which_token_has_it() {
        let mut fixture = Fixture::of_hosts(1);
        fixture.done(Command::PutEnvironment(name("staging")));
        let (id, secret) = (TokenId([1; 5]), SecretHash([1; 32]));
        fixture.done(Command::PutToken { id, name: name("ci"), grant: grant(Role::Deployer, &["staging"]), secret });
        let person = Person { token: id, name: name("ci"), from: None };
        let refused = |command: &Command| {
            let problem = fixture.cluster.allows(Some(&person), command).expect_err("it is refused");
            assert_eq!(problem.code, Code::Denied);
            problem.to_string()
        };
        let bind = |web: &mut ServiceSpec| {
            web.container.mounts = vec![MountSpec::of(MountSource::Bind("/etc".into()), "/etc")]
        };
        let text = refused(&put("staging", bind));
        for part in [
            "the token ci has the role deployer in staging",
            "web mounts /etc of its host",
            "deployer or admin for the whole cluster",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let text = refused(&Command::RemoveHost(host(1)));
        assert!(text.contains("a token with the role admin for the whole cluster"), "{text}");
    }

    #[test]
    fn a_grant_ends_with_its_environment() {
        let mut fixture = Fixture::of_hosts(1);
        for (number, environments) in [(1, &["a", "b"][..]), (2, &["b"])] {
            for environment in environments {
                fixture.done(Command::PutEnvironment(name(environment)));
            }
            let (id, secret) = (TokenId([number; 5]), SecretHash([1; 32]));
            fixture.done(Command::PutToken { id, name: name("ci"), grant: grant(Role::Viewer, environments), secret });
        }
        fixture.done(Command::RemoveEnvironment(name("b")));
        let left: Vec<String> = fixture.cluster.api_tokens().values().map(|token| token.grant.to_string()).collect();
        assert_eq!(left, ["viewer in a"], "who comes back under the name gets nothing from the old tokens");
        let nowhere = Command::PutToken {
            id: TokenId([3; 5]),
            name: name("ci"),
            grant: grant(Role::Viewer, &["b"]),
            secret: SecretHash([1; 32]),
        };
        assert!(fixture.refused(nowhere).contains("There is no environment b"));
    }
}
