//! The listening sides: peers by QUIC, people and joining hosts by HTTPS.

mod accepted;
mod doors;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, RwLock},
    time::Duration,
};

use common::{
    codec,
    error::{Code, Problem},
    wire::{Files, LogFrame, LogRequest, MAX_FRAME, Open, PeerIdentity, Renewed},
};
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use link::{LinkError, Stream, Transport, identity::sign, keyring::Keyring, provider};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tower::Service;
use tracing::{debug, error, warn};

use accepted::{Accepted, OpenConnection};
use coordinator_core::{
    State,
    access::{Action, Principal, authorize},
};
use doors::{Doors, LIMITS, Place};

use crate::{
    Coordinator, api, dispatch,
    raft::{Consensus, MemberCall, Published},
    trust, upgrade,
};

const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first byte may take, and each head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 32 << 10;
/// Largest first message of a host's stream, in bytes; only coordinators send each other more.
const MAX_OPEN: usize = 1 << 20;
/// The protocol's name in the handshake (RFC 9113, section 3.1).
const HTTP2: &[u8] = b"h2";

/// Which certificate a connection was made with: the door decides what may be asked through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The join key, which every install line pins: the join script and the binary alone.
    Join,
    /// A coordinator's own certificate: the API.
    Api,
}

/// What a coordinator proves itself with: its keyring, and how it hears of a newer one.
pub struct OwnIdentity {
    /// The keyring as it was at the start.
    pub keyring: Keyring,
    /// The folder where it lies on disk.
    pub directory: PathBuf,
    /// Tells when the one on disk has a new certificate.
    pub renewed: watch::Receiver<()>,
}

