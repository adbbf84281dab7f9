//! Connections and the streams of frames on them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use common::{
    codec,
    id::HostId,
    wire::{MAX_FRAME, PeerIdentity},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::memory;

/// Why a peer could not be reached or spoken with.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection could be made.
    #[error("{to} cannot be reached: {reason}")]
    Unreachable {
        /// The address.
        to: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The peer speaks only other versions of the wire protocol.
    #[error("{to} speaks no version of the wire protocol that is known here: upgrade the older side")]
    NoCommonProtocol {
        /// The address.
        to: SocketAddr,
    },
    /// A dial that others waited for as well has failed.
    #[error("{0}")]
    Dial(Arc<LinkError>),
    /// The connection or stream broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The peer ended the stream before it had answered.
    #[error("the peer ended the stream without an answer")]
    Ended,
    /// No answer came in time.
    #[error("no answer came within {0:?}")]
    TimedOut(Duration),
    /// A frame is larger than frames may be.
    #[error("a frame of {0} bytes is larger than the {MAX_FRAME} allowed")]
    TooLarge(usize),
    /// A frame cannot be read.
    #[error("a frame cannot be read: {0}")]
    Malformed(#[from] codec::CodecError),
    /// The certificates or keys cannot be used.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// A connection to a peer whose certificate was checked. Clones share it.
#[derive(Clone)]
pub struct Connection {
    peer: PeerIdentity,
    remote: SocketAddr,
    inner: Inner,
}

#[derive(Clone)]
pub(crate) enum Inner {
    Quic(quinn::Connection),
    Memory(memory::Half),
}

impl Connection {
    pub(crate) fn new(peer: PeerIdentity, remote: SocketAddr, inner: Inner) -> Connection {
        Connection { peer, remote, inner }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> PeerIdentity {
        self.peer
    }

    /// The host at the other end.
    pub fn host(&self) -> HostId {
        self.peer.host
    }

    /// Where the other end is.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Opens a stream; the peer learns of it with the first frame.
    pub async fn open(&self) -> Result<Stream, LinkError> {
        match &self.inner {
            Inner::Quic(connection) => {
                let (write, read) = connection.open_bi().await.map_err(io::Error::from)?;
                Ok(Stream::new(read, write))
            }
            Inner::Memory(half) => half.open().map_err(LinkError::from),
        }
    }

    /// The next stream that the peer opens. Cancel-safe.
    pub async fn accept(&self) -> Result<Stream, LinkError> {
        match &self.inner {
            Inner::Quic(connection) => {
                let (write, read) = connection.accept_bi().await.map_err(io::Error::from)?;
                Ok(Stream::new(read, write))
            }
            Inner::Memory(half) => half.accept().await.map_err(LinkError::from),
        }
    }

    /// Ends the connection and all its streams.
    pub fn close(&self, reason: &str) {
        match &self.inner {
            Inner::Quic(connection) => connection.close(0u32.into(), reason.as_bytes()),
            Inner::Memory(half) => half.close(),
        }
    }

    /// How many packets have come from the peer; none are counted within one process.
    pub(crate) fn heard(&self) -> u64 {
        match &self.inner {
            Inner::Quic(connection) => connection.stats().udp_rx.datagrams,
            Inner::Memory(_) => 0,
        }
    }

    /// Whether both are the same connection.
    pub(crate) fn is_same(&self, other: &Connection) -> bool {
        match (&self.inner, &other.inner) {
            (Inner::Quic(a), Inner::Quic(b)) => a.stable_id() == b.stable_id(),
            (Inner::Memory(a), Inner::Memory(b)) => a.is_same(b),
            _ => false,
        }
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        match &self.inner {
            Inner::Quic(connection) => connection.close_reason().is_some(),
            Inner::Memory(half) => half.is_closed(),
        }
    }
}

/// A stream of frames in both directions.
pub struct Stream {
    /// What the peer says.
    pub incoming: Receiver,
    /// What we say.
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
    /// Sends one frame: its length in four bytes, and its bincode form.
    pub async fn send<T: Serialize>(&mut self, value: &T) -> Result<(), LinkError> {
        let body = codec::encode(value)?;
        if body.len() > MAX_FRAME {
            return Err(LinkError::TooLarge(body.len()));
        }
        let mut frame = Vec::with_capacity(4 + body.len());
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(&body);
        self.write.write_all(&frame).await?;
        self.write.flush().await?;
        Ok(())
    }

    /// Tells the peer that nothing more comes.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        Ok(self.write.shutdown().await?)
    }
}

impl Receiver {
    /// The next frame, or `None` at the end of the stream. Not cancel-safe: a frame that was read
    /// in part is lost, so give each receiver a task of its own or drop it afterwards.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LinkError> {
        let mut length = [0u8; 4];
        match self.read.read_exact(&mut length).await {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(LinkError::TooLarge(length));
        }
        let mut body = vec![0u8; length];
        self.read.read_exact(&mut body).await?;
        Ok(Some(codec::decode(&body)?))
    }
}
