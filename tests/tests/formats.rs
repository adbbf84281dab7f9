//! Every format that outlives a process or leaves it: data written once must stay readable. `WHARF_WRITE_GOLDEN=1`
//! writes missing files and never changes one. A changed format gets a new version and a new file, and still reads the
//! old one.

use std::{collections::BTreeMap, fmt::Debug, path::Path, sync::Arc};

use agent::{
    directory::{self, DIRECTORY_FORMAT},
    images::{self, IMAGES_FORMAT},
    ledger::{Contents, LEDGER_FORMAT},
};
use agent_core::{
    Local, Memory,
    images::{ImageId, ImageRecord, ReadyImage, Reference, ServicePart},
};
use common::{
    api::Settings,
    assignment::{AssignedInstance, Assignment, RegistryCredentials},
    codec::{self, Format},
    device::{BoundDevice, DeviceAmount, DeviceRequest, GPU},
    directory::{Difference, Endpoint, HostListing, Listing, Reach},
    error::{Code, Problem},
    file::{FileId, FileKind, FileSpec},
    finding::Finding,
    host::{Availability, HostCondition, HostFacts, HostLabels, Liveness, Oversubscription},
    id::{BootId, ClusterId, HostId, InstanceId, MemberId},
    instance::{BoundPort, Desired, Health, Observed, Phase, StopReason, Unprepared, Verdict, Want},
    name::Name,
    network::{Network, NetworkPlan, Overlay, Subnet, WireguardKey},
    output::LastLines,
    part::Part,
    quantity::{Bytes, MilliCpu},
    report::Report,
    role::{Grant, Role},
    rollout::RolloutState,
    secret::Secret,
    spec::{
        Attachment, Condition, ContainerSpec, ExposedPort, HealthCheck, HostAddress, HostEntry, MountSource, MountSpec,
        PortSpec, Propagation, Protocol, ServiceSpec, Sidekick, StackSpec, TmpfsOptions, Ulimit,
    },
    time::{Span, Timestamp},
    token::{ApiToken, JoinRole, JoinToken, Pin, SecretHash, TokenId},
    wire::{DirectoryPiece, Extension, Files, Hello, LogFrame, LogRequest, Open, Renewed, ToAgent, ToCoordinator},
};
use coordinator::{
    birth::{GENESIS_FORMAT, GenesisFile},
    raft::{
        ENTRY_FORMAT, Entry, SNAPSHOT_FORMAT, SnapshotFile,
        store::{EndMark, Facts, MARK_FORMAT, RECORD_FORMAT, Record, SEGMENT_FORMAT, SegmentHeader},
    },
    seal::{SEALING_KEY_FORMAT, SealingKey},
};
use coordinator_core::{
    Batch, Command, Proposal, RequestId, State,
    command::{Access, Admission, Authority, Genesis, NewFile, NewJoinToken, Person, Placement},
    state::Content,
};
use link::keyring::{KEYRING_FORMAT, Keyring};
use serde::{Serialize, de::DeserializeOwned};

const AT: Timestamp = Timestamp(1_790_000_000_000);
const CLUSTER: ClusterId = ClusterId([1; 10]);
const HOST: HostId = HostId([2; 10]);
const TOKEN: TokenId = TokenId([3; 5]);

fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if !path.exists() && std::env::var_os("WHARF_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).expect("the folder is there");
    }
    std::fs::read(&path).expect("the golden file is there: WHARF_WRITE_GOLDEN=1 writes those that are missing")
}

/// A sealed format: the golden file decodes to the sample, and a flipped bit anywhere is detected.
#[track_caller]
fn check_sealed<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, format: &Format, sample: T) {
    let bytes = golden(name, &format.seal(&sample).expect("seals"));
    let opened: T = format.open(&bytes).expect("what was written once can be read");
    assert_eq!(opened, sample, "{name} means what it meant");
    for position in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x10;
        assert!(format.open::<T>(&damaged).is_err(), "{name}: damage at {position} is noticed");
    }
    assert!(format.open::<T>(&bytes[..bytes.len() - 1]).is_err(), "{name}: a torn end is noticed");
}

/// A frame of the wire: the golden bytes decode to a value that encodes to the same bytes.
#[track_caller]
fn check_frame<T: Serialize + DeserializeOwned + Debug>(name: &str, samples: Vec<T>) {
    let bytes = golden(name, &codec::encode(&samples).expect("encodes"));
    let decoded: Vec<T> = codec::decode(&bytes).expect("what was sent once can be read");
    assert_eq!(format!("{decoded:?}"), format!("{samples:?}"), "{name} means what it meant");
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("it is a name")
}

