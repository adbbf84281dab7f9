//! The real transport: QUIC with mutual TLS. The ALPN names contain the protocol version, so the handshake negotiates
//! it, and peers without a common version get a specific error.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use common::{
    id::ClusterId,
    wire::{PROTOCOLS, PeerIdentity},
};
use quinn::{
    ConnectionId, ConnectionIdGenerator,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use ring::hmac;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};
use tracing::debug;

use crate::{
    Connection, Credentials, LinkError, Transport, clock,
    connection::Inner,
    identity::{coordinator_name, identity_of, random_bytes},
    lapsed::{AlsoLapsed, has_ended},
    provider, socket,
};

/// A connection is lost after this time without packets from the peer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(7);
/// The dialling side sends a keep-alive after this much silence, and repeats it until it is acknowledged. So both sides
/// hear each other, and a coordinator of ten thousand agents need not send any. It is longer than the usual heartbeat
/// interval, because heartbeats serve the same purpose.
const KEEP_ALIVE: Duration = Duration::from_millis(5500);
/// The maximum packet size to try. With jumbo frames a log entry needs three packets instead of twenty, which costs
/// much less.
const LARGEST_PACKET: u16 = 8900;
/// The number of streams that one peer may have open, mostly for outputs that are followed. Each one takes memory in
/// every connection, even if unused.
const MAX_STREAMS: u32 = 256;
/// The maximum number of simultaneous handshakes; more are refused.
const MAX_HANDSHAKES: usize = 256;
/// Additional handshakes for members, so that ten thousand agents that connect at once do not keep the members apart.
const MEMBERS_HANDSHAKES: usize = 64;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The receive buffer of the listening socket, in bytes. All peers send to this socket. If the process is busy for a
/// few milliseconds, packets of ten thousand agents exceed the kernel's default of 208 KiB, and the rest would be lost.
const BUFFER: usize = 16 << 20;

/// The protocols of a listening endpoint, and its limit of handshakes.
struct Door<'a> {
    versions: &'a [u16],
    handshakes: usize,
}

const DOOR: Door = Door { versions: &PROTOCOLS, handshakes: MAX_HANDSHAKES };

/// A QUIC endpoint with its current credentials.
pub struct Quic {
    endpoint: quinn::Endpoint,
    credentials: RwLock<Credentials>,
    client: RwLock<quinn::ClientConfig>,
    members: Members,
    accepts: bool,
    accepted: Mutex<Option<mpsc::Receiver<Connection>>>,
    // Ends the accept loop when the transport is dropped.
    accepting: JoinSet<()>,
}

/// The addresses of known members, dialled or dialling, according to their certificates.
#[derive(Clone, Default)]
struct Members(Arc<RwLock<BTreeSet<SocketAddr>>>);

impl Members {
    fn note(&self, connection: &Connection) {
        let remote = connection.remote();
        if connection.peer().member.is_some() && !connection.is_lapsed() && !self.lives_at(remote) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).insert(remote);
        }
    }

    fn lives_at(&self, address: SocketAddr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }
}

fn tls_error(error: impl std::fmt::Display) -> LinkError {
    LinkError::Tls(error.to_string())
}

fn protocols(versions: &[u16]) -> Vec<Vec<u8>> {
    versions.iter().map(|version| format!("wharf/{version}").into_bytes()).collect()
}

fn transport_config(keep_alive: Option<Duration>) -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config.max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("a few seconds fit")));
    config.keep_alive_interval(keep_alive);
    config.max_concurrent_bidi_streams(MAX_STREAMS.into());
    config.max_concurrent_uni_streams(0u32.into());
    config.initial_rtt(Duration::from_millis(20));
    let mut mtu = quinn::MtuDiscoveryConfig::default();
    mtu.upper_bound(LARGEST_PACKET);
    config.mtu_discovery_config(Some(mtu));
    Arc::new(config)
}

fn roots(credentials: &Credentials) -> Result<RootCertStore, LinkError> {
    let mut roots = RootCertStore::empty();
    for root in &credentials.roots {
        roots.add(CertificateDer::from(root.clone())).map_err(tls_error)?;
    }
    Ok(roots)
}

fn chain_and_key(credentials: &Credentials) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = [&credentials.own.certificate].into_iter().chain(&credentials.cross);
    let chain = chain.map(|certificate| CertificateDer::from(certificate.clone())).collect();
    let key = PrivatePkcs8KeyDer::from(credentials.own.key.expose().clone());
    (chain, key.into())
}

fn client_config(credentials: &Credentials, versions: &[u16]) -> Result<quinn::ClientConfig, LinkError> {
    let (chain, key) = chain_and_key(credentials);
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .with_root_certificates(roots(credentials)?)
        .with_client_auth_cert(chain, key)
        .map_err(tls_error)?;
    tls.alpn_protocols = protocols(versions);
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(tls_error)?));
    config.transport_config(transport_config(Some(KEEP_ALIVE)));
    Ok(config)
}

