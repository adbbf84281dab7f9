use common::{
    host::Liveness,
    instance::{Observed, Phase, Want},
};

use common::{id::MemberId, output::LastLines};

use super::*;
use crate::{
    Request, RequestId,
    command::Placement,
    testing::{Fixture, TOKEN, admission, facts, host, instance, stack, web},
};

fn placement(change: impl FnOnce(&mut Placement)) -> Command {
    let mut placement = Placement {
        slot: instance("web/1.1").slot,
        expect_incarnation: 0,
        expect_revision: 1,
        revision: 1,
        host: host(1),
        ports: Vec::new(),
        devices: Vec::new(),
        replaces: None,
        unknown_since: None,
    };
    change(&mut placement);
    Command::Place(Box::new(placement))
}

fn deployed() -> Fixture {
    let mut fixture = Fixture::of_hosts(2);
    fixture.deploy(&[("web", web(|_| {}))]);
    fixture
}

#[test]
fn placements_are_checked_again_when_they_are_applied() {
    type Change = fn(&mut Placement);
    let cases: [(&str, Change); 6] = [
        ("its incarnation is 0, not 7", |p| p.expect_incarnation = 7),
        ("its revision is 1, not 2", |p| p.expect_revision = 2),
        ("its host was removed", |p| p.host = host(9)),
        ("the service wants fewer instances", |p| p.slot.slot = 2),
        ("its ports do not match its spec", |p| p.ports = vec![80]),
        ("another instance already fills its slot", |p| p.replaces = Some(instance("web/1.1"))),
    ];
    for (why, change) in cases {
        let refusal = deployed().refused(placement(change));
        assert!(refusal.contains(why), "{why}: {refusal}");
    }
    let mut fixture = deployed();
    fixture.done(placement(|_| {}));
    let twice = fixture.refused(placement(|_| {}));
    assert!(twice.contains("its incarnation is 1, not 0"), "{twice}");
    let beside = fixture.refused(placement(|p| p.expect_incarnation = 1));
    assert!(beside.contains("another instance already fills its slot"), "{beside}");
    let reachable = placement(|p| {
        p.expect_incarnation = 1;
        p.replaces = Some(instance("web/1.1"));
    });
    let reachable = fixture.refused(reachable);
    assert!(reachable.contains("is reachable"), "{reachable}");
}

#[test]
fn a_request_that_comes_twice_is_made_once() {
    let mut fixture = Fixture::of_hosts(1);
    let proposal = Proposal {
        request: Some(RequestId([1; 16]).into()),
        by: None,
        command: Command::PutStack {
            id: stack(),
            spec: Arc::new(common::spec::StackSpec {
                services: [(crate::testing::name("web"), web(|_| {}))].into(),
                ..Default::default()
            }),
            files: Vec::new(),
            expect_revision: Some(0),
            what: String::new(),
            goes_back: false,
        },
    };
    let other = Proposal {
        request: Some(Request { id: RequestId([1; 16]), content: [2; 16] }),
        by: None,
        command: Command::RemoveStack(stack()),
    };
    let batch = Batch { at: fixture.now, proposals: vec![proposal.clone(), other, proposal] };
    let outcomes = fixture.cluster.apply(&batch);
    let [first, Outcome::Rejected(refused), again] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!((first, again), (&Outcome::Revision(1), &Outcome::Revision(1)), "the repetition got the first answer");
    assert_eq!(refused.code, common::error::Code::Conflict);
    assert!(fixture.cluster.stacks().contains_key(&stack()), "another request under the same id does nothing");
}

#[test]
fn the_clock_never_goes_back() {
    let mut fixture = Fixture::of_hosts(1);
    let before = fixture.cluster.clock();
    fixture.now = Timestamp(5);
    fixture.done(Command::RevokeJoinToken(TOKEN));
    assert_eq!(fixture.cluster.clock(), before);
}