/// Serves agents and other coordinators.
pub async fn serve_peers(coordinator: Coordinator, transport: Arc<dyn Transport>) {
    let accepted = Accepted::default();
    let accepting = async {
        let mut connections = JoinSet::new();
        while let Some(connection) = transport.accept().await {
            connections.spawn(serve_connection(coordinator.clone(), accepted.begin(connection)));
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accepting => {}
        () = accepted.close_removed(&coordinator.consensus) => {}
    }
}

async fn serve_connection(coordinator: Coordinator, open: OpenConnection) {
    let mut streams = JoinSet::new();
    let open = Arc::new(open);
    while let Ok(stream) = open.connection.accept().await {
        let (coordinator, open) = (coordinator.clone(), open.clone());
        streams.spawn(async move {
            if let Err(error) = serve_stream(coordinator, &open, stream).await {
                debug!(%error, "a stream ended early");
            }
        });
        while streams.try_join_next().is_some() {}
    }
}

async fn serve_stream(coordinator: Coordinator, open: &OpenConnection, mut stream: Stream) -> Result<(), LinkError> {
    let (connection, peer, seals) = (&open.connection, open.connection.peer(), &coordinator.seals);
    let most = if peer.member.is_some() { MAX_FRAME } else { MAX_OPEN };
    let Some(asked) = stream.incoming.receive_up_to::<Open>(most).await? else { return Ok(()) };
    if !asked.allowed_for(&peer) || (connection.is_lapsed() && !asked.allowed_for_lapsed()) {
        warn!(host = %peer.host, "a stream was refused: the peer's certificate does not allow it");
        connection.close("not allowed");
        return Ok(());
    }
    let published = match state_for(&coordinator.consensus, &asked).await {
        Ok(published) => published,
        Err(problem) => return refuse(stream, &asked, problem).await,
    };
    if !lets_through(peer, &asked, &published.cluster) {
        return Ok(());
    }
    match asked {
        Open::Session(hello) => {
            open.has_session();
            dispatch::serve_session(coordinator.dispatch, connection.clone(), hello, stream).await;
            Ok(())
        }
        Open::Renew(request) => answer(stream, &renew(&coordinator, &published.cluster, &peer, &request)).await,
        Open::Member(call) => {
            let read = codec::decode::<MemberCall>(&call);
            let read = read.inspect_err(|error| coordinator.consensus.cannot_read(peer, &call, error))?;
            answer(stream, &coordinator.consensus.answer(peer, read).await).await
        }
        Open::Files(instance) => {
            answer(stream, &dispatch::files::answer(&published.cluster, seals, peer.host, &instance)).await
        }
        Open::Binary(hash) => {
            upgrade::serve_binary(&coordinator.consensus, &coordinator.binaries, (peer, hash), stream).await
        }
        Open::Running(running) => {
            upgrade::serve_running(&coordinator.consensus, &coordinator.binaries, (peer.host, running), stream).await
        }
        Open::SealingKey => answer(stream, &seals.share_one(published.cluster.sealing_key())).await,
        Open::SealingKeys => answer(stream, &seals.share()).await,
        Open::Roots => trust::tell(&coordinator, peer.host, stream).await,
        Open::Findings => answer(stream, &coordinator.dispatch.own_findings()).await,
        Open::Logs(request) => pass_logs(&coordinator, peer, request, stream).await,
    }
}

/// Passes an instance's output on to a coordinator, for as long as it is one.
async fn pass_logs(
    coordinator: &Coordinator,
    peer: PeerIdentity,
    request: LogRequest,
    stream: Stream,
) -> Result<(), LinkError> {
    match coordinator.dispatch.logs(request).await {
        Ok(source) => tokio::select! {
            passed = relay(source, stream) => passed,
            () = refused(&coordinator.consensus, peer) => Ok(()),
        },
        Err(problem) => answer(stream, &LogFrame::Failed(problem)).await,
    }
}

/// The state that says whether a peer gets what it asks for. A member may lag, and know nothing of a host's removal:
/// what cannot be taken back is given out only by what a majority knows.
async fn state_for(consensus: &Consensus, asked: &Open) -> Result<Arc<Published>, Problem> {
    match asked {
        Open::Renew(_) | Open::Files(_) | Open::SealingKey | Open::SealingKeys => consensus.read().await,
        Open::Logs(_) | Open::Findings | Open::Roots => consensus.decisive().await,
        // Calls between members are how they come to know what the others know; sessions are the leader's alone.
        Open::Member(_) | Open::Session(_) => Ok(consensus.current()),
        // They are the leader's alone, and decided where they are served.
        Open::Running(_) | Open::Binary(_) => Ok(consensus.current()),
    }
}

/// Tells a peer why it does not get now what it asks for.
async fn refuse(stream: Stream, asked: &Open, problem: Problem) -> Result<(), LinkError> {
    match asked {
        Open::Renew(_) => answer(stream, &Renewed::Refused(problem)).await,
        Open::Files(_) => answer(stream, &Files::Refused(problem)).await,
        Open::Logs(_) => answer(stream, &LogFrame::Failed(problem)).await,
        // Without an answer, they ask another coordinator, or again.
        Open::SealingKey
        | Open::SealingKeys
        | Open::Roots
        | Open::Findings
        | Open::Member(_)
        | Open::Session(_)
        | Open::Running(_)
        | Open::Binary(_) => Ok(()),
    }
}

/// Whether a peer that its certificate allows to ask gets what it asks for.
fn lets_through(peer: PeerIdentity, asked: &Open, cluster: &State) -> bool {
    if asked.is_inside()
        && let Err(refusal) = authorize(&Principal::Peer(peer), &Action::Inside, cluster)
    {
        // Without an answer, but for a member that is new here and asks again.
        warn!(host = %peer.host, %refusal, "a stream was refused");
        return false;
    }
    if matches!(asked, Open::Roots | Open::Running(_))
        && let Err(refusal) = authorize(&Principal::Peer(peer), &Action::Host(peer.host), cluster)
    {
        warn!(host = %peer.host, %refusal, "a stream was refused");
        return false;
    }
    true
}

/// Sends the one message that a stream is answered with.
async fn answer(mut stream: Stream, message: &impl Serialize) -> Result<(), LinkError> {
    stream.outgoing.send(message).await?;
    stream.outgoing.finish().await
}

/// Completes when a coordinator is none any more.
async fn refused(consensus: &Consensus, peer: PeerIdentity) {
    let mut published = consensus.watch();
    let is_refused = |now: &Arc<Published>| authorize(&Principal::Peer(peer), &Action::Inside, &now.cluster).is_err();
    if published.wait_for(is_refused).await.is_err() {
        std::future::pending().await
    }
}

/// Passes frames on until either side ends.
async fn relay(mut source: Stream, mut sink: Stream) -> Result<(), LinkError> {
    let passing = async {
        while let Some(frame) = source.incoming.receive::<LogFrame>().await? {
            sink.outgoing.send(&frame).await?;
        }
        sink.outgoing.finish().await
    };
    tokio::select! {
        passed = passing => passed,
        _ = sink.incoming.receive::<()>() => Ok(()),
    }
}

fn renew(coordinator: &Coordinator, cluster: &State, peer: &PeerIdentity, request: &[u8]) -> Renewed {
    let refuse =
        |why: String| Renewed::Refused(Problem::new(Code::RequestRefused, "The certificate was not renewed").why(why));
    let Some(identity) = &cluster.identity() else { return refuse("the cluster does not exist yet".into()) };
    if !cluster.is_admitted(peer.host) {
        return Renewed::Refused(Problem::new(Code::HostRemoved, "This host was removed from the cluster"));
    }
    match link::identity::host_of_request(request) {
        Ok(host) if host == peer.host => {}
        Ok(_) => return refuse("the request has another host's key".into()),
        Err(error) => return refuse(error.to_string()),
    }
    let member = cluster.member_on(peer.host);
    match coordinator.seals.root(&identity.authority) {
        Ok(root) => sign(&root, identity.id, request, member, coordinator.consensus.now())
            .map_or_else(|error| refuse(error.to_string()), Renewed::Certificate),
        Err(problem) => Renewed::Refused(problem),
    }
}

/// The certificates of the HTTPS side, picked by the name that the client asks for.
#[derive(Debug)]
struct Certificates {
    own: RwLock<Arc<CertifiedKey>>,
    join: RwLock<Option<Arc<CertifiedKey>>>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.server_name().is_some_and(|name| name.ends_with(".wharf")) {
            return Some(self.own.read().expect("no panic while it is held").clone());
        }
        self.join.read().expect("no panic while it is held").clone()
    }
}

