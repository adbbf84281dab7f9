//! Whoever opens connections and says nothing keeps nobody else out.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cli::{context::Context, pinned};
use common::api::ClusterView;
use rustls::pki_types::ServerName;
use tests::cluster::TestCluster;
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// More than a coordinator takes of one address.
const CROWD: usize = 1100;
const SOON: Duration = Duration::from_secs(30);

/// A connection from another address of the loopback, whose handshake is over; none if there is no room.
async fn connect(from: [u8; 4], to: SocketAddr, context: &Context) -> Option<TlsStream<TcpStream>> {
    let root = pem::parse(&context.authority).expect("a certificate");
    let tls = Arc::new(pinned::by_root(root.contents()).expect("it can be trusted"));
    let name = ServerName::try_from(link::identity::coordinator_name(context.cluster)).expect("a name");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((from, 0))).expect("the whole network is ours");
    let stream = socket.connect(to).await.ok()?;
    TlsConnector::from(tls).connect(name, stream).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_nobody_out_and_are_closed() {
    let cluster = TestCluster::start(1).await;
    let (address, context) = (cluster.hosts[0].address, cluster.context().clone());
    let mut connecting = JoinSet::new();
    for _ in 0..CROWD {
        let context = context.clone();
        connecting.spawn(async move { connect([127, 0, 0, 2], address, &context).await });
    }
    let silent: Vec<TlsStream<TcpStream>> = connecting.join_all().await.into_iter().flatten().collect();
    assert!(silent.len() < CROWD, "there are not so many places for one address");
    let answered = tokio::time::timeout(SOON, cluster.client().get::<ClusterView>("/api/v1/cluster")).await;
    answered.expect("in time").expect("it answers others");
    for mut stream in silent {
        let ended = tokio::time::timeout(SOON, stream.read(&mut [0])).await.expect("it is closed");
        assert!(!matches!(ended, Ok(1..)), "nothing was asked: {ended:?}");
    }
}