#[test]
fn a_token_admits_as_many_as_it_says_and_the_same_host_again() {
    let mut fixture = Fixture::of_hosts(2);
    let used = fixture.cluster.join_tokens()[&TOKEN].uses.len();
    fixture.done(Command::Admit(Box::new(admission(2))));
    assert_eq!(fixture.cluster.join_tokens()[&TOKEN].uses.len(), used, "the same host burns nothing");
    fixture.done(Command::RemoveHost(host(2)));
    let refusal = fixture.refused(Command::Admit(Box::new(admission(2))));
    assert!(refusal.contains("removed"), "{refusal}");
    fixture.done(Command::RevokeJoinToken(TOKEN));
    let refusal = fixture.refused(Command::Admit(Box::new(admission(3))));
    assert!(refusal.contains("revoked"), "{refusal}");
}

#[test]
fn hosts_of_one_name_are_told_apart() {
    let mut fixture = Fixture::of_hosts(1);
    let twin = crate::command::Admission { name: crate::testing::name("h1"), ..admission(5) };
    let Outcome::Admitted { name, .. } = fixture.done(Command::Admit(Box::new(twin))) else { panic!("it is admitted") };
    assert_eq!(name.as_str(), "h1-2");
}

#[test]
fn a_copied_key_is_noticed() {
    let mut fixture = Fixture::of_hosts(2);
    let copy = Command::HostReported { host: host(2), facts: facts(2), machine: [99; 16] };
    let Outcome::Rejected(problem) = fixture.apply(copy) else { panic!("a clone is refused") };
    assert_eq!(problem.code, Code::Cloned);
    assert_eq!(fixture.cluster.hosts()[&host(2)].machine, Some([2; 16]), "the original keeps its place");
    assert!(fixture.cluster.events().values().any(|event| event.reason == "clone-refused"));
}

#[test]
fn a_host_speaks_only_for_its_own_instances_and_only_onward() {
    let mut fixture = deployed();
    fixture.done(placement(|_| {}));
    fixture.observe("web/1.1", Phase::Running);
    let stranger = Command::Observe {
        host: host(2),
        instances: vec![(
            instance("web/1.1"),
            common::instance::Observed { phase: Phase::Failed, ..common::instance::Observed::nothing() },
        )],
    };
    fixture.done(stranger);
    fixture.observe("web/1.1", Phase::Pulling);
    assert_eq!(fixture.cluster.instances()[&instance("web/1.1")].observed.phase, Phase::Running);
}

#[test]
fn what_failed_is_kept_with_its_output_in_event_slot_and_view() {
    let mut fixture = deployed();
    fixture.done(placement(|_| {}));
    let fail = |fixture: &mut Fixture, restart: u32| {
        let output = LastLines::of(format!("FATAL {restart}").as_bytes());
        let failure = "it ended with exit code 7".to_owned();
        let (message, phase) = (failure.clone(), Phase::Starting);
        let observed = Observed { restart, phase, message, failure, output, ..Observed::nothing() };
        fixture.done(Command::Observe { host: host(1), instances: vec![(instance("web/1.1"), observed)] });
    };
    fail(&mut fixture, 1);
    let newest = fixture.cluster.events().values().next_back().expect("an event");
    assert_eq!((newest.reason.as_str(), newest.output.lines()), ("instance-observed", &["FATAL 1".to_owned()][..]));
    let view = crate::view::stack(&fixture.cluster, &stack(), fixture.now).expect("it is there");
    let failure = view.services[0].failure.clone().expect("it is told");
    assert_eq!((failure.why.as_str(), failure.output.lines()), ("it ended with exit code 7", newest.output.lines()));

    (2..400).for_each(|restart| fail(&mut fixture, restart));
    let with_output: Vec<&str> =
        fixture.cluster.events().values().flat_map(|e| e.output.lines().last()).map(String::as_str).collect();
    assert_eq!(
        (with_output.len(), with_output.last()),
        (super::journal::MAX_OUTPUTS, Some(&"FATAL 399")),
        "the newest keep it"
    );

    let id = instance("web/1.1");
    let (output, failure) = (LastLines::of(b"no more"), "it ended with exit code 8".to_owned());
    let (message, phase) = (failure.clone(), Phase::Failed);
    let last = Observed { restart: 400, phase, message, failure, output: output.clone(), ..Observed::nothing() };
    fixture.done(Command::Observe { host: host(1), instances: vec![(id.clone(), last)] });
    assert_eq!(fixture.cluster.slots()[&id.slot].tries[0].last_output, output);
}

