//! Sockets at addresses of the overlay.

use std::{io, net::SocketAddrV4, os::fd::OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket at an address that the host may not have yet, for tokio; one of streams listens.
pub(crate) fn bound(address: SocketAddrV4, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    sockopt::set_ip_freebind(&socket, true)?;
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    if kind == SocketType::STREAM {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}
