use common::{
    device::{DeviceAmount, DeviceRequest, GPU},
    host::HostFacts,
    id::InstanceId,
    spec::Sidekick,
};

use super::*;
use crate::{
    Command,
    plan::plan,
    testing::{Fixture, facts, name, web},
};

/// Hosts with so many GPUs.
fn hosts_with(gpus: &[u32]) -> Fixture {
    let mut fixture = Fixture::of_hosts(gpus.len() as u8);
    for (number, count) in (1..).zip(gpus) {
        let ids = (0..*count).map(|gpu| format!("GPU-{number}{gpu}")).collect();
        let facts = HostFacts { devices: [(GPU.to_owned(), ids)].into(), ..facts(number) };
        fixture.report(number, facts);
    }
    fixture
}

fn gpus(amount: DeviceAmount) -> DeviceRequest {
    DeviceRequest { amount, capabilities: Vec::new() }
}

fn with_gpus(replicas: u32, amount: DeviceAmount) -> ServiceSpec {
    web(|spec| {
        spec.replicas = replicas;
        spec.container.devices.insert(GPU.to_owned(), gpus(amount));
    })
}

/// The devices of every instance that is to run, and why others are not placed.
fn devices(fixture: &Fixture) -> (Vec<String>, Vec<String>) {
    let told = |(_, instance): (&InstanceId, &crate::state::Instance)| {
        let devices = instance.devices.iter().map(|device| format!("{}:{}", device.part, device.id));
        instance.fills_slot().then(|| devices.collect::<Vec<_>>().join(" "))
    };
    let blocked = plan(&fixture.cluster, fixture.now)
        .blocked
        .into_values()
        .flatten()
        .map(|blocked| blocked.to_string())
        .collect();
    (fixture.cluster.instances().iter().filter_map(told).collect(), blocked)
}

#[test]
fn a_device_is_given_to_one_instance_at_a_time() {
    let mut fixture = hosts_with(&[2, 0, 1]);
    fixture.deploy(&[("web", with_gpus(4, DeviceAmount::Count(1)))]);
    fixture.settle();
    let (given, blocked) = devices(&fixture);
    assert_eq!(given, ["_main:GPU-10", "_main:GPU-30", "_main:GPU-11"]);
    assert_eq!(blocked, ["3 hosts lack gpu devices: it needs 1, and the most free are 0 on h1"]);

    // What ends gives its device back.
    fixture.deploy(&[("web", with_gpus(2, DeviceAmount::Count(1)))]);
    fixture.settle();
    fixture.deploy(&[
        ("web", with_gpus(2, DeviceAmount::Count(1))),
        ("other", with_gpus(1, DeviceAmount::These(vec!["1".into()]))),
    ]);
    fixture.settle();
    assert_eq!(devices(&fixture).0, ["_main:GPU-11", "_main:GPU-10", "_main:GPU-30"]);
}

#[test]
fn parts_of_an_instance_get_devices_of_their_own() {
    let mut fixture = hosts_with(&[1, 3]);
    let mut spec = with_gpus(1, DeviceAmount::Count(2));
    let mut sidekick = Sidekick { container: common::spec::ContainerSpec::of_image("side:1"), depends_on: [].into() };
    sidekick.container.devices.insert(GPU.to_owned(), gpus(DeviceAmount::Count(1)));
    spec.sidekicks.insert(name("side"), sidekick);
    fixture.deploy(&[("web", spec.clone())]);
    fixture.settle();
    assert_eq!(devices(&fixture), (vec!["_main:GPU-20 _main:GPU-21 side:GPU-22".to_owned()], vec![]));

    spec.container.devices.insert(GPU.to_owned(), gpus(DeviceAmount::Count(3)));
    fixture.deploy(&[("other", spec)]);
    fixture.settle();
    let reasons = devices(&fixture).1;
    assert_eq!(reasons, ["2 hosts lack gpu devices: it needs 3 and 1, and the most free are 3 on h2"]);
}

#[test]
fn an_update_that_finds_no_free_device_stops_first() {
    let mut fixture = hosts_with(&[1]);
    fixture.deploy(&[("web", with_gpus(1, DeviceAmount::All))]);
    fixture.settle();
    let mut changed = with_gpus(1, DeviceAmount::All);
    changed.container.image = "web:2".into();
    fixture.deploy(&[("web", changed)]);
    fixture.settle();
    let images: Vec<&str> = fixture.cluster.instances().values().map(|i| i.spec.container.image.as_str()).collect();
    assert_eq!((images, devices(&fixture).0), (vec!["web:2"], vec!["_main:GPU-10".to_owned()]));
}

#[test]
fn a_placement_with_devices_of_others_is_refused() {
    let mut fixture = hosts_with(&[2]);
    fixture.deploy(&[("web", with_gpus(2, DeviceAmount::Count(1)))]);
    let placements: Vec<Command> = plan(&fixture.cluster, fixture.now).commands;
    let placed = |command: &Command, change: &dyn Fn(&mut Vec<BoundDevice>)| {
        let Command::Place(placement) = command else { panic!("{command:?}") };
        let mut placement = placement.clone();
        change(&mut placement.devices);
        Command::Place(placement)
    };
    type Change = fn(&mut Vec<BoundDevice>);
    let cases: [(&str, Change); 4] = [
        ("are not the ones in its spec", |devices| devices.clear()),
        ("are not the ones in its spec", |devices| devices.push(devices[0].clone())),
        ("are not the ones in its spec", |devices| devices[0].id = "GPU-99".into()),
        ("its spec does not request", |devices| {
            devices.push(BoundDevice { kind: "card".into(), ..devices[0].clone() })
        }),
    ];
    for (reason, change) in cases {
        let refused = fixture.refused(placed(&placements[0], &change));
        assert!(refused.contains(reason), "{refused}");
    }
    fixture.done(placements[0].clone());
    let refused = fixture.refused(placed(&placements[1], &|devices| devices[0].id = "GPU-10".into()));
    assert!(refused.contains("gpu GPU-10 is already booked on its host"), "{refused}");
    fixture.done(placements[1].clone());
}
