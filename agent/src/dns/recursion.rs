//! Names that are not the cluster's: the host's own resolvers are asked, never others.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use super::{PORT, framed, reply::Asked};

/// Where the host's resolvers are named.
const RESOLVERS: &str = "/etc/resolv.conf";
/// How long one of them may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// More are not asked (as resolv.conf(5)).
const MOST_SERVERS: usize = 3;

/// The answer to a question, as it came; an error if none of them answers.
pub(super) async fn ask(question: &[u8], by: Asked, is_own: impl Fn(IpAddr) -> bool) -> Result<Vec<u8>, String> {
    let text = tokio::fs::read_to_string(Path::new(RESOLVERS)).await.map_err(|e| format!("{RESOLVERS}: {e}"))?;
    let mut why = format!("{RESOLVERS} names nobody who could be asked");
    // One of the cluster's own would ask here again.
    for server in servers(&text).filter(|server| !is_own(*server)).take(MOST_SERVERS) {
        let server = SocketAddr::new(server, PORT);
        let asking = async {
            match by {
                Asked::ByUdp => by_udp(question, server).await,
                Asked::ByTcp => by_tcp(question, server).await,
            }
        };
        match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => why = format!("{server}: {error}"),
            Err(_) => why = format!("{server} does not answer within {TIMEOUT:?}"),
        }
    }
    Err(why)
}

fn servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    })
}

async fn by_udp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    // A port of its own for each question, chosen by the kernel: answers are hard to forge (RFC 5452).
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // The same id, and an answer.
        if length >= 12 && buffer[..2] == question[..2] && buffer[2] & 0x80 != 0 {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&framed(question)?).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_resolvers_are_read() {
        let text =
            "# nameserver 9.9.9.9\nnameserver 10.0.0.2\nsearch example.com\n nameserver  fd00::1 # why\nnameserver x\n";
        let found: Vec<String> = servers(text).map(|server| server.to_string()).collect();
        assert_eq!(found, ["10.0.0.2", "fd00::1"]);
    }
}
