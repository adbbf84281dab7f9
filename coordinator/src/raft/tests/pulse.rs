//! Members whose clocks are wrong, and members that were set back in time.

use common::time::Span;
use link::Transport;
use openraft::BasicNode;

use super::*;
use crate::raft::{StoreError, WallClock};

const YEAR: Span = Span::minutes(365 * 24 * 60);

fn a_year_ahead() -> Timestamp {
    now() + YEAR
}

fn address(number: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number as u8], 1))
}

/// A member that runs.
struct Running {
    consensus: Consensus,
    tasks: Supervisor,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(network: &Network, folder: &Path, number: u64, wall: WallClock) -> Result<Running, StoreError> {
        let identity = PeerIdentity { host: HostId([number as u8; 10]), member: Some(MemberId(number)) };
        let transport = Arc::new(network.end(address(number), identity));
        let others: Vec<SocketAddr> = (1..=3).filter(|other| *other != number).map(address).collect();
        let stop = CancellationToken::new();
        let mut tasks = Supervisor::new(stop.clone());
        let directory = folder.join(number.to_string());
        std::fs::create_dir_all(&directory).expect("a folder");
        let start =
            Start { me: MemberId(number), directory: &directory, transport: transport.clone(), others: &others, wall };
        let consensus = Consensus::start(start, &mut tasks).await?;
        let answering = consensus.clone();
        let serving = tokio::spawn(async move {
            // They end with this task.
            let mut connections = tokio::task::JoinSet::new();
            while let Some(connection) = transport.accept().await {
                connections.spawn(serve(answering.clone(), connection));
            }
        });
        Ok(Running { consensus, tasks, stop, serving })
    }

    async fn stop(self) {
        self.serving.abort();
        self.stop.cancel();
        self.consensus.shutdown().await;
        drop(self.consensus);
        self.tasks.end().await;
    }
}

/// Answers the calls of another member, as the server does.
async fn serve(consensus: Consensus, connection: link::Connection) {
    let peer = connection.peer();
    let mut calls = tokio::task::JoinSet::new();
    while let Ok(mut stream) = connection.accept().await {
        let consensus = consensus.clone();
        calls.spawn(async move {
            let Ok(Some(common::wire::Open::Member(call))) = stream.incoming.receive().await else { return };
            let call: MemberCall = common::codec::decode(&call).expect("it is a call");
            // The member that asked may be gone.
            let _ = stream.outgoing.send(&consensus.answer(peer, call).await).await;
            let _ = stream.outgoing.finish().await;
        });
    }
}

/// A group of three whose clocks are the given ones, with a state.
async fn group(network: &Network, folder: &Path, walls: [WallClock; 3]) -> Vec<Running> {
    let mut members = Vec::new();
    for (number, wall) in (1..).zip(walls) {
        members.push(Running::start(network, folder, number, wall).await.expect("starts"));
    }
    let first = &members[0].consensus;
    first
        .raft
        .initialize((1..=3).map(|id| (id, BasicNode::new(address(id)))).collect::<BTreeMap<_, _>>())
        .await
        .expect("it is new");
    wait_for(first, "one leads", |first| first.leadership().leader.is_some()).await;
    let leader = leader(&members).await;
    let token = NewJoinToken {
        id: TokenId([1; 5]),
        secret: SecretHash([0; 32]),
        role: JoinRole::Coordinator,
        expires_at: Timestamp(u64::MAX),
        max_uses: 9,
        labels: Default::default(),
        from: None,
    };
    let genesis = genesis(MemberId(1), HostId([1; 10]), address(1));
    let admit = |number: u64| {
        let (host, name) = (HostId([number as u8; 10]), format!("h{number}").parse().expect("a name"));
        let address = address(number);
        Command::Admit(Box::new(Admission { token: TokenId([1; 5]), host, name, from: address.ip(), address }))
    };
    let made = [Command::Initialize(Box::new(genesis)), Command::PutJoinToken(Box::new(token)), admit(2), admit(3)];
    for command in made {
        leader.propose(vec![command.into()]).await.expect("it is made");
    }
    let level = coordinator_core::level::LEVEL;
    for member in [2, 3] {
        let understands = Command::MemberUnderstands { member: MemberId(member), level };
        leader.propose(vec![understands.into()]).await.expect("it is noted");
    }
    for member in &members {
        wait_for(&member.consensus, "it knows all", |one| one.current().cluster.members().len() == 3).await;
    }
    members
}

async fn leader(members: &[Running]) -> Consensus {
    let first = &members[0].consensus;
    wait_for(first, "one leads", |_| members.iter().any(|member| member.consensus.leadership().leads)).await;
    members.iter().find(|member| member.consensus.leadership().leads).expect("one leads").consensus.clone()
}

fn put(key: &str) -> Command {
    Command::PutKey { environment: default_environment(), key: key.into(), value: Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_clock_does_not_move_the_time_of_the_group() {
    let (network, folder) = (Network::default(), tempfile::tempdir().expect("a folder"));
    // The first one leads, and is a year ahead.
    let members = group(&network, folder.path(), [a_year_ahead, now, now]).await;
    let first = &members[0].consensus;
    for member in &members {
        let knows = |one: &Consensus| one.clocks().differences.len() == 3;
        wait_for(&member.consensus, "it knows all clocks", knows).await;
    }
    wait_for(first, "it gives way", |one| one.leadership().leader.is_some_and(|id| id != MemberId(1))).await;
    let leader = leader(&members).await;
    leader.propose(vec![put("key").into()]).await.expect("it is written");
    let clock = leader.current().cluster.clock();
    assert!(clock < now() + Span::minutes(1), "{clock}");
    assert!(clock + Span::minutes(1) > now(), "{clock}");
    for member in &members {
        let time = member.consensus.now();
        assert!(time < now() + Span::minutes(1), "{time}");
        assert_eq!(member.consensus.clock_is_wrong(), member.consensus.me() == MemberId(1));
    }
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_set_back_takes_no_part() {
    let (network, folder) = (Network::default(), tempfile::tempdir().expect("a folder"));
    let mut members = group(&network, folder.path(), [now; 3]).await;
    let (third, earlier) = (folder.path().join("3"), folder.path().join("earlier"));
    let restart = async || Running::start(&network, folder.path(), 3, now).await;
    members.pop().expect("there are three").stop().await;
    copy(&third, &earlier);

    members.push(restart().await.expect("it has lost nothing"));
    let leader = leader(&members).await;
    leader.propose(vec![put("acknowledged").into()]).await.expect("it is written");
    let has_it = |one: &Consensus| one.current().cluster.index() >= leader.current().cluster.index();
    wait_for(&members[2].consensus, "it has it", has_it).await;
    let asked = |one: &Consensus| one.clocks().differences.len() == 3;
    wait_for(&members[2].consensus, "it has said how far it is", asked).await;
    let position = crate::raft::pulse::Position::of(&members[2].consensus.store.upgrade().expect("it runs"));
    // The next time that it speaks to the others may be seconds away.
    for other in &members[..2] {
        other.consensus.pulse.answer(MemberId(3), position);
    }
    members.pop().expect("there are three").stop().await;
    std::fs::remove_dir_all(&third).expect("it is removed");
    copy(&earlier, &third);
    let Err(StoreError::Corrupt { reason, .. }) = restart().await else { panic!("it was set back") };
    assert!(reason.contains("it was set back in time"), "{reason}");
    for member in members {
        member.stop().await;
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().expect("there is cp");
    assert!(copied.success());
}