fn instance() -> InstanceId {
    "default/shop/web/2.3".parse().expect("it is an id")
}

fn facts() -> HostFacts {
    HostFacts {
        hostname: "h1".into(),
        address: [10, 0, 0, 1].into(),
        cpu: MilliCpu(2000),
        memory: Bytes(4 << 30),
        os: "linux".into(),
        arch: "x86_64".into(),
        kernel: "6.1".into(),
        docker: "20.10".into(),
        agent: "0.1.0".into(),
        boot: BootId([4; 10]),
        devices: [("gpu".to_owned(), vec!["GPU-1".to_owned()])].into(),
        wireguard: Some(WireguardKey([5; 32])),
    }
}

fn conditions() -> Vec<HostCondition> {
    let disk = HostCondition::DiskFull { path: "/var/lib/docker".into(), size: Bytes(1 << 30) };
    vec![HostCondition::DockerSilent { since: AT }, disk]
}

fn device() -> BoundDevice {
    BoundDevice { part: Part::Main, kind: GPU.into(), id: "GPU-1".into() }
}

fn labels() -> HostLabels {
    BTreeMap::from([("disk".to_owned(), "ssd".to_owned())])
}

fn spec() -> ServiceSpec {
    let mut spec = ServiceSpec::of_image("shop/web:1");
    spec.container.command = Some(vec!["serve".into()]);
    spec.container.environment.insert("MODE".into(), "live".into());
    spec.ports.push(PortSpec { container: 80, published: Some(8080), protocol: Protocol::Tcp, host_ip: None });
    spec.expose = [ExposedPort { container: 9100, protocol: Protocol::Tcp }].into();
    spec.container.mounts.push(MountSpec::of(MountSource::Volume(name("data").into()), "/data"));
    let bind = MountSpec::of(MountSource::Bind("/etc".into()), "/host");
    spec.container.mounts.push(MountSpec { read_only: true, propagation: Some(Propagation::Rslave), ..bind });
    spec.container.mounts.push(MountSpec::of(MountSource::Tmpfs(TmpfsOptions::default()), "/run"));
    spec.container.hostname = Some("web-{{.Task.Slot}}".into());
    spec.container.tuning.ulimits.insert("nofile".into(), Ulimit { soft: 1024, hard: 2048 });
    spec.container.isolation.cap_drop = vec!["ALL".into()];
    spec.container.extra_hosts.push(HostEntry { name: "box".into(), address: HostAddress::HostGateway });
    let aliases = ["db.example".parse().expect("a host name")].into();
    spec.networks.insert(name("back"), Attachment { internal: true, aliases });
    spec.container.files.push(FileSpec { version: Some(1), ..FileSpec::of(FileKind::Secret, name("key")) });
    spec.container.healthcheck = Some(HealthCheck::of(vec!["CMD".into(), "true".into()]));
    let request = DeviceRequest { amount: DeviceAmount::Count(1), capabilities: vec!["compute".into()] };
    spec.container.devices.insert(GPU.into(), request);
    spec.pre_start.push(ContainerSpec::of_image("shop/migrate:1"));
    let depends_on = BTreeMap::from([(name("web"), Condition::Started)]);
    spec.sidekicks.insert(name("proxy"), Sidekick { container: ContainerSpec::of_image("shop/proxy:1"), depends_on });
    spec.constraints.push("disk == ssd".parse().expect("a constraint"));
    spec.depends_on.insert(name("db"), Condition::Healthy);
    spec
}

fn observed() -> Observed {
    Observed {
        restart: 2,
        retries: 1,
        phase: Phase::Running,
        health: Health::Healthy,
        exit_code: Some(1),
        started_at: Some(AT),
        image_digest: Some("sha256:ab".into()),
        address: Some([10, 42, 0, 2].into()),
        message: "it ended with exit code 1".into(),
        failure: "it ended with exit code 1".into(),
        output: LastLines::of(b"FATAL: no database"),
        unprepared: Some(Unprepared { image: "shop/web:1".into(), since: AT }),
    }
}

fn credentials() -> RegistryCredentials {
    RegistryCredentials { registry: "r:5000".into(), username: "u".into(), password: Secret::new("p".into()) }
}