fn server_config(credentials: &Credentials, versions: &[u16]) -> Result<quinn::ServerConfig, LinkError> {
    let (chain, key) = chain_and_key(credentials);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(credentials)?), provider())
        .build()
        .map_err(tls_error)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .with_client_cert_verifier(Arc::new(AlsoLapsed(verifier)))
        .with_single_cert(chain, key)
        .map_err(tls_error)?;
    tls.alpn_protocols = protocols(versions);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(tls_error)?));
    config.transport_config(transport_config(None));
    Ok(config)
}

/// After a restart of this process, its peers notice at once that their connections are gone: the key for stateless
/// resets is derived from the host's key, so it stays the same (RFC 9000, section 10.3).
fn endpoint_config(credentials: &Credentials) -> quinn::EndpointConfig {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, credentials.own.key.expose());
    let reset = hmac::sign(&secret, b"wharf quic stateless reset");
    let mut config = quinn::EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref())));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Random connection ids, which reveal nothing, not even the process that made them.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&random_bytes::<8>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The peer's identity, and whether its certificate has ended.
fn peer_of(connection: &quinn::Connection, cluster: ClusterId) -> Result<(PeerIdentity, bool), LinkError> {
    let chain =
        connection.peer_identity().and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificate =
        chain.and_then(|chain| chain.first().cloned()).ok_or_else(|| tls_error("the peer sent no certificate"))?;
    let peer = identity_of(&certificate, cluster).map_err(tls_error)?;
    Ok((peer, has_ended(&certificate, clock::now())))
}

impl Quic {
    /// An endpoint that dials and accepts connections.
    pub fn listen(address: SocketAddr, credentials: Credentials) -> Result<Quic, LinkError> {
        Quic::open(&DOOR, address, credentials)
    }

    fn open(door: &Door, address: SocketAddr, credentials: Credentials) -> Result<Quic, LinkError> {
        let runtime = quinn::default_runtime().ok_or_else(|| std::io::Error::other("this needs a tokio runtime"))?;
        let socket = std::net::UdpSocket::bind(address)?;
        socket::make_room(&socket, BUFFER)?;
        let config = endpoint_config(&credentials);
        let endpoint =
            quinn::Endpoint::new(config, Some(server_config(&credentials, door.versions)?), socket, runtime)?;
        let (accepted, receiver) = mpsc::channel(64);
        let mut quic = Quic::new(endpoint.clone(), credentials, Some(receiver))?;
        let (cluster, members) = (quic.credentials().cluster, quic.members.clone());
        let acceptor = Acceptor { endpoint, cluster, members, room: door.handshakes, accepted };
        quic.accepting.spawn(acceptor.run());
        Ok(quic)
    }

    /// An endpoint that only dials.
    pub fn dial_only(local: SocketAddr, credentials: Credentials) -> Result<Quic, LinkError> {
        Quic::new(quinn::Endpoint::client(local)?, credentials, None)
    }

    fn new(
        endpoint: quinn::Endpoint,
        credentials: Credentials,
        accepted: Option<mpsc::Receiver<Connection>>,
    ) -> Result<Quic, LinkError> {
        let client = RwLock::new(client_config(&credentials, &PROTOCOLS)?);
        Ok(Quic {
            endpoint,
            credentials: RwLock::new(credentials),
            client,
            members: Members::default(),
            accepts: accepted.is_some(),
            accepted: Mutex::new(accepted),
            accepting: JoinSet::new(),
        })
    }

    /// Uses new credentials for new connections; existing ones stay.
    pub fn replace_credentials(&self, credentials: Credentials) -> Result<(), LinkError> {
        let client = client_config(&credentials, &PROTOCOLS)?;
        if self.accepts {
            self.endpoint.set_server_config(Some(server_config(&credentials, &PROTOCOLS)?));
        }
        *self.client.write().expect("no panic while it is held") = client;
        *self.credentials.write().expect("no panic while it is held") = credentials;
        Ok(())
    }

    /// The current credentials.
    pub fn credentials(&self) -> Credentials {
        self.credentials.read().expect("no panic while it is held").clone()
    }

    /// The local address of the socket.
    pub fn local_address(&self) -> Result<SocketAddr, LinkError> {
        Ok(self.endpoint.local_addr()?)
    }
}

/// What accepts connections.
struct Acceptor {
    endpoint: quinn::Endpoint,
    cluster: ClusterId,
    members: Members,
    /// How many handshakes there may be at a time.
    room: usize,
    accepted: mpsc::Sender<Connection>,
}

