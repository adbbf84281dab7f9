//! DNS for containers, on the gateway of their bridge: the cluster's names are answered from the directory, all
//! others by the resolvers of the host.

mod places;
mod recursion;
mod reply;
#[cfg(test)]
mod tests;

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
    task::JoinSet,
};
use tracing::{debug, info, warn};

use crate::{
    findings::{Findings, Source},
    known::{Known, for_own_subnet},
    socket::bound,
};
use places::{Limits, Place, Places};
pub use reply::{Asked, Elsewhere, Reply, decide};

/// The port of DNS.
const PORT: u16 = 53;
/// The questions by UDP that are looked up at a time, which takes no waiting; the server drops more, and their askers
/// repeat them.
const QUESTIONS: Limits = Limits { all: 1024, of_address: 256 };
/// The questions that wait for other resolvers at a time. More get a failure at once, and not silence: their asker then
/// asks the next server or gives up, where silence would cost it seconds and would make it ask again.
const OUTSIDE: Limits = Limits { all: 1024, of_address: 64 };
/// TCP connections at a time.
const CONNECTIONS: Limits = Limits { all: 64, of_address: 8 };
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
    let udp = UdpSocket::from_std(StdUdpSocket::from(bound(address, SocketType::DGRAM)?))?;
    let tcp = TcpListener::from_std(StdTcpListener::from(bound(address, SocketType::STREAM)?))?;
    info!(%address, "answering DNS queries");
    findings.put(Source::Names, []);
    Arc::new(Server::new(known.clone(), PORT)).listen(udp, tcp).await
}

/// Answers questions. One asker cannot delay the answers to others, and a question for a name of the cluster never waits
/// for other resolvers.
struct Server {
    known: Known,
    /// The port of other resolvers.
    port: u16,
    questions: Places,
    outside: Places,
    connections: Places,
}

impl Server {
    fn new(known: Known, port: u16) -> Server {
        let [questions, outside, connections] = [QUESTIONS, OUTSIDE, CONNECTIONS].map(Places::new);
        Server { known, port, questions, outside, connections }
    }

    /// Answers all that comes by these sockets.
    async fn listen(self: Arc<Self>, udp: UdpSocket, tcp: TcpListener) -> io::Result<Infallible> {
        let udp = Arc::new(udp);
        let mut answering: JoinSet<()> = JoinSet::new();
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                received = udp.recv_from(&mut buffer) => {
                    let (length, from) = received?;
                    let Some(place) = self.questions.take(from.ip()) else { continue };
                    let datagram = Datagram { message: buffer[..length].to_vec(), from, place };
                    answering.spawn(self.clone().answer(datagram, udp.clone()));
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
                    let Some(place) = self.connections.take(from.ip()) else { continue };
                    answering.spawn(self.clone().answer_all(stream, from, place));
                }
                Some(_) = answering.join_next() => {}
            }
        }
    }

    /// Answers a question that came by UDP.
    async fn answer(self: Arc<Self>, datagram: Datagram, udp: Arc<UdpSocket>) {
        let Datagram { message, from, place } = datagram;
        let answer = match decide(&self.known, &message, from.ip(), Asked::ByUdp) {
            Reply::Silence => return,
            Reply::Answer(answer) => answer,
            Reply::Elsewhere(elsewhere) => {
                // What waits for others takes no place from what does not.
                drop(place);
                self.ask_outside(&message, elsewhere, from.ip(), Asked::ByUdp).await
            }
        };
        if let Err(error) = udp.send_to(&answer, from).await {
            debug!(%from, %error, "an answer was not sent");
        }
    }

    /// Answers the questions that come by a TCP connection, which has a place.
    async fn answer_all(self: Arc<Self>, stream: TcpStream, from: SocketAddr, _place: Place) {
        if let Err(error) = self.converse(stream, from).await {
            debug!(%from, %error, "a connection ended early");
        }
    }

    /// Answers on a TCP connection until the other ends it (RFC 7766).
    async fn converse(&self, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
        let silent = |_| io::Error::from(io::ErrorKind::TimedOut);
        loop {
            let length = match tokio::time::timeout(SILENCE, stream.read_u16()).await.map_err(silent)? {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut message = vec![0; usize::from(length)];
            tokio::time::timeout(SILENCE, stream.read_exact(&mut message)).await.map_err(silent)??;
            let answer = match decide(&self.known, &message, from.ip(), Asked::ByTcp) {
                Reply::Silence => return Ok(()),
                Reply::Answer(answer) => answer,
                Reply::Elsewhere(elsewhere) => self.ask_outside(&message, elsewhere, from.ip(), Asked::ByTcp).await,
            };
            let sending = async { stream.write_all(&framed(&answer)?).await };
            tokio::time::timeout(SILENCE, sending).await.map_err(silent)??;
        }
    }

    /// The answer of other resolvers to a question; that of a failure if none answers, or if the asker has too many
    /// questions under way.
    async fn ask_outside(&self, message: &[u8], elsewhere: Elsewhere, from: IpAddr, by: Asked) -> Vec<u8> {
        let Elsewhere { name, resolvers, plan, unanswered } = elsewhere;
        let Some(_place) = self.outside.take(from) else {
            debug!(%name, %from, "too many questions wait for other resolvers");
            return unanswered;
        };
        let asking = recursion::Question { message, by, port: self.port };
        recursion::ask(asking, resolvers, |server| is_inside(&plan, server)).await.unwrap_or_else(|why| {
            debug!(%name, why, "no resolver answers");
            unanswered
        })
    }
}

/// A question that came by UDP.
struct Datagram {
    message: Vec<u8>,
    from: SocketAddr,
    place: Place,
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