fn genesis() -> Genesis {
    Genesis {
        cluster: CLUSTER,
        authority: Authority {
            certificate: vec![1],
            key: Secret::new(vec![2]),
            join_certificate: vec![3],
            join_key: Secret::new(vec![4]),
        },
        settings: Settings::default(),
        network: NetworkPlan::default(),
        member: MemberId(1),
        address: ([10, 0, 0, 1], 7443).into(),
        host: HOST,
        name: name("h1"),
        level: 1,
    }
}

/// One command of every kind that feature level 1 has.
fn commands() -> Vec<Command> {
    [commands_on_stacks(), commands_on_the_rest()].concat()
}

/// The commands that feature level 2 added.
fn commands_of_level_2() -> Vec<Command> {
    let environments = Some([name("default")].into());
    let grant = Grant { role: Role::Operator, environments };
    vec![Command::PutToken { id: TokenId([8; 5]), name: name("ops"), grant, secret: SecretHash([6; 32]) }]
}

fn commands_on_stacks() -> Vec<Command> {
    let stack: common::id::StackId = instance().stack().clone();
    let service = instance().service().clone();
    let spec = StackSpec { services: BTreeMap::from([(name("web"), spec())]), ..StackSpec::default() };
    vec![
        Command::Initialize(Box::new(genesis())),
        Command::PutSettings(Settings::default()),
        Command::PutStack {
            id: stack.clone(),
            spec: Arc::new(spec),
            files: vec![NewFile {
                kind: FileKind::Secret,
                name: name("key"),
                content: Content::Sealed(Arc::from(*b"sealed")),
            }],
            expect_revision: Some(0),
            what: "deployed".into(),
            goes_back: false,
        },
        Command::RemoveStack(stack),
        Command::ScaleService { id: service.clone(), replicas: 3 },
        Command::MoveRollout {
            service: service.clone(),
            expect_revision: 1,
            state: RolloutState::Paused,
            why: "a reason".into(),
        },
        Command::RollBack { service: service.clone(), expect_revision: 1, why: "a reason".into() },
        Command::Promote { service: service.clone(), expect_revision: 1 },
        Command::Rebalance { services: vec![service.clone()] },
        Command::EndRebalance(service.clone()),
        Command::Tick { service: service.clone(), due: AT, left_out: Some("a reason".into()) },
        Command::Retry(service.clone()),
        Command::PinImage { service, expect_revision: 1, digest: "sha256:ab".into() },
    ]
}

fn commands_on_the_rest() -> Vec<Command> {
    let from = [10, 0, 0, 2];
    let environment = name("default");
    let config = FileId { environment: environment.clone(), stack: None, kind: FileKind::Config, name: name("app") };
    vec![
        Command::PutJoinToken(Box::new(NewJoinToken {
            id: TOKEN,
            secret: SecretHash([5; 32]),
            role: JoinRole::Coordinator,
            expires_at: AT,
            max_uses: 1,
            labels: labels(),
            from: Some((from.into(), 24)),
        })),
        Command::RevokeJoinToken(TOKEN),
        Command::Admit(Box::new(Admission {
            token: TOKEN,
            host: HOST,
            name: name("h2"),
            from: from.into(),
            address: (from, 7443).into(),
        })),
        Command::PutApiToken { id: TOKEN, name: name("ci"), access: Access::Viewer, secret: SecretHash([6; 32]) },
        Command::RemoveApiToken(TOKEN),
        Command::PutEnvironment(environment.clone()),
        Command::RemoveEnvironment(environment.clone()),
        Command::PutFile { id: config.clone(), content: Content::Plain(Arc::from(*b"plain")) },
        Command::RemoveFile(config),
        Command::PutRegistry(credentials()),
        Command::RemoveRegistry("r:5000".into()),
        Command::HostReported { host: HOST, facts: facts(), machine: [7; 16] },
        Command::HostLeaves(HOST),
        Command::HostConditions { host: HOST, conditions: conditions() },
        Command::HostLiveness { host: HOST, liveness: Liveness::Down { since: AT } },
        Command::PutHostLabels { host: HOST, labels: labels() },
        Command::SetAvailability { host: HOST, availability: Availability::Draining { deadline: AT } },
        Command::Oversubscribe { host: HOST, oversubscription: Oversubscription { cpu: 150, memory: 100 } },
        Command::RemoveHost(HOST),
        Command::Place(Box::new(Placement {
            slot: instance().slot.clone(),
            expect_incarnation: 2,
            expect_revision: 1,
            revision: 1,
            host: HOST,
            ports: vec![8080],
            devices: vec![device()],
            replaces: Some(instance()),
            unknown_since: Some(AT),
        })),
        Command::Desire {
            instance: instance(),
            desired: Desired { want: Want::Purge, reason: Some(StopReason::ScaledDown) },
        },
        Command::Observe { host: HOST, instances: vec![(instance(), observed())] },
        Command::Judge { instance: instance(), verdict: Verdict::Unknown { since: AT } },
        Command::MemberUnderstands { member: MemberId(2), level: 1 },
        Command::RaiseLevel(2),
        Command::MemberAddress { member: MemberId(2), address: (from, 7443).into() },
        Command::RemoveMember(MemberId(2)),
        Command::MemberReached { member: MemberId(2), reached: false },
        Command::ForgetMember(MemberId(2)),
        Command::PutKey { environment: environment.clone(), key: "a/b".into(), value: Arc::from(*b"v") },
        Command::RemoveKey { environment, key: "a/b".into() },
    ]
}

