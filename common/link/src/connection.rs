//! Connections to peers, and the streams of frames on them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use common::{
    codec,
    id::HostId,
    wire::{MAX_FRAME, PeerIdentity},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::memory;

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
    #[error("a frame of {0} bytes is larger than the {MAX_FRAME} allowed")]
    TooLarge(usize),
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
            return Err(LinkError::TooLarge(body.len()));
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
