//! A cluster for tests of the cores: hosts that are ready, and commands in short.

use std::{collections::BTreeMap, sync::Arc};

use common::{
    api::Settings,
    host::{HostFacts, Liveness},
    id::{BootId, ClusterId, HostId, InstanceId, MemberId, StackId},
    instance::{Observed, Phase},
    name::{Name, default_environment},
    network::{NetworkPlan, Subnet},
    quantity::{Bytes, MilliCpu},
    secret::Secret,
    spec::{ServiceSpec, StackSpec, VolumeSpec},
    time::{Span, Timestamp},
    token::{JoinRole, SecretHash, TokenId},
};

use crate::{
    Batch, Command, Moment, Outcome, State,
    command::{Admission, Authority, Genesis, NewJoinToken},
    level::LEVEL,
    plan,
};

pub const BEGINNING: Timestamp = Timestamp(1_000_000);
pub const TOKEN: TokenId = TokenId([1; 5]);

pub fn name(text: &str) -> Name {
    Name::parse(text).expect("it is a name")
}

pub fn host(number: u8) -> HostId {
    HostId([number; 10])
}

pub fn stack() -> StackId {
    StackId { environment: default_environment(), stack: name("shop") }
}

pub fn instance(text: &str) -> InstanceId {
    format!("default/shop/{text}").parse().expect("it is an id")
}

pub fn web(change: impl FnOnce(&mut ServiceSpec)) -> ServiceSpec {
    let mut spec = ServiceSpec::of_image("web:1");
    change(&mut spec);
    spec
}

pub fn admission(number: u8) -> Admission {
    let from = [10, 0, 0, number];
    Admission {
        token: TOKEN,
        host: host(number),
        name: name(&format!("h{number}")),
        from: from.into(),
        address: (from, 7443).into(),
    }
}

pub fn facts(number: u8) -> HostFacts {
    HostFacts {
        hostname: format!("h{number}"),
        address: [10, 0, 0, number].into(),
        cpu: MilliCpu(2000),
        memory: Bytes(4 << 30),
        os: "linux".into(),
        arch: "x86_64".into(),
        kernel: String::new(),
        docker: "20.10".into(),
        agent: "0".into(),
        boot: BootId([0; 10]),
        devices: Default::default(),
        wireguard: None,
    }
}

/// What a host observes of an instance that has come so far: an address while it runs.
fn observed(id: &InstanceId, subnet: Subnet, phase: Phase) -> Observed {
    let number = u32::from(subnet.gateway()) + id.slot.slot;
    let address = (phase == Phase::Running).then(|| number.into());
    let exit_code = (phase == Phase::Failed).then_some(1);
    let message = exit_code.map_or_else(String::new, |code| format!("it ended with exit code {code}"));
    Observed { phase, address, exit_code, message, ..Observed::nothing() }
}

/// A cluster and its clock.
pub struct Fixture {
    pub cluster: State,
    pub now: Timestamp,
}

impl Fixture {
    /// So many hosts with 2 cores and 4 GiB each, all ready; the first one is a coordinator.
    pub fn of_hosts(count: u8) -> Fixture {
        let none = || Secret::new(Vec::new());
        let genesis = Genesis {
            cluster: ClusterId([9; 10]),
            authority: Authority {
                certificate: Vec::new(),
                key: none(),
                join_certificate: Vec::new(),
                join_key: none(),
            },
            settings: Settings::default(),
            network: NetworkPlan::default(),
            member: MemberId(1),
            address: ([10, 0, 0, 1], 7443).into(),
            host: host(1),
            name: name("h1"),
            level: LEVEL,
        };
        let token = NewJoinToken {
            id: TOKEN,
            secret: SecretHash([0; 32]),
            role: JoinRole::Agent,
            expires_at: Timestamp(u64::MAX),
            max_uses: 100,
            labels: BTreeMap::new(),
            from: None,
        };
        let mut fixture = Fixture { cluster: State::default(), now: BEGINNING };
        fixture.done(Command::Initialize(Box::new(genesis)));
        fixture.done(Command::PutJoinToken(Box::new(token)));
        for number in 2..=count {
            fixture.done(Command::Admit(Box::new(admission(number))));
        }
        for number in 1..=count {
            fixture.done(Command::HostReported { host: host(number), facts: facts(number), machine: [number; 16] });
            fixture.done(Command::HostLiveness { host: host(number), liveness: Liveness::Ready });
        }
        fixture
    }

    pub fn apply(&mut self, command: Command) -> Outcome {
        let outcomes = self.cluster.apply(&Batch { at: self.now, proposals: vec![command.into()] });
        outcomes.into_iter().next().expect("one command, one outcome")
    }

    #[track_caller]
    pub fn done(&mut self, command: Command) -> Outcome {
        match self.apply(command) {
            Outcome::Rejected(problem) => panic!("{problem}"),
            outcome => outcome,
        }
    }

