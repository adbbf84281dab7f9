//! A transport within one process, for tests. The connection between any two ends can be cut and healed.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use common::wire::PeerIdentity;
use tokio::sync::{mpsc, watch};

use crate::{Connection, LinkError, Stream, Transport, connection::Inner};

/// The number of bytes that a stream buffers before its writer waits.
const STREAM_BUFFER: usize = 256 << 10;

/// A network of ends that can reach each other.
#[derive(Clone, Default)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    ends: HashMap<SocketAddr, (PeerIdentity, mpsc::UnboundedSender<Connection>)>,
    cut: HashSet<(SocketAddr, SocketAddr)>,
    open: Vec<(SocketAddr, SocketAddr, watch::Sender<bool>)>,
}

/// An end of the network, which stands for a process.
pub struct End {
    address: SocketAddr,
    identity: PeerIdentity,
    network: Network,
    accepted: tokio::sync::Mutex<mpsc::UnboundedReceiver<Connection>>,
}

/// One side of a connection.
#[derive(Clone)]
pub(crate) struct Half {
    open: mpsc::UnboundedSender<Stream>,
    accept: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Stream>>>,
    closed: watch::Sender<bool>,
}

impl Network {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Adds an end at `address`, replacing an earlier one.
    pub fn end(&self, address: SocketAddr, identity: PeerIdentity) -> End {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state().ends.insert(address, (identity, sender));
        End { address, identity, network: self.clone(), accepted: tokio::sync::Mutex::new(receiver) }
    }

    /// Breaks all connections between two ends, and refuses new ones.
    pub fn cut(&self, a: SocketAddr, b: SocketAddr) {
        let mut state = self.state();
        state.cut.extend([(a, b), (b, a)]);
        state.open.retain(|(from, to, closed)| {
            let broken = (*from, *to) == (a, b) || (*from, *to) == (b, a);
            if broken {
                closed.send_replace(true);
            }
            !broken
        });
    }

    /// Removes every cut.
    pub fn heal(&self) {
        self.state().cut.clear();
    }
}

impl Half {
    fn pair() -> (Half, Half) {
        let (closed, _) = watch::channel(false);
        let (left_open, right_accept) = mpsc::unbounded_channel();
        let (right_open, left_accept) = mpsc::unbounded_channel();
        let half =
            |open, accept| Half { open, accept: Arc::new(tokio::sync::Mutex::new(accept)), closed: closed.clone() };
        (half(left_open, left_accept), half(right_open, right_accept))
    }

    pub(crate) fn is_same(&self, other: &Half) -> bool {
        Arc::ptr_eq(&self.accept, &other.accept)
    }

    pub(crate) fn open(&self) -> io::Result<Stream> {
        let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
        if self.is_closed() {
            return Err(broken());
        }
        let (ours, theirs) = tokio::io::duplex(STREAM_BUFFER);
        let stream = |duplex: tokio::io::DuplexStream| {
            let (read, write) = tokio::io::split(duplex);
            Stream::new(Severable::new(read, self.closed.subscribe()), write)
        };
        self.open.send(stream(theirs)).map_err(|_| broken())?;
        Ok(stream(ours))
    }

    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        let mut closed = self.closed.subscribe();
        let mut streams = self.accept.lock().await;
        tokio::select! {
            stream = streams.recv() => stream.ok_or_else(|| io::ErrorKind::ConnectionReset.into()),
            _ = closed.wait_for(|closed| *closed) => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }
}

/// A reader that fails when its connection is closed.
struct Severable<R> {
    inner: R,
    severed: std::pin::Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl<R> Severable<R> {
    fn new(inner: R, mut closed: watch::Receiver<bool>) -> Severable<R> {
        let severed = async move {
            // An error means that the connection has ended, which ends the stream as well.
            let _ = closed.wait_for(|closed| *closed).await;
        };
        Severable { inner, severed: Box::pin(severed) }
    }
}

impl<R: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for Severable<R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        if self.severed.as_mut().poll(cx).is_ready() {
            let severed = std::future::pending();
            self.severed = Box::pin(severed);
            return std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        std::pin::Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

#[async_trait]
impl Transport for End {
    async fn dial(&self, to: SocketAddr) -> Result<Connection, LinkError> {
        let mut state = self.network.state();
        let unreachable = |reason: &str| LinkError::Unreachable { to, reason: reason.to_owned() };
        if state.cut.contains(&(self.address, to)) {
            return Err(unreachable("the network is cut"));
        }
        let (peer, accept) = state.ends.get(&to).cloned().ok_or_else(|| unreachable("nobody is there"))?;
        let (ours, theirs) = Half::pair();
        state.open.retain(|(_, _, closed)| closed.receiver_count() > 0 || !*closed.borrow());
        state.open.push((self.address, to, ours.closed.clone()));
        let incoming = Connection::new(self.identity, self.address, Inner::Memory(theirs));
        accept.send(incoming).map_err(|_| unreachable("nobody is there"))?;
        Ok(Connection::new(peer, to, Inner::Memory(ours)))
    }

    async fn accept(&self) -> Option<Connection> {
        self.accepted.lock().await.recv().await
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.network.state();
        let address = self.address;
        state.open.retain(|(from, to, closed)| {
            let ours = *from == address || *to == address;
            if ours {
                closed.send_replace(true);
            }
            !ours
        });
    }
}