#[test]
fn a_stack_goes_when_its_last_instance_is_gone() {
    let mut fixture = deployed();
    fixture.settle();
    fixture.done(Command::RemoveStack(stack()));
    let (id, spec, files) = (stack(), Arc::default(), Vec::new());
    let again = Command::PutStack { id, spec, files, expect_revision: None, what: String::new(), goes_back: false };
    let refusal = fixture.refused(again);
    assert!(refusal.contains("being removed"), "{refusal}");
    fixture.settle();
    assert!(fixture.cluster.stacks().is_empty() && fixture.cluster.slots().is_empty());
    fixture.deploy(&[("web", web(|_| {}))]);
    fixture.settle();
    assert_eq!(fixture.filled(), ["web/1.2@h1"], "no name is given out twice");
}

#[test]
fn removing_a_host_forgets_its_instances_and_refuses_coordinators() {
    let mut fixture = Fixture::of_hosts(2);
    fixture.deploy(&[("web", web(|s| s.replicas = 2))]);
    fixture.settle();
    let refusal = fixture.refused(Command::RemoveHost(host(1)));
    assert!(refusal.contains("it runs coordinator 1") && refusal.contains("wharf member rm 1"), "{refusal}");
    fixture.done(Command::RemoveHost(host(2)));
    fixture.settle();
    assert_eq!(fixture.filled(), ["web/1.1@h1", "web/2.2@h1"]);
    let last = fixture.refused(Command::RemoveMember(MemberId(1)));
    assert!(last.contains("the last member"), "{last}");
}

#[test]
fn a_host_that_returns_is_believed_again() {
    let mut fixture = deployed();
    fixture.settle();
    fixture.done(Command::HostLiveness { host: host(1), liveness: Liveness::Down { since: fixture.now } });
    let verdict = |fixture: &Fixture| fixture.cluster.instances()[&instance("web/1.1")].verdict;
    assert!(matches!(verdict(&fixture), common::instance::Verdict::Unknown { .. }));
    fixture.done(Command::HostLiveness { host: host(1), liveness: Liveness::Ready });
    assert_eq!(verdict(&fixture), common::instance::Verdict::Reachable);
    assert_eq!(fixture.cluster.instances()[&instance("web/1.1")].desired.want, Want::Run);
}

#[test]
fn the_state_survives_its_encoding() {
    let mut fixture = deployed();
    fixture.settle();
    let bytes = common::codec::encode(&fixture.cluster).expect("encodes");
    let restored: State = common::codec::decode(&bytes).expect("decodes");
    assert_eq!(restored, fixture.cluster);
}

#[test]
fn the_specs_of_all_instances_have_a_limit_that_those_that_go_give_back() {
    let mut fixture = Fixture::of_hosts(1);
    let large = web(|spec| {
        let value = "x".repeat(32 << 10);
        spec.container.environment = (0..640).map(|number| (format!("V{number}"), value.clone())).collect();
        spec.replicas = 30;
    });
    fixture.deploy(&[("web", large)]);
    let room =
        (512 << 20) / super::size_of(&fixture.cluster.stacks()[&stack()].spec.services[&crate::testing::name("web")]);
    let place = |number: u32| placement(move |p| p.slot.slot = number);
    for number in 1..=room as u32 {
        fixture.done(place(number));
    }
    let refused = fixture.refused(place(room as u32 + 1));
    assert!(refused.contains("the limit is 536870912"), "{refused}");
    fixture.cluster.forget_instance(&instance("web/1.1"));
    fixture.done(place(room as u32 + 1));
}
