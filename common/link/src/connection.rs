//! Connections to peers, and the streams of frames on them.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use common::{
    codec,
    id::HostId,
    wire::{MAX_FRAME, PeerIdentity},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::memory;

/// The memory that a frame takes before any of it came.
const ANNOUNCED: usize = 64 << 10;

/// Why a peer cannot be reached or does not answer properly.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection could be made.
    #[error("{to} cannot be reached: {reason}")]
    Unreachable {
        /// The address that was dialled.
        to: SocketAddr,
        /// The reason, as a sentence.
        reason: String,
    },
    /// The peer supports only other versions of the wire protocol.
    #[error("{to} supports no version of the wire protocol that this binary supports: upgrade the older side")]
    NoCommonProtocol {
        /// The address that was dialled.
        to: SocketAddr,
    },
    /// A dial shared with other callers has failed.
    #[error("{0}")]
    Dial(Arc<LinkError>),
    /// The connection or stream broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The peer ended the stream before it answered.
    #[error("the peer ended the stream without an answer")]
    Ended,
    /// There was no answer in time.
    #[error("no answer came within {0:?}")]
    TimedOut(Duration),
    /// A frame exceeds the size limit.
    #[error("a frame of {size} bytes is larger than the {limit} allowed")]
    TooLarge {
        /// How many bytes it has.
        size: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A frame cannot be decoded.
    #[error("a frame cannot be read: {0}")]
    Malformed(#[from] codec::CodecError),
    /// The certificates or keys are unusable.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// A connection to a peer with a verified certificate. Clones share it.
#[derive(Clone)]
pub struct Connection {
    peer: PeerIdentity,
    remote: SocketAddr,
    lapsed: bool,
    inner: Inner,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).field("remote", &self.remote).finish_non_exhaustive()
    }
}

#[derive(Clone)]
pub(crate) enum Inner {
    Quic(quinn::Connection),
    Memory(memory::Half),
}

impl Connection {
    pub(crate) fn new(peer: PeerIdentity, remote: SocketAddr, inner: Inner) -> Connection {
        Connection { peer, remote, lapsed: false, inner }
    }

    /// The same, of a peer whose certificate had ended, or not.
    pub(crate) fn with_lapsed(self, lapsed: bool) -> Connection {
        Connection { lapsed, ..self }
    }

    /// Whether the peer's certificate had ended when the connection was made.
    pub fn is_lapsed(&self) -> bool {
        self.lapsed
    }

    /// The peer's identity, from its certificate.
    pub fn peer(&self) -> PeerIdentity {
        self.peer
    }

    /// The peer's host, from its certificate.
    pub fn host(&self) -> HostId {
        self.peer.host
    }

    /// The peer's address.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Opens a stream. The peer notices it with the first frame.
    pub async fn open(&self) -> Result<Stream, LinkError> {
        match &self.inner {
            Inner::Quic(connection) => {
                let (write, read) = connection.open_bi().await.map_err(io::Error::from)?;
                Ok(Stream::new(read, write))
            }
            Inner::Memory(half) => half.open().map_err(LinkError::from),
        }
    }

    /// Waits for the next stream that the peer opens. Cancel-safe.
    pub async fn accept(&self) -> Result<Stream, LinkError> {
        match &self.inner {
            Inner::Quic(connection) => {
                let (write, read) = connection.accept_bi().await.map_err(io::Error::from)?;
                Ok(Stream::new(read, write))
            }
            Inner::Memory(half) => half.accept().await.map_err(LinkError::from),
        }
    }

    /// Closes the connection and all its streams.
    pub fn close(&self, reason: &str) {
        match &self.inner {
            Inner::Quic(connection) => connection.close(0u32.into(), reason.as_bytes()),
            Inner::Memory(half) => half.close(),
        }
    }

    /// The number of packets received from the peer; always 0 within one process.
    pub(crate) fn heard(&self) -> u64 {
        match &self.inner {
            Inner::Quic(connection) => connection.stats().udp_rx.datagrams,
            Inner::Memory(_) => 0,
        }
    }

