//! The keys of a cluster are changed while it runs: sessions stay, secrets can be read, and a leader that is killed in
//! the middle changes nothing of that. Hosts come back whose certificate ended while they were off.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::ensure;
use bytes::Bytes;
use cli::{
    client::Client,
    context::{Context, certificate_text},
};
use common::{
    api::{Settings, TrustKey, TrustView},
    hex,
    id::MemberId,
    network::NetworkPlan,
    time::Timestamp,
    wire::PeerIdentity,
};
use coordinator::{
    birth::{GENESIS_FORMAT, GenesisFile, Newborn, make_cluster},
    seal::{self, Purpose, SealingKey, Seals},
};
use coordinator_core::{
    command::{Authority, Genesis},
    sealed::WITH_KEY,
};
use hyper::Method;
use link::{
    clock::now,
    identity::{Certified, make_request, pin_of, sign, validity_of},
    keyring::Keyring,
};
use rustls::{
    DigitallySignedStruct,
    client::danger::{HandshakeSignatureValid, ServerCertVerified},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tests::{load, processes::Group, wait::until_async};

const SOON: Duration = Duration::from_secs(60);
const SECRETS: usize = 40;
const VALUE: &str = "correct-horse-battery";

fn wharf() -> PathBuf {
    load::load().with_file_name("wharf")
}

/// Three coordinators, each with the sealing key.
async fn three(folder: &Path, wharf: &Path) -> Group {
    let group = Group::of_three(folder, wharf).await;
    for member in &group.members {
        until_async(SOON, "it has the sealing key", async || {
            let keys = std::fs::read_dir(member.state().with_file_name("keys"))?.next();
            ensure!(keys.is_some(), "there is no file");
            Ok(())
        })
        .await;
    }
    group
}

async fn key(group: &Group, member: usize, kind: &str) -> anyhow::Result<TrustKey> {
    let trust: TrustView =
        group.client(member).get("/api/v1/trust").await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
    Ok(trust.keys.into_iter().find(|key| key.kind == kind).expect("each kind is listed"))
}

/// Waits until a key is not being changed; its id.
async fn at_rest(group: &Group, member: usize, kind: &str) -> String {
    until_async(SOON, &format!("the {kind} is not being changed"), async || {
        let key = key(group, member, kind).await?;
        ensure!(key.phase == "in use" && key.id.is_some(), "{key:?}");
        Ok(key.id.unwrap_or_default())
    })
    .await
}

async fn rotate(group: &Group, member: usize, what: &str) {
    let sent = group.client(member).send(Method::POST, &format!("/api/v1/trust/{what}"), Bytes::new()).await;
    sent.unwrap_or_else(|problem| panic!("{what}: {problem}"));
}

/// How often a leader was chosen or lost, by all logs.
fn elections(group: &Group) -> usize {
    let logs = group.members.iter().map(|member| member.log());
    logs.map(|log| log.lines().filter(|line| line.contains("leadership changed")).count()).sum()
}

/// Changes a key, and checks that no agent has lost its session by it. Where the machine is so busy that another leader is
/// chosen meanwhile, nothing can be said of sessions, and it is changed once more.
async fn rotate_under_sessions(group: &Group, member: usize, what: &str) {
    for _ in 0..10 {
        let before = at_rest(group, member, what).await;
        let (sessions, elected) = (all_sessions(group).await, elections(group));
        rotate(group, member, what).await;
        until_async(SOON, &format!("another {what} is in use"), async || {
            let key = key(group, member, what).await?;
            ensure!(key.phase == "in use" && key.id.as_ref() != Some(&before), "{key:?}");
            Ok(())
        })
        .await;
        if elections(group) == elected {
            assert_eq!(all_sessions(group).await, sessions, "no agent has lost its session");
            return;
        }
    }
    panic!("there was another leader each time");
}

async fn set_secrets(group: &Group, member: usize) {
    for number in 0..SECRETS {
        let path = format!("/api/v1/environments/default/secrets/s{number}");
        let set = group.client(member).send(Method::PUT, &path, Bytes::from(VALUE)).await;
        set.unwrap_or_else(|problem| panic!("{problem}"));
    }
}

/// Whether a coordinator can open a secret: setting the same value makes no new version if it can.
async fn opens(group: &Group, member: usize) -> bool {
    let path = "/api/v1/environments/default/secrets/s7";
    let answer = group.client(member).send(Method::PUT, path, Bytes::from(VALUE)).await.expect("it is set");
    let put: common::api::FilePut = cli::client::read(answer).await.expect("it is understood");
    put.version == 1
}

/// The sealing keys on a member's disk.
fn keys_of(group: &Group, member: usize) -> Vec<SealingKey> {
    let folder = group.members[member].state().with_file_name("keys");
    let file = std::fs::read_dir(folder).expect("lists").next().expect("there is one").expect("lists").path();
    seal::read_keys(&std::fs::read(file).expect("reads")).expect("it is whole")
}

/// How many sessions a member's agent has opened since the process began.
fn sessions(group: &Group, member: usize) -> usize {
    group.members[member]
        .log()
        .lines()
        .filter(|line| line.contains("session opened") && line.contains("coordinator="))
        .count()
}

/// Waits until each agent has a session; how many each has had.
async fn all_sessions(group: &Group) -> Vec<usize> {
    until_async(SOON, "each agent has a session", async || {
        let counts: Vec<usize> = (0..group.members.len()).map(|member| sessions(group, member)).collect();
        ensure!(counts.iter().all(|count| *count > 0), "{counts:?}");
        Ok(counts)
    })
    .await
}

async fn leader(group: &Group, asked: usize) -> usize {
    until_async(SOON, "one leads", async || {
        let leader = group.view(asked).await?.leader;
        let position = group.members.iter().position(|member| Some(member.id()) == leader);
        position.ok_or_else(|| anyhow::anyhow!("{leader:?} is no member"))
    })
    .await
}

/// Whether any file below a folder holds these bytes.
fn lies_in(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return lies_in(&path, bytes);
        }
        std::fs::read(&path).is_ok_and(|content| content.windows(bytes.len()).any(|part| part == bytes))
    })
}

