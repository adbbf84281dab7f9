//! Sockets: the process that holds a port, from `/proc`; the local address for a destination; buffer sizes.

use std::{
    fs, io,
    net::{SocketAddr, UdpSocket},
    path::Path,
};

use rustix::net::sockopt;

/// Sets the send and receive buffers of a socket. Processes without privileges get at most the kernel's limit.
pub fn make_room(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    if sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    }
    Ok(sockopt::set_socket_send_buffer_size(socket, bytes)?)
}

/// The program and process id listening on a TCP or UDP port, if this process may see them.
pub fn holder_of(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["tcp", "tcp6", "udp", "udp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(Path::new("/proc/net").join(table)).ok().map(|text| (table, text)))
        .flat_map(|(table, text)| inodes_of(&text, port, table.starts_with("udp")))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit())).find_map(
        |entry| {
            let sockets = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
            let holds = |link: &Path| {
                let target = fs::read_link(link).unwrap_or_default().to_string_lossy().into_owned();
                inodes.iter().any(|inode| target == format!("socket:[{inode}]"))
            };
            sockets.into_iter().any(|fd| holds(&fd.path())).then(|| {
                let program = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                format!("{} (process {})", program.trim(), entry.file_name().to_string_lossy())
            })
        },
    )
}

/// The inodes of sockets listening on `port`, from a table in `/proc/net`.
fn inodes_of(table: &str, port: u16, any_state: bool) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = any_state || fields.get(3) == Some(&"0A");
            (listens && fields.get(1)?.ends_with(&wanted)).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
        })
        .collect()
}

/// The local address from which packets to `to` would be sent; no packet is sent.
pub fn local_address_towards(to: SocketAddr) -> io::Result<std::net::IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_can_wait_in_a_socket_than_by_default() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let usual = sockopt::socket_recv_buffer_size(&socket).expect("has one");
        make_room(&socket, usual * 2).expect("there is room");
        assert!(sockopt::socket_recv_buffer_size(&socket).expect("has one") > usual);
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("has one").port();
        let holder = holder_of(port).expect("this process");
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        drop(listener);
        assert_eq!(holder_of(port), None);
    }
}