    /// Whether both values are the same connection.
    pub(crate) fn is_same(&self, other: &Connection) -> bool {
        match (&self.inner, &other.inner) {
            (Inner::Quic(a), Inner::Quic(b)) => a.stable_id() == b.stable_id(),
            (Inner::Memory(a), Inner::Memory(b)) => a.is_same(b),
            _ => false,
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        match &self.inner {
            Inner::Quic(connection) => connection.close_reason().is_some(),
            Inner::Memory(half) => half.is_closed(),
        }
    }
}

/// A bidirectional stream of frames.
pub struct Stream {
    /// The frames from the peer.
    pub incoming: Receiver,
    /// The frames to the peer.
    pub outgoing: Sender,
}

/// The receiving half of a [`Stream`].
pub struct Receiver {
    read: Box<dyn AsyncRead + Send + Sync + Unpin>,
}

/// The sending half of a [`Stream`].
pub struct Sender {
    write: Box<dyn AsyncWrite + Send + Sync + Unpin>,
}

impl Stream {
    pub(crate) fn new(
        read: impl AsyncRead + Send + Sync + Unpin + 'static,
        write: impl AsyncWrite + Send + Sync + Unpin + 'static,
    ) -> Stream {
        Stream { incoming: Receiver { read: Box::new(read) }, outgoing: Sender { write: Box::new(write) } }
    }
}

impl Sender {
    /// Sends one frame: its length in four bytes, then its bincode encoding.
    pub async fn send<T: Serialize>(&mut self, value: &T) -> Result<(), LinkError> {
        let body = codec::encode(value)?;
        if body.len() > MAX_FRAME {
            return Err(LinkError::TooLarge { size: body.len(), limit: MAX_FRAME });
        }
        let mut frame = Vec::with_capacity(4 + body.len());
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(&body);
        self.write.write_all(&frame).await?;
        self.write.flush().await?;
        Ok(())
    }

    /// Tells the peer that no more frames follow.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        Ok(self.write.shutdown().await?)
    }
}

impl Receiver {
    /// Waits for the next frame; `None` at the end of the stream. Not cancel-safe: a partly read frame is lost, so run
    /// each receiver in its own task, or drop it afterwards.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LinkError> {
        self.receive_up_to(MAX_FRAME).await
    }

    /// The same for a frame of at most so many bytes, of a peer that has not shown yet that it may send more.
    pub async fn receive_up_to<T: DeserializeOwned>(&mut self, limit: usize) -> Result<Option<T>, LinkError> {
        let mut length = [0u8; 4];
        match self.read.read_exact(&mut length).await {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > limit {
            return Err(LinkError::TooLarge { size: length, limit });
        }
        let mut body = Vec::new();
        fill(&mut self.read, length, &mut body).await?;
        Ok(Some(codec::decode(&body)?))
    }
}

/// Reads a body of this length. Its memory grows with what arrives: whoever announces much and sends nothing takes
/// hardly any.
async fn fill(read: &mut (impl AsyncRead + Unpin), length: usize, body: &mut Vec<u8>) -> io::Result<()> {
    body.reserve_exact(length.min(ANNOUNCED));
    let came = read.take(length as u64).read_to_end(body).await?;
    if came < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    /// A stream on which these bytes come, and the side where more may come from.
    fn stream_with(bytes: &[u8]) -> (tokio::io::DuplexStream, Stream) {
        let (ours, mut theirs) = tokio::io::duplex(4 << 20);
        let written = futures::FutureExt::now_or_never(theirs.write_all(bytes));
        written.expect("there is room").expect("it is open");
        let (read, write) = tokio::io::split(ours);
        (theirs, Stream::new(read, write))
    }

    #[tokio::test]
    async fn a_frame_takes_memory_as_it_comes_and_not_as_it_is_announced() {
        let (mut theirs, mut stream) = stream_with(&[]);
        let mut body = Vec::new();
        for (sent, most) in [(0, ANNOUNCED), (100, ANNOUNCED), (1 << 20, 4 << 20)] {
            body.clear();
            theirs.write_all(&vec![7; sent]).await.expect("it is open");
            {
                let mut filling = pin!(fill(&mut stream.incoming.read, MAX_FRAME, &mut body));
                assert!(futures::poll!(&mut filling).is_pending(), "more is to come");
            }
            assert!(body.capacity() <= most, "{} bytes for {sent}", body.capacity());
        }
    }

    #[tokio::test]
    async fn frames_are_read_whole_up_to_their_limit() {
        let sent = vec![7_u8; 300_000];
        let body = codec::encode(&sent).expect("it is encoded");
        let frame = [&(body.len() as u32).to_be_bytes()[..], &body].concat();
        let (theirs, mut stream) = stream_with(&[&frame[..], &frame, &frame[..1000]].concat());
        drop(theirs);
        let first: Option<Vec<u8>> = stream.incoming.receive_up_to(body.len()).await.expect("it is as long as it may");
        assert_eq!(first, Some(sent.clone()));
        assert_eq!(stream.incoming.receive().await.expect("it is read"), Some(sent));
        let cut = stream.incoming.receive::<Vec<u8>>().await.expect_err("the rest does not come");
        assert!(matches!(cut, LinkError::Broken(error) if error.kind() == io::ErrorKind::UnexpectedEof));

        let (_theirs, mut stream) = stream_with(&frame);
        let refused = stream.incoming.receive_up_to::<Vec<u8>>(body.len() - 1).await.expect_err("it is longer");
        assert!(matches!(refused, LinkError::TooLarge { limit, .. } if limit == body.len() - 1), "{refused}");
    }
}
