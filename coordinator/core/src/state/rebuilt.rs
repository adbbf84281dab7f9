//! The state of a cluster that begins again with one coordinator: from a backup, or from the store of the member that
//! survived the others.
//!
//! Nothing that the cluster gave out after that state may be given out a second time, so all numbers jump ahead of what
//! may have been given out since: member ids, incarnations, and the index. An agent takes no assignment that is older
//! than the one it has, so one that has heard the rebuilt cluster takes none from members of the old one any more.

use std::{collections::BTreeSet, net::SocketAddr};

use common::{
    error::{Code, Problem},
    host::Liveness,
    id::{HostId, MemberId},
    name::Name,
    time::{Span, Timestamp},
    token::TokenId,
};

use super::{Member, State, not_found};
use crate::level;

/// More changes than any cluster makes between a backup and its restoration, at the least.
const INDEX_JUMP: u64 = 1 << 30;
/// More changes than any cluster makes in a second: the index of a cluster that is rebuilt follows from the time, so of
/// two that were rebuilt from one backup the later one is ahead.
const CHANGES_A_SECOND: u64 = 1 << 20;
/// More coordinators than join in that time.
const MEMBER_JUMP: u64 = 1000;
/// More instances than fill a slot in that time.
const INCARNATION_JUMP: u64 = 1_000_000;

/// Where a cluster begins again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilding {
    /// What it begins from, as its history tells it.
    pub from: String,
    /// The time.
    pub at: Timestamp,
    /// The host of its only coordinator, by its key.
    pub host: HostId,
    /// What that host is called, unless it takes the place of another one.
    pub name: Name,
    /// The host whose place it takes.
    pub replaces: Option<HostId>,
    /// Where the coordinator is reached.
    pub address: SocketAddr,
    /// How long the instances of hosts that have not returned are not replaced.
    pub waits: Span,
}

impl State {
    /// The state with which a cluster begins again, and the id of its only member.
    pub fn rebuilt(&self, by: &Rebuilding) -> Result<(State, MemberId), Problem> {
        if self.identity().is_none() {
            return Err(Problem::new(Code::NotFound, "There is no cluster in this state"));
        }
        if let Some(problem) = level::too_old(self) {
            return Err(problem);
        }
        let mut state = self.clone();
        let now = state.basics.clock.max(by.at);
        state.basics.clock = now;
        let index = (state.index() + INDEX_JUMP).max(now.0 / 1000 * CHANGES_A_SECOND);
        state.skip_indices(index - state.index());
        state.work.skip_incarnations(INCARNATION_JUMP);
        state.await_all_hosts(now);
        state.seat(by)?;
        if state.level() >= level::BACKUPS {
            state.note_rebuilt(now, by.waits, self.coordinators_ever_lost());
        }
        state.revoke_join_tokens();
        let id = MemberId(state.last_member() + MEMBER_JUMP);
        let member = Member { level: level::LEVEL, ..Member::new(by.host, by.address) };
        state.fleet.begin_again_with(id, member);
        let message = format!("the cluster begins again with coordinator {id} alone, from {}", by.from);
        state.record("cluster", "cluster-rebuilt", message);
        state.enter_rebuilt(&by.from);
        Ok((state, id))
    }

    /// Where its coordinators listen, and those that it has lost before.
    fn coordinators_ever_lost(&self) -> Vec<SocketAddr> {
        let present = self.members().values().map(|member| member.address);
        let all: BTreeSet<SocketAddr> = present.chain(self.lost_coordinators()).collect();
        all.into_iter().collect()
    }

    /// Whether an index is that of a cluster which was rebuilt from this state, or from one close to it. A coordinator that
    /// has just joined has no state yet, and belongs to no other group, also where a lost one listened before it.
    pub fn is_superseded_by(&self, member: MemberId, index: u64) -> bool {
        let is_older = index >= self.index().saturating_add(INDEX_JUMP / 2);
        self.identity().is_some() && member.0 > self.last_member() && is_older
    }

    /// Gives the host of the only coordinator its place.
    fn seat(&mut self, by: &Rebuilding) -> Result<(), Problem> {
        if self.removed_hosts().contains_key(&by.host) {
            return Err(Problem::new(Code::HostRemoved, "This host was removed from the cluster")
                .why("its key is refused for good")
                .fix("On this host: wharf agent reset-identity, then try again"));
        }
        // They are forgotten; and none of them keeps the place of its host.
        self.fleet.forget_members();
        match by.replaces {
            Some(host) if host == by.host => Ok(()),
            Some(_) if self.hosts().contains_key(&by.host) => {
                Err(Problem::new(Code::Conflict, "This host has a place in the cluster already")
                    .why("it cannot take that of another host"))
            }
            Some(host) => self.take_place(host, by.host),
            None if self.hosts().contains_key(&by.host) => Ok(()),
            None => self.admit_host(by.host, self.free_host_name(&by.name), Default::default()),
        }
    }

    /// Treats all hosts as ones that will return: none was heard yet.
    fn await_all_hosts(&mut self, now: Timestamp) {
        let ids: Vec<HostId> = self.hosts().keys().copied().collect();
        for id in ids {
            self.fleet.expect_back(id, now);
        }
    }