impl Acceptor {
    async fn run(self) {
        let mut handshakes: JoinSet<Option<Connection>> = JoinSet::new();
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => {
                    let Some(incoming) = incoming else { return };
                    let is_member = self.members.lives_at(incoming.remote_address());
                    let reserve = if is_member { MEMBERS_HANDSHAKES } else { 0 };
                    let is_crowded = handshakes.len() >= self.room / 2;
                    if is_crowded && incoming.may_retry() && !incoming.remote_address_validated() {
                        // Whoever gives a false address never hears of it, and takes no room.
                        if let Err(error) = incoming.retry() {
                            debug!(%error, "a peer could not be asked to come again");
                        }
                    } else if handshakes.len() >= self.room + reserve {
                        incoming.refuse();
                    } else {
                        handshakes.spawn(handshake(incoming, self.cluster));
                    }
                }
                Some(done) = handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        self.members.note(&connection);
                        if self.accepted.send(connection).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

async fn handshake(incoming: quinn::Incoming, cluster: ClusterId) -> Option<Connection> {
    let remote = incoming.remote_address();
    let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, async { incoming.await.map_err(tls_error) }).await;
    let checked = connected.unwrap_or(Err(LinkError::TimedOut(HANDSHAKE_TIMEOUT))).and_then(|connection| {
        let (peer, lapsed) = peer_of(&connection, cluster)?;
        Ok(Connection::new(peer, remote, Inner::Quic(connection)).with_lapsed(lapsed))
    });
    checked.inspect_err(|error| debug!(%remote, %error, "a handshake failed")).ok()
}

#[async_trait]
impl Transport for Quic {
    async fn dial(&self, to: SocketAddr) -> Result<Connection, LinkError> {
        let (client, cluster) = {
            let credentials = self.credentials.read().expect("no panic while it is held");
            (self.client.read().expect("no panic while it is held").clone(), credentials.cluster)
        };
        let unreachable = |reason: String| LinkError::Unreachable { to, reason };
        let connecting = self
            .endpoint
            .connect_with(client, to, &coordinator_name(cluster))
            .map_err(|e| unreachable(e.to_string()))?;
        let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
        let connection = match connected.map_err(|_| unreachable("there was no answer".into()))? {
            Ok(connection) => connection,
            Err(quinn::ConnectionError::ConnectionClosed(closed)) if closed.error_code == no_common_protocol() => {
                return Err(LinkError::NoCommonProtocol { to });
            }
            Err(error) => return Err(unreachable(error.to_string())),
        };
        let (peer, _) = peer_of(&connection, cluster)?;
        let connection = Connection::new(peer, to, Inner::Quic(connection));
        self.members.note(&connection);
        Ok(connection)
    }

    async fn accept(&self) -> Option<Connection> {
        self.accepted.lock().await.as_mut()?.recv().await
    }
}

/// The TLS alert `no_application_protocol` (RFC 7301) as QUIC carries it (RFC 9001, section 4.8).
fn no_common_protocol() -> quinn::TransportErrorCode {
    quinn::TransportErrorCode::crypto(120)
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.endpoint.close(0u32.into(), b"the process ends");
    }
}

#[cfg(test)]
mod tests {
    use common::{id::MemberId, secret::Secret, wire::Open};
    use tokio::sync::watch;

    use super::*;
    use crate::{
        call::Caller,
        clock::now,
        identity::{Certified, make_key, make_request, make_root, sign},
    };

    fn credentials(root: &Certified) -> Credentials {
        credentials_of(root, Some(MemberId(1)))
    }

    fn credentials_of(root: &Certified, member: Option<MemberId>) -> Credentials {
        let cluster = ClusterId([1; 10]);
        let key = make_key().expect("a key");
        let request = make_request(&key).expect("a request");
        let certificate = sign(root, cluster, &request, member, now()).expect("signs");
        let identity = identity_of(&certificate, cluster).expect("it was just signed");
        let own = Certified { certificate, key: Secret::new(key.expose().clone()) };
        Credentials { cluster, identity, own, roots: vec![root.certificate.clone()], cross: None }
    }

    fn loopback() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    #[tokio::test]
    async fn peers_without_a_common_version_say_so() {
        let root = make_root(ClusterId([1; 10]), now()).expect("a root");
        let newer = Quic::open(&Door { versions: &[99], ..DOOR }, loopback(), credentials(&root)).expect("listens");
        let address = newer.local_address().expect("an address");
        let older = Quic::dial_only(loopback(), credentials(&root)).expect("dials");
        let error = older.dial(address).await.map(drop).expect_err("they share no version");
        assert!(matches!(error, LinkError::NoCommonProtocol { .. }), "{error}");
    }

