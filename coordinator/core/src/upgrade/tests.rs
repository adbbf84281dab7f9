use common::upgrade::{BinaryHash, Build, Target};

use super::*;
use crate::{
    level::LEVEL,
    state::Member,
    testing::{Fixture, admission, host},
};

const NEW: BinaryHash = BinaryHash([2; 32]);
const OLD: BinaryHash = BinaryHash([1; 32]);

fn target() -> Target {
    Target { hash: NEW, size: 1, version: "2.0.0".into(), level: LEVEL }
}

fn build(hash: BinaryHash) -> Build {
    Build { hash, version: if hash == NEW { "2.0.0".into() } else { "1.0.0".into() } }
}

/// Five hosts, of which 1 to 3 have coordinators, and an upgrade that has just begun.
fn fixture() -> Fixture {
    let mut fixture = Fixture::of_hosts(5);
    let member = |number: u8| {
        let member = Member { level: LEVEL, ..Member::new(host(number), admission(number).address) };
        (MemberId(u64::from(number)), member)
    };
    fixture.cluster.set_members((1..=3).map(member).collect(), 3);
    for number in 1..=5 {
        fixture.done(Command::HostRuns { host: host(number), build: build(OLD), went_back: None });
    }
    fixture.done(Command::BeginUpgrade(Box::new(target())));
    fixture
}

/// Everything is well, and this member leads.
fn seen(fixture: &Fixture, leader: u64) -> Seen {
    Seen {
        now: fixture.now,
        leader: Some(MemberId(leader)),
        healthy: (1..=5).map(host).collect(),
        take_part: (1..=3).map(MemberId).collect(),
    }
}

fn decide(fixture: &Fixture, seen: &Seen) -> Next {
    next(&fixture.cluster, seen)
}

#[track_caller]
fn proposed(fixture: &mut Fixture, seen: &Seen) -> (HostId, Step) {
    let Next::Propose(command) = decide(fixture, seen) else { panic!("{:?}", decide(fixture, seen)) };
    let Command::UpgradeHost { host, step, .. } = (*command).clone() else { panic!("{command:?}") };
    fixture.done(*command);
    (host, step)
}

fn tries(fixture: &mut Fixture, number: u8) {
    let step = Step::Trying { since: fixture.now };
    fixture.done(Command::UpgradeHost { host: host(number), hash: NEW, step });
}

fn returns(fixture: &mut Fixture, number: u8, hash: BinaryHash) {
    fixture.done(Command::HostRuns { host: host(number), build: build(hash), went_back: None });
}

/// Brings a host through all of its steps.
#[track_caller]
fn goes_well(fixture: &mut Fixture, leader: u64, number: u8) {
    let seen = seen(fixture, leader);
    assert_eq!(proposed(fixture, &seen), (host(number), Step::Fetching { since: fixture.now }));
    tries(fixture, number);
    returns(fixture, number, NEW);
    assert_eq!(proposed(fixture, &seen), (host(number), Step::Done));
}

