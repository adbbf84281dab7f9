use common::{
    id::{BootId, InstanceId},
    instance::{Observed, Phase},
    network::WireguardKey,
    time::Timestamp,
};

use super::*;
use crate::{
    Command, Outcome,
    testing::{Fixture, facts, host, instance, stack, web},
};

fn said(number: u8, facts: HostFacts, from: [u8; 4]) -> Command {
    Command::HostSaid { host: host(number), facts, machine: [number; 16], from: Some(from.into()) }
}

fn keyed(number: u8, key: u8) -> HostFacts {
    HostFacts { wireguard: Some(WireguardKey([key; 32])), ..facts(number) }
}

fn at(number: u8, address: [u8; 4]) -> HostFacts {
    HostFacts { address: address.into(), ..facts(number) }
}

fn events(fixture: &Fixture, reason: &str) -> usize {
    fixture.cluster.events().values().filter(|event| event.reason == reason).count()
}

#[track_caller]
fn refusal(fixture: &mut Fixture, command: Command) -> String {
    let before = fixture.cluster.hosts().clone();
    let Outcome::Rejected(problem) = fixture.apply(command) else { panic!("it is not refused") };
    assert_eq!(problem.code, Code::ClaimRefused);
    let facts_of = |hosts: &imbl::OrdMap<HostId, Host>| hosts.values().map(|h| h.facts.clone()).collect::<Vec<_>>();
    assert_eq!(facts_of(&before), facts_of(fixture.cluster.hosts()), "what was known before holds");
    problem.to_string()
}

#[test]
fn a_key_belongs_to_one_host() {
    let mut fixture = Fixture::of_hosts(3);
    fixture.done(said(2, keyed(2, 7), [10, 0, 0, 2]));
    for _ in 0..3 {
        let why = refusal(&mut fixture, said(3, keyed(3, 7), [10, 0, 0, 3]));
        assert!(why.contains("its WireGuard key is that of h2"), "{why}");
    }
    assert_eq!(events(&fixture, "host-refused"), 1, "a repetition does not push all else out of the history");
    assert!(fixture.cluster.hosts()[&host(3)].claims.refused.is_some());
    fixture.done(said(3, keyed(3, 8), [10, 0, 0, 3]));
    assert_eq!(fixture.cluster.hosts()[&host(3)].claims.refused, None);
    fixture.done(said(2, keyed(2, 9), [10, 0, 0, 2]));
    assert_eq!(events(&fixture, "host-key-changed"), 1, "its own may change, and that is seen");
    fixture.done(said(3, keyed(3, 7), [10, 0, 0, 3]));
}

#[test]
fn an_address_belongs_to_one_host_and_lies_outside_of_the_cluster() {
    let mut fixture = Fixture::of_hosts(3);
    for (address, why) in [
        ([10, 42, 1, 9], "lies in the range of containers or services"),
        ([10, 43, 0, 1], "lies in the range of containers or services"),
        ([127, 0, 0, 1], "is not the address of a host"),
        ([0, 0, 0, 0], "is not the address of a host"),
        ([224, 0, 0, 1], "is not the address of a host"),
        ([255, 255, 255, 255], "is not the address of a host"),
        ([10, 0, 0, 1], "is the address of coordinator 1"),
        ([10, 0, 0, 2], "is the address of h2"),
    ] {
        // Whether it comes from there or not: h2 is heard.
        for from in [[192, 0, 2, 9], address].into_iter().filter(|from| from[0] != 127) {
            let told = refusal(&mut fixture, said(3, at(3, address), from));
            assert!(told.contains(why), "{address:?} from {from:?}: {told}");
        }
    }
}