    #[tokio::test]
    async fn members_are_let_in_while_strangers_crowd_the_door() {
        let root = make_root(ClusterId([1; 10]), now()).expect("a root");
        let narrow = Door { handshakes: 4, ..DOOR };
        let server = Quic::open(&narrow, loopback(), credentials(&root)).expect("listens");
        let member = Quic::listen(loopback(), credentials(&root)).expect("listens");
        let address = server.local_address().expect("an address");
        member.dial(address).await.expect("the door is free");
        server.accept().await.expect("they have met");
        // A peer behind this relay is asked to come again, and gets no other answer: its handshake never ends.
        let stranger = Arc::new(Quic::dial_only(loopback(), credentials_of(&root, None)).expect("dials"));
        let (dead_end, _, mut crowd) = relay(address, |packet| packet[0] & 0xf0 == RETRY).await;
        for _ in 0..2 * narrow.handshakes {
            let stranger = stranger.clone();
            crowd.spawn(async move { drop(stranger.dial(dead_end).await) });
        }
        let refused = async {
            while stranger.dial(address).await.is_ok() {
                server.accept().await.expect("there was room");
            }
        };
        tokio::time::timeout(HANDSHAKE_TIMEOUT, refused).await.expect("the door is crowded");
        member.dial(address).await.expect("there is room for who was met as a member");
    }

    /// The first four bits of a Retry packet (RFC 9000, section 17.2.5).
    const RETRY: u8 = 0xf0;

    /// Passes packets on to an address, and those answers back that may pass; returns where it listens, and how many it has
    /// passed on.
    async fn relay(
        to: SocketAddr,
        may_pass: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> (SocketAddr, watch::Receiver<usize>, JoinSet<()>) {
        let passed = watch::Sender::new(0);
        let count = passed.subscribe();
        let bind = || tokio::net::UdpSocket::bind(loopback());
        let (near, far) = (bind().await.expect("binds"), bind().await.expect("binds"));
        let address = near.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut asked, mut answered, mut from) = (vec![0; 65_536], vec![0; 65_536], None);
            loop {
                tokio::select! {
                    Ok((length, sender)) = near.recv_from(&mut asked) => {
                        from = Some(sender);
                        far.send_to(&asked[..length], to).await.expect("sends");
                        passed.send_modify(|count| *count += 1);
                    }
                    Ok(length) = far.recv(&mut answered) => {
                        if let Some(sender) = from.filter(|_| may_pass(&answered[..length])) {
                            near.send_to(&answered[..length], sender).await.expect("sends");
                        }
                    }
                }
            }
        });
        (address, count, tasks)
    }

    #[tokio::test]
    async fn false_addresses_keep_nobody_out() {
        let root = make_root(ClusterId([1; 10]), now()).expect("a root");
        let narrow = Door { handshakes: 4, ..DOOR };
        let server = Quic::open(&narrow, loopback(), credentials(&root)).expect("listens");
        let address = server.local_address().expect("an address");
        let agent = Arc::new(Quic::dial_only(loopback(), credentials_of(&root, None)).expect("dials"));
        // What comes from a false address is answered to somebody else.
        let (dead_end, mut passed, mut crowd) = relay(address, |_| false).await;
        for _ in 0..4 * narrow.handshakes {
            let agent = agent.clone();
            crowd.spawn(async move { drop(agent.dial(dead_end).await) });
        }
        passed.wait_for(|count| *count >= 4 * narrow.handshakes).await.expect("they knock");
        for _ in 0..20 {
            agent.dial(address).await.expect("there is room");
            server.accept().await.expect("they have met");
        }
    }

    #[test]
    fn a_peer_that_was_started_anew_is_noticed_at_once() {
        let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
        let (their_runtime, our_runtime) = (runtime(), runtime());
        let root = make_root(ClusterId([1; 10]), now()).expect("a root");
        let theirs = credentials(&root);
        let first = their_runtime.block_on(async { Quic::listen(loopback(), theirs.clone()).expect("listens") });
        let address = first.local_address().expect("an address");
        let (caller, connection) = our_runtime.block_on(async {
            let ours = Quic::dial_only(loopback(), credentials(&root)).expect("dials");
            let caller = Caller::new(Arc::new(ours), address);
            let connection = caller.connection().await.expect("connects");
            (caller, connection)
        });
        // The process dies silently, and another one takes its port.
        their_runtime.shutdown_background();
        drop(first);
        our_runtime.block_on(async {
            let second = loop {
                match Quic::listen(address, theirs.clone()) {
                    Ok(second) => break second,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            let asked = caller.ask::<()>(&Open::Member(vec![0; 64]), Duration::from_secs(3)).await;
            assert!(asked.is_err() && connection.is_closed(), "the old connection was reset");
            caller.connection().await.expect("connects anew");
            drop(second);
        });
    }
}