fn batch() -> Batch {
    let person = Person { token: TokenId([7; 5]), name: name("admin"), from: None };
    let proposal = |command| Proposal { request: Some(RequestId([8; 16]).into()), by: Some(person.clone()), command };
    Batch { at: AT, proposals: commands().into_iter().map(proposal).collect() }
}

fn findings() -> Vec<Finding> {
    let (peer, why) = (NetworkPlan::default().subnets().next().expect("it has some"), "no".to_owned());
    vec![
        Finding::Unheard { peer, answers: true },
        Finding::Narrow { peer, mtu: 1450 },
        Finding::Network { why: why.clone() },
        Finding::Names { why },
        Finding::Disk { path: "/".into(), size: Bytes(1 << 40) },
        Finding::Clock { seconds: 60 },
        Finding::Unreached { peer },
        Finding::Certificate { ends: Timestamp(1) },
        Finding::Service { service: "default/shop/web".parse().expect("an id") },
        Finding::Connections { most: 1 << 18 },
    ]
}

fn difference() -> Difference {
    let listing = Listing {
        address: Some([10, 43, 0, 1].into()),
        is_sticky: true,
        ports: vec![(80, Protocol::Tcp)],
        joins: [name("shared")].into(),
        replicas: Some(2),
        labels: labels(),
        networks: [(name("back"), ["db.example".parse().expect("a host name")].into())].into(),
        reach: Reach { is_internal: true, ..Reach::default() },
        resolvers: vec![[10, 0, 0, 53].into()],
    };
    let host = HostListing {
        id: HOST,
        name: name("h2"),
        address: Some([10, 0, 0, 2].into()),
        key: Some(WireguardKey([6; 32])),
        labels: labels(),
    };
    let subnet = NetworkPlan::default().subnets().next().expect("it has some");
    let endpoint = Endpoint { address: [10, 42, 0, 2].into(), serves: true };
    Difference {
        services: vec![(instance().service().clone(), Some(listing))],
        instances: vec![(instance(), Some(endpoint)), (instance(), None)],
        hosts: vec![(subnet, Some(host)), (subnet, None)],
    }
}

fn assignment() -> Assignment {
    Assignment {
        cluster: CLUSTER,
        host: HOST,
        generation: 7,
        network: Network::Overlay(Overlay {
            plan: NetworkPlan::default(),
            own: Subnet("10.42.0.0/24".parse().expect("a range")),
        }),
        instances: vec![AssignedInstance {
            id: instance(),
            desired: Desired { want: Want::Run, reason: None },
            spec: Arc::new(spec()),
            image: "shop/web@sha256:ab".into(),
            ports: vec![BoundPort { spec: spec().ports[0].clone(), host: 8080 }],
            devices: vec![device()],
            restarts: 1,
            retries: 0,
            ended: Some(Phase::Failed),
            credentials: vec![credentials()],
        }],
        surplus: [instance()].into(),
    }
}