#[test]
fn a_host_that_is_away_loses_its_address_to_the_host_that_proves_it() {
    let mut fixture = Fixture::of_hosts(3);
    fixture.done(Command::HostLiveness { host: host(2), liveness: Liveness::Down { since: fixture.now } });
    let told = refusal(&mut fixture, said(3, at(3, [10, 0, 0, 2]), [192, 0, 2, 9]));
    assert!(told.contains("is the address of h2"), "{told}");
    fixture.done(said(3, at(3, [10, 0, 0, 2]), [10, 0, 0, 2]));
    let address = |fixture: &Fixture, number| fixture.cluster.hosts()[&host(number)].address();
    assert_eq!((address(&fixture, 2), address(&fixture, 3)), (None, Some([10, 0, 0, 2].into())));
    let listed: Vec<_> = crate::view::directory(&fixture.cluster).hosts().filter_map(|(_, h)| h.address).collect();
    assert_eq!(listed, [IpAddr::from([10, 0, 0, 1]), [10, 0, 0, 2].into()], "it is published once");
    fixture.done(Command::HostLiveness { host: host(3), liveness: Liveness::Ready });
    let told = refusal(&mut fixture, said(2, facts(2), [10, 0, 0, 2]));
    assert!(told.contains("is the address of h3"), "{told}");
    fixture.done(said(2, at(2, [10, 0, 0, 22]), [10, 0, 0, 22]));
    assert_eq!(address(&fixture, 2), Some([10, 0, 0, 22].into()));
}

#[test]
fn an_address_that_the_connection_does_not_show_waits_for_a_person() {
    let mut fixture = Fixture::of_hosts(3);
    let address = |fixture: &Fixture| fixture.cluster.hosts()[&host(3)].address();
    fixture.done(said(3, at(3, [10, 0, 0, 33]), [10, 0, 0, 33]));
    assert_eq!((address(&fixture), events(&fixture, "host-moved")), (Some([10, 0, 0, 33].into()), 1));
    fixture.done(said(3, at(3, [172, 16, 0, 3]), [192, 0, 2, 9]));
    assert_eq!(address(&fixture), Some([10, 0, 0, 33].into()), "others go on with the old one");
    let claims = fixture.cluster.hosts()[&host(3)].claims.clone();
    assert_eq!(claims.in_words(), ["the address 172.16.0.3 instead of 10.0.0.33"]);
    let expect = claims.waiting.expect("it waits");
    fixture.done(Command::AcceptHost { host: host(3), expect });
    assert_eq!(address(&fixture), Some([172, 16, 0, 3].into()));
    // A host behind NAT says it at once: nobody knows another of it.
    fixture.done(Command::Admit(Box::new(crate::testing::admission(4))));
    fixture.done(said(4, at(4, [172, 16, 0, 4]), [192, 0, 2, 9]));
    assert_eq!(fixture.cluster.hosts()[&host(4)].address(), Some([172, 16, 0, 4].into()));
}

#[test]
fn more_than_was_accepted_waits_and_less_counts_at_once() {
    let known = facts(2);
    let gpu = |ids: &[&str]| [("gpu".to_owned(), ids.iter().map(|id| (*id).to_owned()).collect())].into();
    type Case<'a> = (&'a str, HostFacts, &'a [&'a str]);
    let cases: [Case<'_>; 9] = [
        ("the same", known.clone(), &[]),
        ("fewer cores", HostFacts { cpu: MilliCpu(1000), ..known.clone() }, &[]),
        ("more cores", HostFacts { cpu: MilliCpu(64_000), ..known.clone() }, &["cores: 64 instead of 2"]),
        ("less memory", HostFacts { memory: Bytes(1 << 30), ..known.clone() }, &[]),
        ("another kernel's count", HostFacts { memory: Bytes((4 << 30) + (1 << 20)), ..known.clone() }, &[]),
        ("more memory", HostFacts { memory: Bytes(8 << 30), ..known.clone() }, &["memory: 8.0 GiB instead of 4.0 GiB"]),
        ("another word", HostFacts { arch: "amd64".into(), ..known.clone() }, &[]),
        (
            "another architecture",
            HostFacts { arch: "aarch64".into(), ..known.clone() },
            &["the architecture aarch64 instead of x86_64"],
        ),
        (
            "a name and a device",
            HostFacts { hostname: "h1".into(), devices: gpu(&["GPU-1"]), ..known.clone() },
            &["the hostname h1 instead of h2", "the device gpu GPU-1"],
        ),
    ];
    for (what, said, waiting) in cases {
        let mut claims = Claims::default();
        claims.take(None, &known, None);
        let counted = claims.take(Some(&known), &said, None);
        assert_eq!(claims.in_words(), waiting, "{what}");
        let smaller = (counted.cpu <= known.cpu, counted.memory <= known.memory, counted.arch == known.arch);
        assert_eq!(
            (smaller, counted.devices.is_empty(), &counted.hostname),
            ((true, true, true), true, &known.hostname)
        );
        assert_eq!(counted.cpu, said.cpu.min(known.cpu), "{what}");
        assert_eq!(counted.memory, said.memory.min(known.memory), "{what}");
        claims.take(Some(&counted), &known, None);
        assert_eq!(claims.in_words(), [""; 0], "{what}: it says again what was accepted");
    }
}