/// The beginning of every ECDSA P-256 private key in PKCS #8: version, algorithm and curve.
const OPEN_KEY: &[u8] = &[
    0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];

#[tokio::test(flavor = "multi_thread")]
async fn the_sealing_key_is_changed_while_a_leader_dies() {
    let (folder, wharf) = (tempfile::tempdir().expect("a folder"), wharf());
    let mut group = three(folder.path(), &wharf).await;
    let first = at_rest(&group, 0, "sealing-key").await;
    let raft = group.members[0].state().join("raft");
    assert!(lies_in(&group.members[0].state(), OPEN_KEY), "the host's own key can be found at all");
    assert!(!lies_in(&raft, OPEN_KEY), "the keys of the authority are sealed from the first entry on");
    set_secrets(&group, 1).await;
    rotate_under_sessions(&group, 1, "sealing-key").await;
    let second = at_rest(&group, 1, "sealing-key").await;
    assert_ne!(first, second);
    for member in 0..3 {
        assert!(opens(&group, member).await, "member {member} reads the secret");
    }

    // A member that is down holds the change up, and says so; a leader that dies does not.
    let dead = (leader(&group, 0).await + 1) % 3;
    let asked = (dead + 1) % 3;
    group.members[dead].kill();
    rotate(&group, asked, "sealing-key").await;
    let waits = until_async(SOON, "it says what it waits for", async || {
        let key = key(&group, asked, "sealing-key").await?;
        ensure!(key.waits_for.len() == 1, "{key:?}");
        Ok(key.waits_for[0].clone())
    })
    .await;
    let id: MemberId = group.members[dead].id();
    assert!(waits.contains(&format!("coordinator {id} on h")), "{waits}");
    let leads = leader(&group, asked).await;
    group.members[dead].start(&wharf);
    tokio::time::sleep(Duration::from_millis(200)).await;
    group.members[leads].kill();
    group.members[leads].start(&wharf);
    let third = at_rest(&group, dead, "sealing-key").await;
    assert_ne!(second, third);
    for member in 0..3 {
        until_async(SOON, "one key is left", async || {
            let keys = keys_of(&group, member);
            ensure!(keys.len() == 1 && keys[0].id().to_string() == third, "{} keys", keys.len());
            Ok(())
        })
        .await;
        assert!(opens(&group, member).await, "member {member} reads the secret");
    }
    group.writes_and_reads("after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_lines_end_with_the_join_key() {
    let (folder, wharf) = (tempfile::tempdir().expect("a folder"), wharf());
    let group = three(folder.path(), &wharf).await;
    at_rest(&group, 0, "sealing-key").await;
    let before = at_rest(&group, 0, "join-key").await;
    rotate_under_sessions(&group, 2, "join-key").await;
    let after = at_rest(&group, 0, "join-key").await;
    assert_ne!(before, after);
    for member in 0..3 {
        until_async(SOON, "it is shown at the door", async || {
            let shown = shown_at_the_door(group.members[member].address()).await?;
            ensure!(shown == after, "{shown}");
            Ok(())
        })
        .await;
    }
}

/// Notes which certificate a server shows, and accepts any.
#[derive(Debug)]
struct Curious;

impl rustls::client::danger::ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        link::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The beginning of the pin of the certificate that curl sees.
async fn shown_at_the_door(address: SocketAddr) -> anyhow::Result<String> {
    let builder =
        rustls::ClientConfig::builder_with_provider(link::provider()).with_safe_default_protocol_versions()?;
    let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Curious)).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    Ok(hex::encode(&pin_of(&shown.expect("it shows one"))?.0[..8]))
}

