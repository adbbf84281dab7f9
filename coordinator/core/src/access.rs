//! Who may do what: one pure function, for the API, for the link, and for writes when they are applied.
//!
//! A certificate says who a peer was when it was made, and lives for a month; a token may be revoked at any time. What
//! they allow is decided anew for each call and each write, by the state.

use common::{
    api::Access,
    id::{HostId, MemberId},
    token::TokenId,
    wire::PeerIdentity,
};
use serde::{Deserialize, Serialize};

use crate::{Command, Proposal, State};

/// Who asks, and has proved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// Somebody with an API token.
    Token(TokenId),
    /// A host, or the coordinator on it.
    Peer(PeerIdentity),
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// A request of the API that needs so much access.
    Api(Access),
    /// To speak for a host, and to get what it runs.
    Host(HostId),
    /// To take part in the group as a member: Raft's messages, and who is in the group.
    Agree(MemberId),
    /// What coordinators alone are told: the newest index, the output of instances, findings, the sealing key.
    Inside,
    /// To have a command proposed by the leader.
    Propose(&'a Proposal),
}

/// Why it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The state does not know who asks: it may be behind.
    #[error("the cluster does not know who asks")]
    Unknown,
    /// The host or the member was removed, for good.
    #[error("who asks was removed from the cluster")]
    Removed,
    /// Who asks may not do this.
    #[error("who asks may not do this")]
    NotAllowed,
}

/// Decides by a state whether somebody may do something. Everything not named is denied.
pub fn authorize(principal: &Principal, action: &Action<'_>, cluster: &State) -> Result<(), Refusal> {
    match (principal, action) {
        (Principal::Token(id), Action::Api(needed)) => {
            let token = cluster.api_tokens().get(id).ok_or(Refusal::Unknown)?;
            allowed_if(token.access >= *needed)
        }
        (Principal::Token(_), _) | (Principal::Peer(_), Action::Api(_)) => Err(Refusal::NotAllowed),
        // A host speaks for itself alone; a coordinator's host has an agent too.
        (Principal::Peer(peer), Action::Host(host)) => {
            allowed_if(peer.host == *host)?;
            host_stands(*host, cluster)
        }
        (Principal::Peer(peer), Action::Agree(member)) => {
            allowed_if(peer.member == Some(*member))?;
            match member_stands(peer, cluster) {
                // A member that is behind learns of newer ones from what they send.
                Err(Refusal::Unknown) => Ok(()),
                decided => decided,
            }
        }
        (Principal::Peer(peer), Action::Inside) => member_stands(peer, cluster),
        (Principal::Peer(peer), Action::Propose(proposal)) => {
            member_stands(peer, cluster)?;
            allowed_if(may_forward(peer, proposal))
        }
    }
}

fn allowed_if(condition: bool) -> Result<(), Refusal> {
    if condition { Ok(()) } else { Err(Refusal::NotAllowed) }
}

fn host_stands(host: HostId, cluster: &State) -> Result<(), Refusal> {
    match (cluster.removed_hosts().contains_key(&host), cluster.hosts().contains_key(&host)) {
        (true, _) => Err(Refusal::Removed),
        (false, true) => Ok(()),
        (false, false) => Err(Refusal::Unknown),
    }
}

/// Members are numbered in turn and never twice: a lower number that is not there was removed.
fn member_stands(peer: &PeerIdentity, cluster: &State) -> Result<(), Refusal> {
    let id = peer.member.ok_or(Refusal::NotAllowed)?;
    match cluster.members().get(&id) {
        Some(member) => allowed_if(member.host == peer.host),
        None if id.0 > cluster.last_member() => Err(Refusal::Unknown),
        None => Err(Refusal::Removed),
    }
}

/// What a coordinator may send to the leader: what a person asked of it, which is authorised again when it is applied,
/// a host that joins by a token, and what it says of itself.
fn may_forward(peer: &PeerIdentity, proposal: &Proposal) -> bool {
    match &proposal.command {
        _ if proposal.by.is_some() => true,
        Command::Admit(_) => true,
        Command::MemberAddress { member, .. }
        | Command::MemberUnderstands { member, .. }
        | Command::RemoveMember(member) => peer.member == Some(*member),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use common::token::SecretHash;

    use super::*;
    use crate::{
        command::Person,
        testing::{Fixture, admission, host, name},
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
        let person = Person { token: TokenId([9; 5]), name: name("ann") };
        let asked = Proposal { request: None, by: Some(person), command: token(7, Access::Admin) };
        let unasked: Proposal = token(7, Access::Admin).into();
        let joins: Proposal = Command::Admit(Box::new(admission(4))).into();
        let leaves: Proposal = Command::RemoveMember(MemberId(3)).into();
        let (read, change) = (Action::Api(Access::Viewer), Action::Api(Access::Admin));
        let (unknown, removed, not) = (Err(Refusal::Unknown), Err(Refusal::Removed), Err(Refusal::NotAllowed));
        let agree = |id| Action::Agree(MemberId(id));
        let cases: [(Principal, Action, Result<(), Refusal>); 32] = [
            (viewer, read, Ok(())),
            (viewer, change, not),
            (admin, change, Ok(())),
            (revoked, read, unknown),
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
            (peer(1, 1), Action::Propose(&asked), Ok(())),
            (peer(1, 1), Action::Propose(&unasked), not),
            (peer(1, 1), Action::Propose(&joins), Ok(())),
            (peer(2, 3), Action::Propose(&leaves), Ok(())),
            (peer(1, 1), Action::Propose(&leaves), not),
            (peer(1, 0), Action::Propose(&joins), not),
            (peer(2, 2), Action::Propose(&asked), removed),
            (peer(4, 4), Action::Propose(&asked), unknown),
            (admin, Action::Propose(&unasked), not),
        ];
        for (principal, action, expected) in cases {
            assert_eq!(authorize(&principal, &action, &cluster), expected, "{principal:?} {action:?}");
        }
        let empty = State::default();
        assert_eq!(authorize(&peer(1, 1), &agree(1), &empty), Ok(()), "who joins knows nobody yet");
        assert_eq!(authorize(&peer(1, 1), &Action::Inside, &empty), unknown);
    }

    #[test]
    fn a_write_of_a_revoked_token_is_refused_when_it_is_applied() {
        let mut fixture = Fixture::of_hosts(1);
        fixture.done(token(1, Access::Viewer));
        fixture.done(token(2, Access::Admin));
        let mut ask = |number: u8, command: Command| {
            let by = Some(Person { token: TokenId([number; 5]), name: name("ann") });
            let proposals = vec![Proposal { request: None, by, command }];
            let outcomes = fixture.cluster.apply(&crate::Batch { at: fixture.now, proposals });
            match outcomes.into_iter().next().expect("an outcome") {
                crate::Outcome::Rejected(problem) => Err(problem.code),
                _ => Ok(()),
            }
        };
        use common::error::Code;
        assert_eq!(ask(1, token(3, Access::Admin)), Err(Code::Denied), "it may only read");
        assert_eq!(ask(2, token(3, Access::Admin)), Ok(()));
        assert_eq!(ask(2, Command::RemoveApiToken(TokenId([2; 5]))), Ok(()));
        assert_eq!(ask(2, token(4, Access::Admin)), Err(Code::Unauthenticated), "it was revoked before");
        assert!(!fixture.cluster.api_tokens().contains_key(&TokenId([4; 5])));
    }
}