#[test]
fn what_waits_is_accepted_as_it_was_seen() {
    let mut fixture = Fixture::of_hosts(2);
    let larger = |cores: u32| HostFacts { cpu: MilliCpu(u64::from(cores) * 1000), ..facts(2) };
    fixture.done(said(2, larger(8), [10, 0, 0, 2]));
    assert_eq!(events(&fixture, "host-claims"), 1);
    let capacity = |fixture: &Fixture| fixture.cluster.hosts()[&host(2)].capacity().cpu;
    assert_eq!(capacity(&fixture), MilliCpu(2000));
    let expect = fixture.cluster.hosts()[&host(2)].claims.waiting.clone().expect("it waits");
    fixture.done(said(2, larger(64), [10, 0, 0, 2]));
    let changed = fixture.refused(Command::AcceptHost { host: host(2), expect: expect.clone() });
    assert!(changed.contains("they have changed"), "{changed}");
    fixture.done(said(2, larger(8), [10, 0, 0, 2]));
    fixture.done(Command::AcceptHost { host: host(2), expect: expect.clone() });
    fixture.done(Command::AcceptHost { host: host(2), expect });
    assert_eq!((capacity(&fixture), events(&fixture, "host-accepted")), (MilliCpu(8000), 1));
    fixture.done(said(2, larger(1), [10, 0, 0, 2]));
    assert_eq!(capacity(&fixture), MilliCpu(1000), "less counts at once");
    fixture.done(said(2, larger(8), [10, 0, 0, 2]));
    assert_eq!(capacity(&fixture), MilliCpu(8000), "and what was accepted once is accepted");
}

#[test]
fn no_host_has_the_name_of_another() {
    let mut fixture = Fixture::of_hosts(1);
    fixture.done(Command::Admit(Box::new(crate::testing::admission(2))));
    fixture.done(said(2, HostFacts { hostname: "h1".into(), ..facts(2) }, [10, 0, 0, 2]));
    let facts = fixture.cluster.hosts()[&host(2)].facts.clone().expect("it has reported");
    assert_eq!(facts.hostname, "h2", "a constraint on h1 does not lead to it");
}

#[test]
fn docker_that_answers_late_names_devices_and_no_other_machine() {
    let mut claims = Claims::default();
    let silent = HostFacts { docker: String::new(), arch: "x86_64".into(), ..facts(2) };
    let counted = claims.take(None, &silent, None);
    let devices: Devices = [("fpga".to_owned(), vec!["1".to_owned()])].into();
    let whole = HostFacts { devices: devices.clone(), ..facts(2) };
    let counted = claims.take(Some(&counted), &whole, None);
    assert_eq!((counted.devices, claims.in_words()), (devices, Vec::new()));
    let elsewhere = HostFacts { docker: String::new(), arch: "riscv64".into(), ..whole.clone() };
    let counted = claims.take(Some(&whole), &elsewhere, None);
    assert_eq!((counted.arch.as_str(), claims.in_words()), ("x86_64", Vec::new()), "the agent says how it was built");
}