    /// A token that was used up after the backup was made would admit once more.
    fn revoke_join_tokens(&mut self) {
        let valid = self.join_tokens().iter().filter(|(_, token)| !token.revoked && token.expires_at > self.clock());
        for id in valid.map(|(id, _)| *id).collect::<Vec<TokenId>>() {
            // It is there.
            drop(self.revoke_join_token(id));
        }
    }

    /// Gives the place of a host to another one: its name, number, labels, subnet and instances. The containers on its
    /// machine bear the names of those instances, so the new host's agent finds them and lets them run.
    pub(super) fn take_place(&mut self, old: HostId, new: HostId) -> Result<(), Problem> {
        let host = self.hosts().get(&old).ok_or_else(|| not_found("host", old))?;
        let name = host.name.clone();
        let refuse = |why: String, fix: String| {
            Err(Problem::new(Code::Conflict, format!("Host {name} was not replaced")).why(why).fix(fix))
        };
        if let Some(member) = self.member_on(old) {
            let fix = format!("Remove the coordinator first: wharf member rm {member}");
            return refuse(format!("it runs coordinator {member}"), fix);
        }
        if host.liveness == Liveness::Ready {
            let fix = format!("Stop wharf on {name}, and wait until it counts as down: wharf host ls");
            return refuse("its agent's heartbeats arrive".to_owned(), fix);
        }
        self.fleet.take_place(old, new, self.basics.clock);
        self.move_instances(old, new);
        self.forget_binary(old);
        self.record(new, "host-replaced", format!("{name} has a new key; its place and its instances are kept"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use common::{
        instance::{Phase, Verdict},
        spec::{MountSource, MountSpec},
        token::SecretHash,
    };

    use super::*;
    use crate::{
        Command, Moment,
        access::{Action, Principal, Refusal, authorize},
        command::NewJoinToken,
        plan::plan,
        testing::{Fixture, admission, host, instance, name, web},
    };
    use common::{token::JoinRole, wire::PeerIdentity};

    fn by(fixture: &Fixture) -> Rebuilding {
        Rebuilding {
            from: "a backup".to_owned(),
            at: fixture.now + Span::minutes(90),
            host: host(9),
            name: name("h9"),
            replaces: Some(host(1)),
            address: ([10, 0, 0, 9], 7443).into(),
            waits: Span::minutes(60),
        }
    }

    fn running() -> Fixture {
        let mut fixture = Fixture::of_hosts(3);
        fixture.deploy(&[(
            "web",
            web(|web| {
                web.replicas = 3;
                web.max_per_host = Some(1);
            }),
        )]);
        fixture.settle();
        fixture
    }

    fn of_host(state: &State, number: u8) -> Vec<String> {
        state.instances_on(host(number)).map(|(id, _)| id.to_string()).collect()
    }

    #[test]
    fn a_rebuilt_cluster_keeps_everything_but_its_members_and_repeats_no_number() {
        let fixture = running();
        let before = fixture.cluster.clone();
        let (state, member) = before.rebuilt(&by(&fixture)).expect("it is rebuilt");
        assert_eq!(state.members().keys().copied().collect::<Vec<_>>(), [member]);
        assert!(member.0 > before.last_member() && state.last_member() == member.0);
        assert!(state.index() > before.index() + (1 << 30));
        assert_eq!(state.instances().len(), before.instances().len());
        for (slot, record) in before.slots() {
            assert!(state.incarnation(slot) > record.incarnation);
        }
        assert_eq!((state.keys_of_stacks(), state.level()), (before.keys_of_stacks(), before.level()));
        assert!(before.join_tokens().values().any(|token| !token.revoked), "a token admits hosts");
        assert!(state.join_tokens().values().all(|token| token.revoked), "none that is older admits a host");
        assert_eq!(of_host(&state, 9), of_host(&before, 1), "the instances of the old host");
        assert!(of_host(&state, 1).is_empty() && state.removed_hosts().contains_key(&host(1)));
        let place = |state: &State, number| {
            let host = &state.hosts()[&host(number)];
            (host.name.clone(), host.number, host.subnet)
        };
        assert_eq!(place(&state, 9), place(&before, 1));
        let (again, second) = state.rebuilt(&Rebuilding { replaces: None, ..by(&fixture) }).expect("once more");
        assert!(second > member && again.index() > state.index());
        assert!(before.is_superseded_by(member, state.index()) && !state.is_superseded_by(member, state.index()));
        assert!(!before.is_superseded_by(MemberId(before.last_member() + 1), before.index() + 100_000));
        assert!(!State::default().is_superseded_by(member, state.index()), "it has just joined, and has no state yet");
        assert_eq!(state.lost_coordinators().collect::<Vec<_>>(), [SocketAddr::from(([10, 0, 0, 1], 7443))]);
        let bytes = common::codec::encode(&state).expect("it is written");
        assert_eq!(common::codec::decode::<State>(&bytes).expect("it is read"), state);
    }

    impl State {
        fn keys_of_stacks(&self) -> Vec<common::id::StackId> {
            self.stacks().keys().cloned().collect()
        }
    }

    #[test]
    fn members_of_the_old_group_are_refused_whatever_their_number() {
        let fixture = running();
        let (state, member) = fixture.cluster.rebuilt(&by(&fixture)).expect("it is rebuilt");
        for old in [1, 2, 3, 17] {
            let peer = PeerIdentity { host: host(2), member: Some(MemberId(old)) };
            let asked = authorize(&Principal::Peer(peer), &Action::Agree(MemberId(old)), &state);
            assert_eq!(asked, Err(Refusal::Removed), "member {old}");
        }
        let peer = PeerIdentity { host: host(9), member: Some(member) };
        assert_eq!(authorize(&Principal::Peer(peer), &Action::Agree(member), &state), Ok(()));
    }

    #[test]
    fn nothing_is_replaced_before_the_hosts_had_the_time_to_return() {
        let mut fixture = running();
        let (state, _) = fixture.cluster.rebuilt(&by(&fixture)).expect("it is rebuilt");
        (fixture.cluster, fixture.now) = (state, fixture.now + Span::minutes(90));
        let began = fixture.now;
        // h2 does not return; h3 and h9 do.
        let settings = fixture.cluster.settings();
        fixture.now = began + settings.down_after;
        fixture.done(Command::HostLiveness { host: host(2), liveness: Liveness::Down { since: fixture.now } });
        for back in [3, 9] {
            let facts = crate::testing::facts(back);
            fixture.done(Command::HostReported { host: host(back), facts, machine: [back; 16] });
            fixture.done(Command::HostLiveness { host: host(back), liveness: Liveness::Ready });
        }
        let commands = |fixture: &Fixture, at: Timestamp| {
            plan(&fixture.cluster, Moment { now: at, leading_since: began }).commands.len()
        };
        assert_eq!(commands(&fixture, began + Span::minutes(59)), 0, "it is waited for");
        assert!(commands(&fixture, began + Span::minutes(61)) > 0 || fixture.filled().len() == 3);
        assert!(fixture.cluster.returns_until(host(2)) == began + Span::minutes(60));
        assert_eq!(fixture.cluster.returns_until(host(3)), Timestamp(0), "it is back");
    }

    fn replacing(id: u8, replaces: HostId) -> Command {
        let token = NewJoinToken {
            id: TokenId([id; 5]),
            secret: SecretHash([0; 32]),
            role: JoinRole::Agent,
            expires_at: Timestamp(u64::MAX),
            max_uses: 1,
            labels: Default::default(),
            from: None,
        };
        Command::PutReplacingToken { token: Box::new(token), replaces }
    }

    #[test]
    fn a_host_with_a_new_key_takes_the_place_of_the_old_one_and_its_instances() {
        let mut fixture = Fixture::of_hosts(3);
        fixture.deploy(&[(
            "db",
            web(|db| {
                db.replicas = 3;
                db.max_per_host = Some(1);
                db.container.mounts = vec![MountSpec::of(MountSource::Volume(name("data").into()), "/data")];
            }),
        )]);
        fixture.settle();
        let before = fixture.cluster.clone();
        fixture.done(replacing(7, host(2)));
        let admission = crate::command::Admission { token: TokenId([7; 5]), ..admission(8) };
        let refused = fixture.refused(Command::Admit(Box::new(admission.clone())));
        assert!(refused.contains("heartbeats arrive"), "{refused}");
        let since = fixture.now;
        fixture.done(Command::HostLiveness { host: host(2), liveness: Liveness::Down { since } });
        fixture.apply(Command::Admit(Box::new(admission.clone())));
        let state = &fixture.cluster;
        assert_eq!(of_host(state, 8), of_host(&before, 2));
        assert_eq!(state.hosts()[&host(8)].name, name("h2"));
        assert!(!state.hosts().contains_key(&host(2)) && state.removed_hosts().contains_key(&host(2)));
        let homes = |state: &State, of: u8| state.slots().values().filter(|slot| slot.home == Some(host(of))).count();
        assert_eq!((homes(state, 8), homes(state, 2)), (homes(&before, 2), 0));
        // The same key gets the same answer; nobody else gets one.
        fixture.apply(Command::Admit(Box::new(admission.clone())));
        let again = fixture.refused(Command::Admit(Box::new(crate::command::Admission { host: host(7), ..admission })));
        assert!(again.contains("used up"), "{again}");
        fixture.done(Command::HostReported { host: host(8), facts: crate::testing::facts(8), machine: [8; 16] });
        fixture.done(Command::HostLiveness { host: host(8), liveness: Liveness::Ready });
        let state = &fixture.cluster;
        let moved = state.instances_on(host(8)).map(|(_, i)| (i.verdict, i.observed.phase)).collect::<Vec<_>>();
        assert_eq!(moved, [(Verdict::Reachable, Phase::Running)]);
        assert!(plan(state, fixture.now).commands.is_empty(), "nothing is to be done");
        let of_another = instance("db/1.1");
        assert!(state.instances().contains_key(&of_another));
    }
}