#[track_caller]
fn why(fixture: &Fixture) -> String {
    match &fixture.cluster.upgrade().expect("there is one").phase {
        Phase::Paused { why, failed: true } => why.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn plain_hosts_change_first_then_coordinators_and_the_leader_hands_over_at_the_end() {
    let mut fixture = fixture();
    for number in [4, 5, 1, 3] {
        goes_well(&mut fixture, 2, number);
    }
    let handed = decide(&fixture, &seen(&fixture, 2));
    assert_eq!(handed, Next::HandOver(vec![MemberId(1), MemberId(3)]));
    goes_well(&mut fixture, 3, 2);
    let Next::Propose(end) = decide(&fixture, &seen(&fixture, 3)) else { panic!("it ends") };
    fixture.done(*end);
    assert_eq!(fixture.cluster.upgrade().expect("there was one").phase, Phase::Done);
    assert_eq!(decide(&fixture, &seen(&fixture, 3)), Next::Wait);
}

#[test]
fn a_coordinator_that_is_alone_changes_without_handing_over() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.done(Command::BeginUpgrade(Box::new(target())));
    let seen = Seen {
        now: fixture.now,
        leader: Some(MemberId(1)),
        healthy: [host(1)].into(),
        take_part: [MemberId(1)].into(),
    };
    assert_eq!(proposed(&mut fixture, &seen).0, host(1));
}

#[test]
fn no_host_changes_before_the_former_is_healthy_again() {
    let mut fixture = fixture();
    let all = seen(&fixture, 2);
    let without = |hosts: &[u8], members: &[u64]| {
        let mut seen = all.clone();
        seen.healthy.retain(|healthy| !hosts.iter().any(|number| host(*number) == *healthy));
        seen.take_part.retain(|member| !members.contains(&member.0));
        seen
    };
    goes_well(&mut fixture, 2, 4);
    assert_eq!(proposed(&mut fixture, &all).0, host(5));
    assert_eq!(decide(&fixture, &all), Next::Wait, "it fetches");
    tries(&mut fixture, 5);
    assert_eq!(decide(&fixture, &all), Next::Wait, "it has not said what it runs");
    returns(&mut fixture, 5, NEW);
    assert_eq!(decide(&fixture, &without(&[5], &[])), Next::Wait, "it has not reported its instances");
    assert_eq!(proposed(&mut fixture, &all), (host(5), Step::Done));
    assert_eq!(proposed(&mut fixture, &all).0, host(1));
    tries(&mut fixture, 1);
    returns(&mut fixture, 1, NEW);
    assert_eq!(decide(&fixture, &without(&[], &[1])), Next::Wait, "its coordinator lags");
    assert_eq!(proposed(&mut fixture, &all), (host(1), Step::Done));
    assert_eq!(decide(&fixture, &without(&[], &[1])), Next::Wait, "3 would take the majority with it");
    assert_eq!(decide(&fixture, &without(&[3], &[])), Next::Wait, "the leader does not go before 3");
}

#[test]
fn a_host_that_is_away_holds_up_no_other_and_the_upgrade_ends_with_it() {
    let mut fixture = fixture();
    let mut seen = seen(&fixture, 2);
    seen.healthy.remove(&host(4));
    for number in [5, 1, 3] {
        assert_eq!(proposed(&mut fixture, &seen).0, host(number));
        tries(&mut fixture, number);
        returns(&mut fixture, number, NEW);
        proposed(&mut fixture, &seen);
    }
    assert_eq!(decide(&fixture, &seen), Next::HandOver(vec![MemberId(1), MemberId(3)]));
    seen.leader = Some(MemberId(1));
    assert_eq!(proposed(&mut fixture, &seen).0, host(2));
    tries(&mut fixture, 2);
    returns(&mut fixture, 2, NEW);
    proposed(&mut fixture, &seen);
    assert_eq!(decide(&fixture, &seen), Next::Wait, "it waits for host 4");
    seen.healthy.insert(host(4));
    assert_eq!(proposed(&mut fixture, &seen).0, host(4));
    fixture.done(Command::RemoveHost(host(4)));
    assert_eq!(decide(&fixture, &seen), Next::Propose(Box::new(Command::EndUpgrade)), "it waits for no removed host");
}

#[test]
fn a_host_that_fails_pauses_the_upgrade_with_its_name() {
    let cases: [(&dyn Fn(&mut Fixture), &str); 4] = [
        (
            &|fixture| {
                let step = Step::Failed { why: "the disk is full".into() };
                fixture.done(Command::UpgradeHost { host: host(4), hash: NEW, step });
            },
            "h4 did not change: the disk is full",
        ),
        (
            &|fixture| {
                tries(fixture, 4);
                let went_back = Some("it ended at once".to_owned());
                fixture.done(Command::HostRuns { host: host(4), build: build(OLD), went_back });
            },
            "h4 did not change: it went back to wharf 1.0.0: it ended at once",
        ),
        (
            &|fixture| {
                tries(fixture, 4);
                let mut seen = seen(fixture, 2);
                seen.now = seen.now + RETURNS_WITHIN;
                proposed(fixture, &seen);
            },
            "h4 did not change: it has not come back healthy within 3m",
        ),
        (
            &|fixture| {
                let mut seen = seen(fixture, 2);
                seen.now = seen.now + FETCHES_WITHIN;
                proposed(fixture, &seen);
            },
            "h4 did not change: it has not fetched the binary within 10m",
        ),
    ];
    for (fails, expected) in cases {
        let mut fixture = fixture();
        let all = seen(&fixture, 2);
        proposed(&mut fixture, &all);
        fails(&mut fixture);
        assert_eq!(why(&fixture), expected);
        assert_eq!(decide(&fixture, &all), Next::Wait);
        fixture.done(Command::ResumeUpgrade);
        assert_eq!(proposed(&mut fixture, &all).0, host(4), "it is tried again");
    }
}

#[test]
fn a_host_that_does_not_say_what_it_runs_is_named_soon() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.done(Command::BeginUpgrade(Box::new(target())));
    let (leader, healthy) = (Some(MemberId(1)), [host(1)].into());
    let mut seen = Seen { now: fixture.now, leader, healthy, take_part: [MemberId(1)].into() };
    proposed(&mut fixture, &seen);
    seen.now = seen.now + SPEAKS_WITHIN;
    proposed(&mut fixture, &seen);
    let expected = "h1 did not change: it has not said which binary it runs (paste an install line there, if its version \
                    is older) within 30s";
    assert_eq!(why(&fixture), expected);
}