fn certified(chain: &[&[u8]], key: &[u8]) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider())?))
}

fn own_certificate(keyring: &Keyring) -> Result<Arc<CertifiedKey>, rustls::Error> {
    // Who pins the root that was before believes the present one by its cross certificate.
    let cross = keyring.further.cross.as_deref();
    let chain: Vec<&[u8]> = [&*keyring.certificate].into_iter().chain(cross).chain([&*keyring.root]).collect();
    certified(&chain, keyring.key.expose())
}

/// Serves people and joining hosts.
pub async fn serve_https(coordinator: Coordinator, listener: TcpListener, identity: OwnIdentity) {
    let own = match own_certificate(&identity.keyring) {
        Ok(own) => own,
        Err(error) => return error!(%error, "the coordinator's certificate is unusable; HTTPS is off"),
    };
    let threads = match Threads::start("api") {
        Ok(threads) => threads,
        Err(error) => return error!(%error, "the API's threads cannot be started; HTTPS is off"),
    };
    let certificates = Arc::new(Certificates { own: RwLock::new(own), join: RwLock::new(None) });
    let keeping = keep_certificates(coordinator.clone(), certificates.clone(), identity);
    let accepting = threads.spawn(accept(coordinator, listener, certificates));
    tokio::select! {
        () = keeping => {}
        ended = accepting => error!(?ended, "HTTPS ended"),
    }
}

/// Threads beside those that answer agents and members: what people ask of a large cluster takes a while, in which
/// heartbeats and the log must go on. They end when this is dropped.
struct Threads(Option<Runtime>);

impl Threads {
    const COUNT: usize = 2;