/// The root's key, found in the log by who has the sealing key and by nobody else.
fn root_of(group: &Group, member: usize) -> Certified {
    let state = group.members[member].state();
    let keyring = Keyring::load(&state).expect("is read").expect("is there");
    let seals = Seals::load(&state.with_file_name("keys"), keyring.cluster).expect("loads");
    let head = [&[WITH_KEY][..], &seals.first().expect("it has one").0].concat();
    // Sealing adds the head, a nonce and a tag.
    let length = head.len() + 12 + keyring.key.expose().len() + 16;
    for file in std::fs::read_dir(state.join("raft")).expect("lists").flatten() {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        for text in bytes.windows(length).filter(|text| text.starts_with(&head)) {
            if let Ok(key) = seals.open(Purpose::RootKey, text) {
                return Certified { certificate: keyring.root, key };
            }
        }
    }
    panic!("the log does not hold the root's key");
}

/// Puts a certificate into a host's keyring that ended this many days ago.
fn end_certificate(group: &Group, member: usize, days: u64) {
    let state = group.members[member].state();
    let keyring = Keyring::load(&state).expect("is read").expect("is there");
    let root = root_of(group, member);
    let then = Timestamp(now().0 - (days + 30) * 86_400_000);
    let request = make_request(&keyring.key).expect("a request");
    let certificate = sign(&root, keyring.cluster, &request, keyring.member, then).expect("it is signed");
    let (_, ends) = validity_of(&certificate).expect("it has one");
    assert!(ends < now());
    Keyring { certificate, ..keyring }.save(&state).expect("is written");
}