#[test]
fn log_entries_can_be_read_for_ever() {
    let log_id = openraft::LogId::new(openraft::CommittedLeaderId::new(3, 1), 9);
    let entry = Entry { log_id, payload: openraft::EntryPayload::Normal(batch().into()) };
    let bytes = golden("entry-1.bin", &ENTRY_FORMAT.seal(&entry).expect("seals"));
    let opened: Entry = ENTRY_FORMAT.open(&bytes).expect("what was written once can be read");
    let openraft::EntryPayload::Normal(found) = opened.payload else { panic!("it is a batch") };
    assert_eq!((opened.log_id, found), (log_id, Arc::new(batch())));
    let added = commands_of_level_2().into_iter().map(|command| Proposal { command, ..batch().proposals[0].clone() });
    let added = Batch { at: AT, proposals: added.collect() };
    let entry = Entry { log_id, payload: openraft::EntryPayload::Normal(added.clone().into()) };
    let bytes = golden("entry-1-level-2.bin", &ENTRY_FORMAT.seal(&entry).expect("seals"));
    let opened: Entry = ENTRY_FORMAT.open(&bytes).expect("what was written once can be read");
    let openraft::EntryPayload::Normal(found) = opened.payload else { panic!("it is a batch") };
    assert_eq!(found, Arc::new(added));
    // A batch that is a sample of everything must also be one that can be applied.
    assert_eq!(State::default().apply(&batch()).len(), commands().len());
}

#[test]
fn records_can_be_read_for_ever() {
    let id = |index| openraft::LogId::new(openraft::CommittedLeaderId::new(3, 1), index);
    let vote = openraft::Vote::<u64>::new_committed(4, 1);
    let facts =
        Facts { owner: MemberId(1), vote: Some(vote), committed: Some(id(8)), purged: Some(id(5)), last: Some(id(9)) };
    let records = [
        ("base", Record::Base(facts)),
        ("vote", Record::Vote(vote)),
        ("truncate", Record::Truncate(7)),
        ("purge", Record::Purge(id(5))),
        ("committed", Record::Committed(id(8))),
    ];
    for (name, record) in records {
        check_sealed(&format!("record-2-{name}.bin"), &RECORD_FORMAT, record);
    }
    check_sealed("segment-1.bin", &SEGMENT_FORMAT, SegmentHeader { generation: 7, salt: 9, first: 11 });
    check_sealed("end-mark-1.bin", &MARK_FORMAT, EndMark { sequence: 12 });
}

#[test]
fn snapshots_can_be_read_for_ever() {
    let mut cluster = State::default();
    for command in commands() {
        cluster.apply(&Batch { at: AT, proposals: vec![command.into()] });
    }
    cluster = check_snapshot("snapshot-level-1.bin", cluster);
    let understood = cluster.members().keys().map(|member| Command::MemberUnderstands { member: *member, level: 2 });
    let raised = understood.chain([Command::RaiseLevel(2)]).map(Proposal::from).collect();
    cluster.apply(&Batch { at: AT, proposals: raised });
    assert_eq!(cluster.level(), 2);
    for command in commands_of_level_2() {
        cluster.apply(&Batch { at: AT, proposals: vec![command.into()] });
    }
    check_snapshot("snapshot-level-2.bin", cluster);
}

/// A snapshot of a feature level: every version from that level on reads it, and writes it in the same way, so members
/// of two versions can send it to each other. The wording of its events may be that of another version.
fn check_snapshot(name: &str, cluster: State) -> State {
    let hash = cluster.hash().expect("it is hashed");
    let sample = SnapshotFile { meta: openraft::SnapshotMeta::default(), cluster };
    let bytes = golden(name, &SNAPSHOT_FORMAT.seal(&sample).expect("seals"));
    let opened: SnapshotFile = SNAPSHOT_FORMAT.open(&bytes).expect("what was written once can be read");
    assert_eq!(opened.cluster.hash().expect("it is hashed"), hash, "{name} means what it meant");
    assert_eq!(SNAPSHOT_FORMAT.seal(&opened).expect("seals"), bytes, "{name} is written as it was");
    for position in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x10;
        assert!(SNAPSHOT_FORMAT.open::<SnapshotFile>(&damaged).is_err(), "{name}: damage at {position} is noticed");
    }
    assert!(SNAPSHOT_FORMAT.open::<SnapshotFile>(&bytes[..bytes.len() - 1]).is_err(), "{name}: a torn end is noticed");
    opened.cluster
}

/// Two images that wharf pulled for a service.
fn image_record() -> ImageRecord {
    let mut record = ImageRecord::default();
    for (id, tag) in [("sha256:a", "shop/web:1"), ("sha256:b", "shop/web:2")] {
        let references = [tag.to_owned(), format!("shop/web@{id}")].iter().map(|text| Reference::of(text)).collect();
        let ready = ReadyImage::pulled(&Reference::of(tag), ImageId(id.into()), references, &[]);
        record.note(ServicePart::from(&instance().main()), ready, AT);
    }
    record
}

