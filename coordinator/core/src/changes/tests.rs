use std::sync::Arc;

use common::{
    assignment::Assignment,
    host::{Availability, Liveness},
    instance::Phase,
    spec::{ServiceSpec, StackSpec},
    time::{Span, Timestamp},
};
use proptest::{collection::vec, prelude::any};

use super::*;
use crate::{
    Command,
    testing::{Fixture, admission, host, name, stack, web},
};

fn hosts(numbers: &[u8]) -> Touched {
    Touched::Hosts(numbers.iter().map(|number| host(*number)).collect())
}

fn touched(before: &State, after: &State) -> Touched {
    Changes::between(before, after).touched()
}

#[test]
fn those_are_told_whose_instances_change() {
    let mut fixture = Fixture::of_hosts(4);
    fixture.deploy(&[("web", web(|spec| spec.replicas = 3))]);
    let before = fixture.cluster.clone();
    assert_eq!(touched(&before, &before), hosts(&[]));
    fixture.settle();
    assert_eq!(touched(&before, &fixture.cluster), hosts(&[1, 2, 3]));

    let before = fixture.cluster.clone();
    fixture.observe("web/2.1", Phase::Failed);
    assert_eq!(touched(&before, &fixture.cluster), hosts(&[2]));

    let before = fixture.cluster.clone();
    let (service, digest) = (stack().service(name("web")), "sha256:ab".to_owned());
    fixture.done(Command::PinImage { service, expect_revision: 1, digest });
    assert_eq!(touched(&before, &fixture.cluster), hosts(&[1, 2, 3]));

    let before = fixture.cluster.clone();
    fixture.done(Command::PutHostLabels { host: host(4), labels: [("disk".into(), "ssd".into())].into() });
    assert_eq!(touched(&before, &fixture.cluster), hosts(&[]), "labels are the planner's");

    let before = fixture.cluster.clone();
    fixture.done(Command::RemoveHost(host(4)));
    assert_eq!(touched(&before, &fixture.cluster), hosts(&[4]), "the others hear of it by the directory");

    let before = fixture.cluster.clone();
    let address = ([10, 0, 0, 9], 7443).into();
    fixture.done(Command::MemberAddress { member: common::id::MemberId(1), address });
    assert_eq!(touched(&before, &fixture.cluster), Touched::All);
}

/// The differences of two maps, found by comparing all that they hold.
fn slow<'a, K: Ord, V: PartialEq>(before: &'a OrdMap<K, V>, after: &'a OrdMap<K, V>) -> Vec<Change<'a, K, V>> {
    let keys: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    let change = |key: &'a K| Change { key, before: before.get(key), after: after.get(key) };
    keys.into_iter().map(change).filter(|change| change.before != change.after).collect()
}

fn same<'a, K: Ord + std::fmt::Debug + 'a, V: PartialEq + std::fmt::Debug + 'a>(
    quick: impl Iterator<Item = Change<'a, K, V>>,
    before: &'a OrdMap<K, V>,
    after: &'a OrdMap<K, V>,
) {
    // What was written and is the same again may be among the quick ones: that is no mistake, and looked at in vain.
    let mut quick: Vec<_> = quick.filter(|change| change.before != change.after).collect();
    quick.sort_by(|one, other| one.key.cmp(other.key));
    assert_eq!(quick, slow(before, after));
}

/// Deploys a stack, unless it is being removed.
fn put(fixture: &mut Fixture, services: &[(&str, ServiceSpec)]) {
    let services = services.iter().map(|(service, spec)| (name(service), spec.clone())).collect();
    let spec = Arc::new(StackSpec { services, ..StackSpec::default() });
    let (id, files, what) = (stack(), Vec::new(), "deployed".to_owned());
    fixture.apply(Command::PutStack { id, spec, files, expect_revision: None, what, goes_back: false });
}

/// A step of a cluster's life, chosen by a number.
fn step(fixture: &mut Fixture, number: u64) {
    let of = host(1 + (number / 16 % 4) as u8);
    let replicas = (number / 64 % 4) as u32;
    match number % 12 {
        0 | 1 => put(fixture, &[("web", web(|spec| spec.replicas = replicas)), ("db", web(|_| {}))]),
        2 => put(fixture, &[("web", web(|spec| spec.container.image = format!("web:{replicas}")))]),
        3..=5 => fixture.settle(),
        6 => drop(fixture.apply(Command::HostLiveness { host: of, liveness: Liveness::Down { since: fixture.now } })),
        7 => drop(fixture.apply(Command::HostLiveness { host: of, liveness: Liveness::Ready })),
        8 => drop(fixture.apply(Command::SetAvailability { host: of, availability: Availability::Cordoned })),
        9 => drop(fixture.apply(Command::RemoveStack(stack()))),
        10 => drop(fixture.apply(Command::RemoveHost(of))),
        _ => drop(fixture.apply(Command::Admit(Box::new(admission(1 + (number / 16 % 6) as u8))))),
    }
    fixture.now = fixture.now + Span::seconds(number % 90);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn the_quick_differences_are_those_of_comparing_everything(
        steps in vec(any::<u64>(), 1..24),
        apart in 1_usize..6,
    ) {
        let mut fixture = Fixture::of_hosts(4);
        let mut states = vec![fixture.cluster.clone()];
        for number in steps {
            step(&mut fixture, number);
            states.push(fixture.cluster.clone());
        }
        for (before, after) in states.iter().zip(states.iter().skip(apart)) {
            let changes = Changes::between(before, after);
            same(changes.stacks(), before.stacks(), after.stacks());
            same(changes.slots(), before.slots(), after.slots());
            same(changes.instances(), before.instances(), after.instances());
            same(changes.hosts(), before.hosts(), after.hosts());
            same(changes.members(), before.members(), after.members());
            same(changes.files(), before.files(), after.files());
            // The generation grows with whatever changes.
            let assigned = |state: &State, id: HostId| {
                let assigned = crate::view::assignment(state, id, &BTreeSet::new());
                assigned.map(|assignment| Assignment { generation: 0, ..assignment })
            };
            for id in before.hosts().keys().chain(after.hosts().keys()) {
                let is_told = match changes.touched() {
                    Touched::All => true,
                    Touched::Hosts(hosts) => hosts.contains(id),
                };
                assert!(is_told || assigned(before, *id) == assigned(after, *id), "the assignment of {id} differs");
            }
            if !changes.concern_the_plan() {
                let at = crate::Moment { now: fixture.now, leading_since: Timestamp(0) };
                assert_eq!(crate::plan(before, at).commands, crate::plan(after, at).commands);
            }
        }
    }
}