#[test]
fn a_host_that_restarts_while_it_fetches_has_not_failed() {
    let mut fixture = fixture();
    let all = seen(&fixture, 2);
    proposed(&mut fixture, &all);
    returns(&mut fixture, 4, OLD);
    assert_eq!(fixture.cluster.upgrade().expect("there is one").phase, Phase::Running);
}

#[test]
fn a_person_pauses_resumes_and_ends_it() {
    let mut fixture = fixture();
    let all = seen(&fixture, 2);
    assert_eq!(proposed(&mut fixture, &all).0, host(4));
    fixture.done(Command::PauseUpgrade);
    tries(&mut fixture, 4);
    returns(&mut fixture, 4, NEW);
    assert_eq!(proposed(&mut fixture, &all), (host(4), Step::Done), "what has begun is finished");
    assert_eq!(decide(&fixture, &all), Next::Wait);
    fixture.done(Command::ResumeUpgrade);
    assert_eq!(proposed(&mut fixture, &all).0, host(5));
    let refused = fixture.refused(Command::BeginUpgrade(Box::new(target())));
    assert!(refused.contains("the upgrade to 2.0.0 (020202020202) is running"), "{refused}");
    fixture.done(Command::AbortUpgrade);
    assert_eq!(decide(&fixture, &all), Next::Wait);
    let refused = fixture.refused(Command::ResumeUpgrade);
    assert!(refused.contains("no upgrade is under way"), "{refused}");
    fixture.done(Command::BeginUpgrade(Box::new(target())));
}

#[test]
fn a_binary_that_does_not_understand_the_level_is_refused_with_the_numbers() {
    let mut fixture = Fixture::of_hosts(1);
    let refused = fixture.refused(Command::BeginUpgrade(Box::new(Target { level: LEVEL - 1, ..target() })));
    let expected =
        format!("wharf 2.0.0 understands the feature levels up to {}, and the cluster has {LEVEL}", LEVEL - 1);
    assert!(refused.contains(&expected), "{refused}");
}

#[test]
fn one_host_changes_at_a_time_whatever_is_proposed() {
    let mut fixture = fixture();
    let all = seen(&fixture, 2);
    proposed(&mut fixture, &all);
    let step = Step::Fetching { since: fixture.now };
    fixture.refused(Command::UpgradeHost { host: host(5), hash: NEW, step: step.clone() });
    fixture.refused(Command::UpgradeHost { host: host(4), hash: OLD, step });
    fixture.refused(Command::UpgradeHost { host: host(5), hash: NEW, step: Step::Trying { since: fixture.now } });
    fixture.refused(Command::EndUpgrade);
}