#[test]
fn files_of_a_host_can_be_read_for_ever() {
    let memory = Memory(BTreeMap::from([(instance().main(), Local { observed: observed(), ..Local::accepted() })]));
    let contents = Contents { assignment: assignment(), memory };
    check_sealed("ledger-1.bin", &LEDGER_FORMAT, contents);
    let known = directory::Contents { cluster: CLUSTER, directory: difference() };
    check_sealed("directory-1.bin", &DIRECTORY_FORMAT, known);
    let record = image_record();
    check_sealed("images-1.bin", &IMAGES_FORMAT, images::Contents { cluster: CLUSTER, host: HOST, record });
    let keyring = Keyring {
        cluster: CLUSTER,
        host: HOST,
        member: Some(MemberId(1)),
        name: name("h1"),
        certificate: vec![1],
        key: Secret::new(vec![2]),
        root: vec![3],
        coordinators: vec![([10, 0, 0, 1], 7443).into()],
        advertise: Some(([10, 0, 0, 1], 7443).into()),
        further: Default::default(),
    };
    check_sealed("keyring-1.bin", &KEYRING_FORMAT, keyring);
    check_sealed("sealing-key-1.bin", &SEALING_KEY_FORMAT, SealingKey(Secret::new([11; 32])));
    let file = GenesisFile { genesis: genesis(), admin: (TOKEN, SecretHash([6; 32])) };
    check_sealed("genesis-1.bin", &GENESIS_FORMAT, file);
}

#[test]
fn tokens_can_be_read_for_ever() {
    let join = JoinToken { id: TOKEN, pin: Pin([9; 32]), secret: Secret::new([10; 16]) };
    let text = golden("join-token-1.txt", join.reveal().as_bytes());
    assert_eq!(String::from_utf8(text).expect("text").parse::<JoinToken>(), Ok(join));
    let api = ApiToken { id: TOKEN, secret: Secret::new([10; 16]) };
    let text = golden("api-token-1.txt", api.reveal().as_bytes());
    assert_eq!(String::from_utf8(text).expect("text").parse::<ApiToken>(), Ok(api));
}

#[test]
fn frames_can_be_read_by_later_versions() {
    let hello = Hello { host: HOST, facts: facts(), generation: 7, machine: [7; 16] };
    let request = LogRequest {
        part: instance().main(),
        tail: Some(10),
        follow: true,
        after: Some("2026-01-01T00:00:00.000000001Z".into()),
    };
    let problem = || Problem::new(Code::HostRemoved, "what").why("why").fix("fix");
    check_frame(
        "open-1.bin",
        vec![
            Open::Session(hello),
            Open::Renew(vec![1]),
            Open::Member(vec![2]),
            Open::Logs(request),
            Open::SealingKey,
            Open::Findings,
            Open::Files(instance()),
        ],
    );
    check_frame("files-1.bin", vec![Files::Contents(vec![Secret::new(vec![1])]), Files::Refused(problem())]);
    let report = Report { generation: 7, instances: vec![(instance(), observed())], unknown: [instance()].into() };
    check_frame(
        "to-coordinator-1.bin",
        vec![
            ToCoordinator::Report { number: 1, report },
            ToCoordinator::Beat { sent: AT.0 },
            ToCoordinator::Facts(facts()),
            ToCoordinator::Leaving,
            ToCoordinator::Conditions(conditions()),
            ToCoordinator::Findings(findings()),
        ],
    );
    let coordinators = vec![([10, 0, 0, 1], 7443).into()];
    check_frame(
        "to-agent-1.bin",
        vec![
            ToAgent::Welcome { heartbeat: Span::seconds(5), coordinators: coordinators.clone() },
            ToAgent::Redirect { leader: Some(coordinators[0]) },
            ToAgent::Refused(problem()),
            ToAgent::Assignment(Box::new(assignment())),
            ToAgent::Directory(DirectoryPiece { anew: true, difference: difference(), more: false }),
            ToAgent::BeatAck {
                sent: AT.0,
                extension: Extension { times: Settings::default().lease(), instances: vec![instance()] },
                at: AT,
            },
            ToAgent::ReportAck { number: 1 },
            ToAgent::Coordinators(coordinators),
            ToAgent::Farewell,
        ],
    );
    check_frame("renewed-1.bin", vec![Renewed::Certificate(vec![1]), Renewed::Refused(problem())]);
    check_frame(
        "log-frame-1.bin",
        vec![
            LogFrame::Output { stderr: true, bytes: b"x".to_vec(), at: "2026-01-01T00:00:00.000000001Z".into() },
            LogFrame::Failed(problem()),
            LogFrame::End,
        ],
    );
}