    /// Expects a refusal that changes nothing; its text.
    #[track_caller]
    pub fn refused(&mut self, command: Command) -> String {
        let mut before = self.cluster.clone();
        // Time goes on all the same.
        before.apply(&Batch { at: self.now, proposals: Vec::new() });
        let Outcome::Rejected(problem) = self.apply(command) else { panic!("it was not refused") };
        assert_eq!(self.cluster, before, "a refusal changes nothing");
        problem.to_string()
    }

    /// A host's agent reports, and a person accepts whatever it says.
    pub fn report(&mut self, number: u8, facts: HostFacts) {
        self.done(Command::HostReported { host: host(number), facts, machine: [number; 16] });
        if let Some(expect) = self.cluster.hosts()[&host(number)].claims.waiting.clone() {
            self.done(Command::AcceptHost { host: host(number), expect });
        }
    }

    pub fn deploy(&mut self, services: &[(&str, ServiceSpec)]) {
        let services = services.iter().map(|(service, spec)| (name(service), spec.clone())).collect();
        let spec = Arc::new(StackSpec { services, volumes: [(name("data").into(), VolumeSpec::default())].into() });
        let what = "deployed".to_owned();
        self.done(Command::PutStack {
            id: stack(),
            spec,
            files: Vec::new(),
            expect_revision: None,
            what,
            goes_back: false,
        });
    }

    pub fn observe(&mut self, id: &str, phase: Phase) {
        let id = instance(id);
        let on = self.cluster.instances().get(&id).expect("it is there").host;
        let Observed { restart, retries, .. } = self.cluster.instances().get(&id).expect("it is there").observed;
        let subnet = self.cluster.hosts()[&on].subnet;
        let observed = Observed { restart, retries, ..observed(&id, subnet, phase) };
        self.done(Command::Observe { host: on, instances: vec![(id, observed)] });
    }

    /// Plans and applies until nothing is left to do; hosts start and end at once what they are told, but
    /// for the image `broken`.
    pub fn settle(&mut self) {
        self.settle_under(&|_| {});
    }

    /// The same for so long, with every step of the state shown to `watch`.
    pub fn pass(&mut self, span: Span, watch: &dyn Fn(&State)) {
        let end = self.now + span;
        loop {
            self.settle_under(watch);
            match plan(&self.cluster, Moment::from(self.now)).wake_at.filter(|wake| *wake <= end) {
                Some(wake) => self.now = wake,
                None => break,
            }
        }
        self.now = end;
    }

    /// How many instances of a service serve.
    pub fn serving(cluster: &State, service: &str) -> usize {
        let service = stack().service(name(service));
        let of_service = cluster.instances_of(&service);
        of_service.filter(|(_, instance)| instance.fills_slot() && instance.observed.is_serving()).count()
    }

    fn settle_under(&mut self, watch: &dyn Fn(&State)) {
        for _ in 0..50 {
            let plan = plan(&self.cluster, Moment::from(self.now));
            let idle = plan.commands.is_empty();
            for command in plan.commands {
                self.done(command);
                watch(&self.cluster);
            }
            let waiting: Vec<(InstanceId, HostId, Phase)> = self
                .cluster
                .instances()
                .iter()
                .filter_map(|(id, i)| {
                    use common::instance::Want;
                    let ready = self.cluster.hosts().get(&i.host)?.liveness == Liveness::Ready;
                    let phase = match i.desired.want {
                        Want::Run if i.spec.container.image == "broken" && !i.observed.phase.is_terminal() => {
                            Phase::Rejected
                        }
                        Want::Run if i.spec.container.image == "broken" => return None,
                        Want::Prepare | Want::Run if i.observed.phase < Phase::Running => Phase::Running,
                        Want::Purge => Phase::Purged,
                        _ => return None,
                    };
                    ready.then(|| (id.clone(), i.host, phase))
                })
                .collect();
            if idle && waiting.is_empty() {
                return;
            }
            for (id, host, phase) in waiting {
                let before = self.cluster.instances().get(&id).map(|i| (i.observed.restart, i.observed.retries));
                let (restart, retries) = before.unwrap_or_default();
                let message = if phase == Phase::Rejected { "there is no such image" } else { "" }.to_owned();
                let subnet = self.cluster.hosts()[&host].subnet;
                let observed = Observed { restart, retries, message, ..observed(&id, subnet, phase) };
                self.done(Command::Observe { host, instances: vec![(id, observed)] });
                watch(&self.cluster);
            }
        }
        panic!("it does not settle");
    }

    /// The instances that fill slots, as `web/1.1@h1`.
    pub fn filled(&self) -> Vec<String> {
        let shown = |(id, i): (&InstanceId, &crate::state::Instance)| {
            let full = id.to_string();
            let short = full.trim_start_matches("default/shop/").to_owned();
            let host = self.cluster.hosts().get(&i.host).map_or_else(String::new, |host| host.name.to_string());
            i.fills_slot().then(|| format!("{short}@{host}"))
        };
        self.cluster.instances().iter().filter_map(shown).collect()
    }
}