#[test]
fn a_containers_address_lies_in_the_subnet_of_its_host() {
    let mut fixture = Fixture::of_hosts(2);
    fixture.deploy(&[("web", web(|_| {}))]);
    fixture.settle();
    let id: InstanceId = instance("web/1.1");
    let (on, subnet) = (fixture.cluster.instances()[&id].host, fixture.cluster.hosts()[&host(1)].subnet);
    assert_eq!(on, host(1));
    let other = fixture.cluster.hosts()[&host(2)].subnet;
    let plus = |net: common::network::Subnet, last: u32| std::net::Ipv4Addr::from(u32::from(net.host()) + last);
    for (address, is_its_own) in [
        (plus(subnet, 2), true),
        (plus(subnet, 254), true),
        (plus(subnet, 0), false),
        (plus(subnet, 1), false),
        (plus(subnet, 255), false),
        (plus(other, 2), false),
        ([10, 43, 0, 1].into(), false),
        ([192, 168, 0, 1].into(), false),
    ] {
        let before = fixture.cluster.instances()[&id].observed.clone();
        let observed = Observed { phase: Phase::Running, address: Some(address), ..before };
        fixture.done(Command::Observe { host: on, instances: vec![(id.clone(), observed)] });
        let published = crate::view::directory(&fixture.cluster).instance(&id).map(|endpoint| endpoint.address);
        assert_eq!(published, is_its_own.then_some(address), "{address}");
    }
}

#[test]
fn what_runs_strictly_is_waited_for_when_a_host_begins_again_unannounced() {
    let mut fixture = Fixture::of_hosts(2);
    fixture.deploy(&[("web", web(|web| web.strict_singleton = true))]);
    fixture.settle();
    assert_eq!(fixture.filled(), ["web/1.1@h1"]);
    let booted = |boot: u8| HostFacts { boot: BootId([boot; 10]), ..facts(1) };
    fixture.done(Command::HostLeaves(host(1)));
    fixture.done(said(1, booted(1), [10, 0, 0, 1]));
    assert_eq!(fixture.filled(), ["web/1.1@h1"], "it said that it would be back");
    fixture.done(said(1, booted(2), [10, 0, 0, 1]));
    assert!(fixture.filled().is_empty(), "its earlier self may be cut off, and run it");
    let lease = fixture.cluster.longest_lease();
    let slot = stack().service(crate::testing::name("web")).slot(1);
    let until: Timestamp = fixture.cluster.orphans()[&slot];
    assert_eq!(until, fixture.now + lease);
    fixture.pass(common::time::Span(lease.0 + 2000), &|_| {});
    assert_eq!(fixture.filled().len(), 1);
}

#[test]
fn below_their_level_claims_count_as_before() {
    let mut fixture = Fixture::of_hosts(3);
    fixture.cluster.basics.level = 2;
    let facts = HostFacts { cpu: MilliCpu(64_000), ..keyed(3, 7) };
    for number in [2, 3] {
        let report = HostFacts { address: [10, 0, 0, 9].into(), ..facts.clone() };
        fixture.done(Command::HostReported { host: host(number), facts: report.clone(), machine: [number; 16] });
        assert_eq!(fixture.cluster.hosts()[&host(number)].facts, Some(report));
    }
    let bytes = common::codec::encode(&fixture.cluster).expect("it is written");
    let read: State = common::codec::decode(&bytes).expect("it is read");
    assert!(read.hosts().values().all(|host| host.claims == Claims::default()));
    fixture.cluster.basics.level = level::HOST_CLAIMS;
    // The first report after the level was raised adds nothing to what was known.
    let machine = [1; 16];
    fixture.done(Command::HostReported { host: host(1), facts: crate::testing::facts(1), machine });
    let bytes = common::codec::encode(&fixture.cluster).expect("it is written");
    assert_eq!(common::codec::decode::<State>(&bytes).expect("it is read"), fixture.cluster);
}
