//! DNS for containers, on the gateway of their bridge: the cluster's names are answered from the directory, all
//! others by the resolvers of the host.

mod recursion;
mod reply;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    sync::Arc,
    time::Duration,
};

use common::{
    finding::Finding,
    network::{NetworkPlan, Subnet},
};
use rustix::net::SocketType;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tracing::{debug, info, warn};

use crate::{
    findings::{Findings, Source},
    known::{Known, for_own_subnet},
    socket::bound,
};
pub use reply::{Asked, Elsewhere, Reply, decide};

/// The port of DNS.
const PORT: u16 = 53;
/// How many questions are answered at a time; the server drops more, and their askers repeat them.
const MOST_QUESTIONS: usize = 1024;
/// TCP connections at a time.
const MOST_CONNECTIONS: usize = 64;
/// How long a TCP connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// How long to wait before the port is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Answers for as long as it is awaited.
pub async fn run(known: Known, findings: Findings) {
    let serving = async |own: Subnet| {
        let Err(error) = serve(&known, own, &findings).await;
        let holder = link::socket::holder_of(PORT).map_or_else(String::new, |holder| format!(": {holder}"));
        let why = format!("port {PORT} of {}: {error}{holder}", own.gateway());
        if findings.put(Source::Names, [Finding::Names { why: why.clone() }]) {
            warn!(why, "this host cannot answer DNS queries of its containers; trying again");
        }
        tokio::time::sleep(AGAIN).await;
    };
    for_own_subnet(known.assignment.clone(), serving).await;
}

async fn serve(known: &Known, own: Subnet, findings: &Findings) -> io::Result<Infallible> {
    // Docker makes the bridge, perhaps later.
    let address = SocketAddrV4::new(own.gateway(), PORT);
    let udp = Arc::new(UdpSocket::from_std(StdUdpSocket::from(bound(address, SocketType::DGRAM)?))?);
    let tcp = TcpListener::from_std(StdTcpListener::from(bound(address, SocketType::STREAM)?))?;
    info!(%address, "answering DNS queries");
    findings.put(Source::Names, []);
    let (questions, connections) =
        (Arc::new(Semaphore::new(MOST_QUESTIONS)), Arc::new(Semaphore::new(MOST_CONNECTIONS)));
    let mut answering: JoinSet<()> = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut buffer) => {
                let (length, from) = received?;
                let Ok(permit) = questions.clone().try_acquire_owned() else { continue };
                let answer = answer(known.clone(), udp.clone(), buffer[..length].to_vec(), from);
                answering.spawn(holding(permit, answer));
            }
            accepted = tcp.accept() => {
                let (stream, from) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // An error of one connection, or too many files are open for the moment.
                        debug!(%error, "a connection was not accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
                answering.spawn(holding(permit, answer_all(known.clone(), stream, from)));
            }
            Some(_) = answering.join_next() => {}
        }
    }
}

/// Does a work of which only so many are done at a time.
async fn holding(permit: OwnedSemaphorePermit, work: impl Future<Output = ()>) {
    work.await;
    drop(permit);
}

/// Answers a question that came by UDP.
async fn answer(known: Known, udp: Arc<UdpSocket>, question: Vec<u8>, from: SocketAddr) {
    if let Some(answer) = reply(&known, &question, from.ip(), Asked::ByUdp).await
        && let Err(error) = udp.send_to(&answer, from).await
    {
        debug!(%from, %error, "an answer was not sent");
    }
}

/// Answers the questions that come by a TCP connection.
async fn answer_all(known: Known, stream: TcpStream, from: SocketAddr) {
    if let Err(error) = converse(&known, stream, from).await {
        debug!(%from, %error, "a connection ended early");
    }
}

/// Answers on a TCP connection until the other ends it (RFC 7766).
async fn converse(known: &Known, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    let silent = |_| io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let length = match tokio::time::timeout(SILENCE, stream.read_u16()).await.map_err(silent)? {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut question = vec![0; usize::from(length)];
        tokio::time::timeout(SILENCE, stream.read_exact(&mut question)).await.map_err(silent)??;
        let Some(answer) = reply(known, &question, from.ip(), Asked::ByTcp).await else { return Ok(()) };
        let sending = async { stream.write_all(&framed(&answer)?).await };
        tokio::time::timeout(SILENCE, sending).await.map_err(silent)??;
    }
}

/// The answer to a message, if it gets one; asks other resolvers if the name is theirs.
async fn reply(known: &Known, message: &[u8], from: IpAddr, by: Asked) -> Option<Vec<u8>> {
    match decide(known, message, from, by) {
        Reply::Silence => None,
        Reply::Answer(answer) => Some(answer),
        Reply::Elsewhere(Elsewhere { name, resolvers, plan, unanswered }) => {
            let asked = recursion::ask(message, by, resolvers, |server| is_inside(&plan, server)).await;
            Some(asked.unwrap_or_else(|why| {
                debug!(%name, why, "no resolver answers");
                unanswered
            }))
        }
    }
}

/// A message with its length before it, as TCP carries it.
fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), message].concat())
}

/// Whether an address is one that containers or hosts of the overlay have.
fn is_inside(plan: &NetworkPlan, address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if plan.containers.contains(&address))
}
