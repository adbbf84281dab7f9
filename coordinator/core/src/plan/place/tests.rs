use common::{
    device::{DeviceAmount, DeviceRequest, GPU},
    host::HostFacts,
    quantity::{Bytes, MilliCpu},
    spec::{PortSpec, Protocol},
};

use super::*;
use crate::testing::{Fixture, facts, name, stack, web};

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn some_service(numbers: &mut Numbers) -> ServiceSpec {
    web(|spec| {
        spec.container.reservations.cpu = MilliCpu(numbers.below(4) * 250);
        spec.container.reservations.memory = Bytes(numbers.below(4) << 28);
        if numbers.below(2) == 0 {
            let texts = ["node.hostname != h1", "node.hostname in (h1, h2)", "engine.version >= 20"];
            spec.prefer.push(texts[numbers.below(3) as usize].parse().expect("a constraint"));
        }
        if numbers.below(3) == 0 {
            let amount = DeviceAmount::Count(1 + numbers.below(2) as u32);
            spec.container.devices.insert(GPU.to_owned(), DeviceRequest { amount, capabilities: Vec::new() });
        }
        spec.max_per_host = (numbers.below(3) == 0).then(|| 1 + numbers.below(4) as u32);
        for port in 0..numbers.below(3) as u16 {
            let published = (numbers.below(2) == 0).then_some(8000 + port);
            spec.ports.push(PortSpec { container: 80 + port, published, protocol: Protocol::Tcp, host_ip: None });
        }
    })
}

/// The obvious way: look at every host for every instance.
fn place_slowly(placer: &mut Placer<'_>, incarnation: u64) -> Result<(HostId, Booked), Vec<Blocked>> {
    placer.count_own_once();
    let seat = Seat { incarnation, only: None, leaving: None, spec: placer.spec };
    let (index, booked) = placer.best_scanned(&seat).map_err(|refusals| placer.hosts.unfit(placer.spec, refusals))?;
    placer.hosts.take(index, placer.subject.id, placer.spec, &booked);
    placer.own[index] += 1;
    Ok((placer.hosts.rows()[index].id, booked))
}

#[test]
fn the_ranking_chooses_what_a_look_at_every_host_chooses() {
    for seed in 0..300 {
        let mut numbers = Numbers(seed);
        let mut fixture = Fixture::of_hosts(1 + numbers.below(12) as u8);
        for number in 1..=fixture.cluster.hosts().len() as u8 {
            let (cpu, memory) = (MilliCpu(numbers.below(9) * 500), Bytes(numbers.below(9) << 29));
            let gpus: Vec<String> = (0..numbers.below(5)).map(|gpu| format!("GPU-{gpu}")).collect();
            let devices = [(GPU.to_owned(), gpus)].into();
            let facts = HostFacts { cpu, memory, devices, ..facts(number) };
            fixture.report(number, facts);
        }
        // Something is there already.
        let other = some_service(&mut numbers);
        fixture.deploy(&[("other", other.clone())]);
        fixture.settle();
        fixture.deploy(&[("other", other), ("web", some_service(&mut numbers))]);
        let id = stack().service(name("web"));
        let service = fixture.cluster.service(&id).expect("it was deployed");
        let subject = Subject::of(&fixture.cluster, &id, service, fixture.now.into());
        let (mut fast, mut slow) = (HostTable::of(&fixture.cluster), HostTable::of(&fixture.cluster));
        let (mut fast, mut slow) = (Placer::new(&mut fast, &subject), Placer::new(&mut slow, &subject));
        for incarnation in 0..60 {
            let seat = Seat { incarnation, only: None, leaving: None, spec: &service.spec };
            let chosen = fast.choose(&seat).map(|choice| (choice.host, choice.booked));
            assert_eq!(chosen, place_slowly(&mut slow, incarnation), "seed {seed}, instance {incarnation}");
        }
    }
}