    fn start(name: &str) -> std::io::Result<Threads> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(Threads::COUNT).thread_name(name).enable_all().build().map(Some).map(Threads)
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.0.as_ref().expect("it is there until it is dropped").spawn(work)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Where others are awaited, nobody may wait for threads.
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// Takes up the join key as soon as it is in the replicated state, and own certificates as they
/// are renewed.
async fn keep_certificates(coordinator: Coordinator, certificates: Arc<Certificates>, mut identity: OwnIdentity) {
    let own = async {
        while identity.renewed.changed().await.is_ok() {
            let loaded =
                Keyring::load(&identity.directory).ok().flatten().and_then(|keyring| own_certificate(&keyring).ok());
            match loaded {
                Some(own) => *certificates.own.write().expect("no panic while it is held") = own,
                None => error!("the renewed certificate cannot be used"),
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::join!(keep_join_key(&coordinator, &certificates), own);
}

/// Takes up the join key whenever there is another one in the state, as soon as the sealing key is here.
async fn keep_join_key(coordinator: &Coordinator, certificates: &Certificates) {
    let (mut published, mut keys) = (coordinator.consensus.watch(), coordinator.seals.watch());
    let mut in_use: Option<Vec<u8>> = None;
    loop {
        let identity = published.borrow_and_update().cluster.identity().cloned();
        keys.mark_unchanged();
        if let Some(identity) = identity.filter(|new| in_use.as_ref() != Some(&new.authority.join_certificate)) {
            let authority = &identity.authority;
            match coordinator.seals.join(authority) {
                Ok(join) => match certified(&[&join.certificate], join.key.expose()) {
                    Ok(key) => {
                        *certificates.join.write().expect("no panic while it is held") = Some(key);
                        in_use = Some(authority.join_certificate.clone());
                    }
                    Err(error) => error!(%error, "the join key cannot be used; hosts cannot join here"),
                },
                Err(problem) => debug!(%problem, "the join key cannot be opened yet; hosts cannot join here"),
            }
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = keys.changed() => if changed.is_err() { return },
        }
    }
}

async fn accept(coordinator: Coordinator, listener: TcpListener, certificates: Arc<Certificates>) {
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    let mut tls = tls;
    tls.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let router = api::router(coordinator);
    let https = Https { acceptor, router, doors: Doors::new(LIMITS) };
    let mut connections = JoinSet::new();
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: others will end soon.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match https.doors.arrive(remote.ip()) {
            Ok(place) => drop(connections.spawn(https.clone().serve(stream, remote, place))),
            Err(reason) => debug!(%remote, reason, "a connection was closed at once"),
        }
        while connections.try_join_next().is_some() {}
    }
}

/// What serves an HTTPS connection.
#[derive(Clone)]
struct Https {
    acceptor: tokio_rustls::TlsAcceptor,
    router: axum::Router,
    doors: Doors,
}

impl Https {
    async fn serve(self, stream: TcpStream, remote: SocketAddr, mut place: Place) {
        stream.set_nodelay(true).inspect_err(|error| debug!(%remote, %error, "a socket option was refused")).ok();
        let Ok(Ok(stream)) = tokio::time::timeout(TLS_TIMEOUT, self.acceptor.accept(stream)).await else {
            return debug!(%remote, "a TLS handshake failed");
        };
        let tls = stream.get_ref().1;
        let door = if tls.server_name().is_some_and(|name| name.ends_with(".wharf")) { Door::Api } else { Door::Join };
        let is_http2 = tls.alpn_protocol() == Some(HTTP2);
        if let Err(reason) = self.doors.enter(&mut place, door) {
            return debug!(%remote, reason, "a connection was closed");
        }
        let mut stream = BufReader::new(stream);
        let Ok(Ok([_, ..])) = tokio::time::timeout(HEADER_TIMEOUT, stream.fill_buf()).await else {
            return debug!(%remote, "a connection that asked for nothing was closed");
        };
        let router = self.router;
        let service = tower::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(door);
            request.extensions_mut().insert(api::ClientAddress(remote.ip().to_canonical()));
            router.clone().call(request)
        });
        let (stream, service) = (TokioIo::new(stream), TowerToHyperService::new(service));
        let served = if is_http2 {
            let mut server = http2::Builder::new(TokioExecutor::new());
            server
                .timer(TokioTimer::new())
                .max_header_list_size(MAX_HEADERS as u32)
                .max_concurrent_streams(256)
                .keep_alive_interval(Duration::from_secs(20));
            server.serve_connection(stream, service).await
        } else {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADERS);
            server.serve_connection(stream, service).await
        };
        if let Err(error) = served {
            debug!(%remote, %error, "an HTTPS connection ended early");
        }
    }
}