async fn is_renewed(group: &Group, member: usize) {
    until_async(SOON, "it has a certificate again", async || {
        let keyring = Keyring::load(&group.members[member].state())?.expect("is there");
        ensure!(validity_of(&keyring.certificate)?.1 > now());
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_back_after_their_certificates_have_ended() {
    let (folder, wharf) = (tempfile::tempdir().expect("a folder"), wharf());
    let mut group = three(folder.path(), &wharf).await;
    at_rest(&group, 0, "sealing-key").await;
    // One of three was off for 200 days.
    group.members[2].stop();
    end_certificate(&group, 2, 200);
    group.members[2].start(&wharf);
    is_renewed(&group, 2).await;
    group.is_whole().await;
    group.writes_and_reads("one").await;
    assert!(!group.members[2].log().contains("has issued itself a certificate"), "the others gave it one");
    // All were.
    for member in 0..3 {
        group.members[member].stop();
        end_certificate(&group, member, 200);
    }
    for member in 0..3 {
        group.members[member].start(&wharf);
    }
    for member in 0..3 {
        is_renewed(&group, member).await;
    }
    group.is_whole().await;
    group.writes_and_reads("all").await;
    all_sessions(&group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_is_changed_under_open_sessions() {
    let (folder, wharf) = (tempfile::tempdir().expect("a folder"), wharf());
    let mut group = three(folder.path(), &wharf).await;
    at_rest(&group, 0, "sealing-key").await;
    let before = at_rest(&group, 0, "ca").await;
    let old = Keyring::load(&group.members[1].state()).expect("is read").expect("is there");
    rotate_under_sessions(&group, 1, "ca").await;
    assert_ne!(at_rest(&group, 1, "ca").await, before);
    for member in 0..3 {
        until_async(SOON, "the host trusts the new root alone", async || {
            let keyring = Keyring::load(&group.members[member].state())?.expect("is there");
            ensure!(keyring.root != old.root && keyring.further.roots.is_empty(), "it trusts the old one");
            ensure!(link::identity::is_issued_by(&keyring.certificate, &keyring.root), "it has an old certificate");
            Ok(())
        })
        .await;
    }

    // A certificate of the old root opens nothing any more, although its holder believes the coordinators.
    let dialler = link::quic::Quic::dial_only(([127, 0, 0, 1], 0).into(), old.credentials()).expect("dials");
    let request = make_request(&old.key).expect("a request");
    let asked = async {
        let connection = link::Transport::dial(&dialler, group.members[0].address()).await?;
        link::call::ask::<common::wire::Renewed>(&connection, &common::wire::Open::Renew(request)).await
    };
    asked.await.map(drop).expect_err("it is refused");
    // The group's own clients pin the old root still, and members come back.
    group.writes_and_reads("old-pin").await;
    for member in 0..3 {
        group.members[member].kill();
        group.members[member].start(&wharf);
        group.is_whole().await;
    }
    group.writes_and_reads("new").await;
}

/// A cluster as an earlier version makes it: its keys lie open in the first entry.
fn make_earlier(config: &coordinator::Config) -> Newborn {
    let newborn = make_cluster(config, "h1".parse().expect("a name")).expect("it is made");
    let path = config.state.join("genesis");
    let made: GenesisFile = GENESIS_FORMAT.open(&std::fs::read(&path).expect("reads")).expect("it is whole");
    let seals = Seals::load(&config.keys, newborn.keyring.cluster).expect("loads");
    let sealed = &made.genesis.authority;
    let (root, join) = (seals.root(sealed).expect("opens"), seals.join(sealed).expect("opens"));
    assert!(!made.genesis.authority.key.expose().starts_with(&[0x30]), "they are sealed in the file, too");
    let authority = Authority { key: root.key, join_key: join.key, ..sealed.clone() };
    let genesis = Genesis { authority, level: 2, ..made.genesis };
    let file = GENESIS_FORMAT.seal(&GenesisFile { genesis, ..made }).expect("seals");
    std::fs::write(&path, file).expect("writes");
    newborn
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_an_earlier_level_seals_its_keys_when_the_level_rises() {
    let (folder, network) = (tempfile::tempdir().expect("a folder"), link::memory::Network::default());
    let bound = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let (address, state) = (bound.expect("a free port"), folder.path().join("state"));
    link::private::ensure_folder(&state).expect("a folder");
    let config = coordinator::Config {
        keys: folder.path().join("keys"),
        backups: folder.path().join("backups"),
        state,
        listen: address,
        advertise: address,
        settings: Settings::default(),
        network: NetworkPlan::default(),
    };
    let Newborn { keyring, admin } = make_earlier(&config);
    let first = Seals::load(&config.keys, keyring.cluster).expect("loads").first().expect("it has one").to_string();
    let context = Context {
        cluster: keyring.cluster,
        servers: vec![address],
        authority: certificate_text(&keyring.root),
        token: admin.reveal(),
    };
    let identity = PeerIdentity { host: keyring.host, member: keyring.member };
    let (transport, (_renewals, renewed)) = (network.end(address, identity), tokio::sync::watch::channel(()));
    let running = coordinator::run(config, keyring, Arc::new(transport), renewed, std::future::pending());
    let client = Client::of_context(&context).expect("the context is right");
    let is_sealed = until_async(SOON, "the keys are sealed", async || {
        let trust: TrustView = client.get("/api/v1/trust").await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        ensure!(trust.keys[0].id.as_ref() == Some(&first), "{trust:?}");
        Ok(())
    });
    tokio::select! {
        () = is_sealed => {}
        ended = running => panic!("{ended:?}"),
    }
}
