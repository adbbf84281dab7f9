//! One asker that asks much, and others that are answered nevertheless: with real sockets, at addresses of loopback.

use std::{net::Ipv4Addr, str::FromStr};

use common::{
    assignment::Assignment,
    directory::{Directory, Endpoint, Listing},
    id::{ClusterId, HostId},
    network::{Network, Overlay},
};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{net::TcpSocket, sync::watch, time::timeout};

use super::*;

const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 2);
const MODEST: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 3);
/// A resolver that takes questions and answers none.
const DEAD: Ipv4Addr = Ipv4Addr::new(127, 68, 0, 1);
/// One that answers each.
const ALIVE: Ipv4Addr = Ipv4Addr::new(127, 68, 0, 2);
/// More questions than a server has places.
const FLOOD: usize = 2000;
/// The time within which an answer comes: a question to a dead resolver takes longer.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A host's server, and its resolvers.
struct Host {
    address: SocketAddr,
    dead: UdpSocket,
}

impl Host {
    async fn start() -> Host {
        let dead = UdpSocket::bind((DEAD, 0)).await.expect("a socket");
        let port = dead.local_addr().expect("it has an address").port();
        let alive = UdpSocket::bind((ALIVE, port)).await.expect("nobody else has that address");
        let gateway = Ipv4Addr::new(127, 66, 0, 1);
        let tcp = TcpListener::bind((gateway, 0)).await.expect("a socket");
        let address = tcp.local_addr().expect("it has an address");
        let udp = UdpSocket::bind(address).await.expect("nobody else has that address");
        tokio::spawn(Arc::new(Server::new(known(), port)).listen(udp, tcp));
        tokio::spawn(answer_each(alive));
        Host { address, dead }
    }

    /// The answer to a question by UDP. Datagrams may be lost: it is asked again, as resolvers do.
    async fn answer(&self, from: Ipv4Addr, name: &str) -> Option<Message> {
        let socket = UdpSocket::bind((from, 0)).await.expect("a socket");
        let mut buffer = [0; 512];
        let asking = async {
            loop {
                socket.send_to(&question(name), self.address).await.expect("it is sent");
                if let Ok(length) = timeout(AT_ONCE / 4, socket.recv(&mut buffer)).await {
                    return Message::from_vec(&buffer[..length.expect("it comes")]).expect("it can be read");
                }
            }
        };
        timeout(AT_ONCE, asking).await.ok()
    }

    async fn connect(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("it can have that address");
        socket.connect(self.address).await.expect("it is accepted")
    }
}

/// What a host knows on which two services run, each with a resolver of its own.
fn known() -> Known {
    let mut directory = Directory::default();
    for (service, address, resolver) in [("greedy", GREEDY, DEAD), ("modest", MODEST, ALIVE)] {
        let listing = Listing { resolvers: vec![resolver.into(); 3], ..Listing::default() };
        directory.put_service(format!("default/shop/{service}").parse().expect("an id"), Some(listing));
        let instance = format!("default/shop/{service}/1.1").parse().expect("an id");
        directory.put_instance(instance, Some(Endpoint { address, serves: true }));
    }
    let containers = "127.66.0.0/16".parse().expect("a range");
    let plan = NetworkPlan { containers, ..NetworkPlan::default() };
    let own = plan.subnets().next().expect("it has some");
    let mut assignment = Assignment::nothing(ClusterId([1; 10]), HostId([2; 10]));
    assignment.generation = 1;
    assignment.network = Network::Overlay(Overlay { plan, own });
    // A receiver keeps the last value also without its sender.
    Known {
        assignment: watch::channel(assignment).1,
        directory: watch::channel(directory).1,
        residents: watch::channel(None).1,
    }
}

async fn answer_each(socket: UdpSocket) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        buffer[2] |= 0x80;
        socket.send_to(&buffer[..length], from).await.expect("it is sent");
    }
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_str(name).expect("a name"), RecordType::A));
    message.to_vec().expect("it can be written")
}

#[tokio::test]
async fn who_asks_much_outside_keeps_nobody_from_an_answer() {
    let host = Host::start().await;
    let flood = UdpSocket::bind((GREEDY, 0)).await.expect("a socket");
    for number in 0..FLOOD {
        flood.send_to(&question(&format!("n{number}.example.com.")), host.address).await.expect("it is sent");
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    for (from, name, why) in [
        (MODEST, "modest.", "a name of the cluster"),
        (MODEST, "example.com.", "a name of another resolver"),
        (GREEDY, "greedy.", "a name of the cluster, for the one that asks much"),
    ] {
        let answer = host.answer(from, name).await.unwrap_or_else(|| panic!("{why}: no answer"));
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{why}");
    }
    let mut buffer = [0; 512];
    let length = timeout(AT_ONCE, flood.recv(&mut buffer)).await.expect("it comes at once").expect("it comes");
    let refused = Message::from_vec(&buffer[..length]).expect("it can be read");
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail, "what is too much fails, and is not silent");
    let asked = std::iter::from_fn(|| host.dead.try_recv(&mut buffer).ok()).count();
    assert!((OUTSIDE.of_address..FLOOD / 4).contains(&asked), "most of the flood goes no further: {asked} did");
}

#[tokio::test]
async fn who_opens_many_connections_keeps_nobody_from_an_answer() {
    let host = Host::start().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS.all {
        silent.push(host.connect(GREEDY).await);
    }
    let mut stream = host.connect(MODEST).await;
    let asking = async {
        stream.write_all(&framed(&question("modest."))?).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = timeout(AT_ONCE, asking).await.expect("it comes at once").expect("it is not closed");
    assert_eq!(Message::from_vec(&answer).expect("it can be read").answers.len(), 1);
    drop(silent);
}
