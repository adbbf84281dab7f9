//! The state of a large cluster without real hosts, to measure the pure core.

use std::collections::BTreeMap;

use common::{
    api::Settings,
    host::{HostFacts, Liveness},
    id::{BootId, ClusterId, HostId, InstanceId, MemberId, ServiceId, StackId},
    instance::{Observed, Phase},
    name::{Name, default_environment},
    network::NetworkPlan,
    quantity::{Bytes, MilliCpu},
    secret::Secret,
    spec::{ServiceSpec, StackSpec},
    time::{Span, Timestamp},
    token::{JoinRole, SecretHash, TokenId},
};
use coordinator_core::{
    Batch, Command, Moment, Outcome, State,
    command::{Admission, Authority, Genesis, NewJoinToken},
};

/// The maximum number of hosts that a join token admits.
const USES: u32 = 1000;

/// Parses a valid name.
pub fn name(text: &str) -> Name {
    Name::parse(text).expect("it is a name")
}

/// The host with this number.
pub fn host_id(number: u32) -> HostId {
    let mut id = [0; 10];
    id[..4].copy_from_slice(&number.to_be_bytes());
    HostId(id)
}

/// A cluster's state and the current time.
pub struct World {
    /// The replicated state, as a coordinator holds it.
    pub cluster: State,
    now: Timestamp,
}

impl World {
    /// A cluster of this many empty hosts.
    pub fn of_hosts(count: u32) -> World {
        let none = || Secret::new(Vec::new());
        let authority =
            Authority { certificate: Vec::new(), key: none(), join_certificate: Vec::new(), join_key: none() };
        let genesis = Genesis {
            cluster: ClusterId([1; 10]),
            authority,
            settings: Settings::default(),
            network: NetworkPlan {
                // Ten thousand hosts need a large range.
                containers: "10.0.0.0/10".parse().expect("a range"),
                ..NetworkPlan::default()
            },
            member: MemberId(1),
            address: ([10, 0, 0, 1], 7443).into(),
            host: host_id(0),
            name: name("h0"),
            level: coordinator_core::level::LEVEL,
        };
        let mut world = World { cluster: State::default(), now: Timestamp(1_000_000) };
        world.apply(vec![Command::Initialize(Box::new(genesis))]);
        for number in 1..count {
            let token = TokenId([1, 0, 0, (number / USES) as u8, 0]);
            if number % USES == 0 || number == 1 {
                world.apply(vec![Command::PutJoinToken(Box::new(NewJoinToken {
                    id: token,
                    secret: SecretHash([0; 32]),
                    role: JoinRole::Agent,
                    expires_at: Timestamp(u64::MAX),
                    max_uses: USES,
                    labels: BTreeMap::new(),
                    from: None,
                }))]);
            }
            world.apply(vec![Command::Admit(Box::new(Admission {
                token,
                host: host_id(number),
                name: name(&format!("h{number}")),
                from: [10, 0, 0, 1].into(),
                address: ([10, 0, 0, 1], 7443).into(),
            }))]);
        }
        for number in 0..count {
            let liveness = Command::HostLiveness { host: host_id(number), liveness: Liveness::Ready };
            let reported = World::reported(number, (number >> 8) as u8);
            world.apply(vec![reported, liveness]);
        }
        world
    }

    /// The report of a host; `third` is the third byte of its address.
    pub fn reported(number: u32, third: u8) -> Command {
        let facts = HostFacts {
            hostname: format!("h{number}"),
            address: [10, 0, third, number as u8].into(),
            cpu: MilliCpu(64_000),
            memory: Bytes(256 << 30),
            os: "linux".into(),
            arch: "x86_64".into(),
            kernel: "6.1".into(),
            docker: "28".into(),
            agent: "0".into(),
            boot: BootId([0; 10]),
            devices: Default::default(),
            wireguard: None,
        };
        Command::HostReported { host: host_id(number), facts, machine: [0; 16] }
    }

    /// Applies commands, none of which may be refused.
    pub fn apply(&mut self, commands: Vec<Command>) {
        let proposals = commands.into_iter().map(Into::into).collect();
        for outcome in self.cluster.apply(&Batch { at: self.now, proposals }) {
            if let Outcome::Rejected(problem) = outcome {
                panic!("{problem}");
            }
        }
    }

    /// Deploys a service with this many replicas.
    pub fn deploy(&mut self, stack: &str, replicas: u32) -> ServiceId {
        let mut spec = ServiceSpec::of_image("web:1");
        spec.replicas = replicas;
        spec.container.reservations.memory = Bytes(64 << 20);
        spec.container.reservations.cpu = MilliCpu(100);
        self.put(stack, spec)
    }

    /// Deploys a service.
    pub fn put(&mut self, stack: &str, spec: ServiceSpec) -> ServiceId {
        let id = StackId { environment: default_environment(), stack: name(stack) };
        let spec = StackSpec { services: [(name("web"), spec)].into(), ..StackSpec::default() };
        let service = id.service(name("web"));
        let what = String::new();
        self.apply(vec![Command::PutStack {
            id,
            spec: spec.into(),
            files: Vec::new(),
            expect_revision: None,
            what,
            goes_back: false,
        }]);
        service
    }

    /// Reports that everything placed runs, and has run for a long time.
    pub fn run_all(&mut self) {
        let starting = self.cluster.instances().iter().filter(|(_, i)| i.observed.phase == Phase::Assigned);
        let started: Vec<(InstanceId, HostId)> = starting.map(|(id, i)| (id.clone(), i.host)).collect();
        let mut last = BTreeMap::new();
        for (id, host) in started {
            let subnet = self.cluster.hosts().get(&host).expect("it is there").subnet;
            let address = subnet.containers_after(*last.get(&host).unwrap_or(&subnet.gateway())).next();
            last.extend(address.map(|address| (host, address)));
            let observed = Observed { phase: Phase::Running, address, ..Observed::nothing() };
            self.apply(vec![Command::Observe { host, instances: vec![(id, observed)] }]);
        }
        self.now = self.now + Span::minutes(1);
    }

    /// The current moment, for a planner.
    pub fn at(&self) -> Moment {
        Moment { now: self.now, leading_since: Timestamp(0) }
    }
}
