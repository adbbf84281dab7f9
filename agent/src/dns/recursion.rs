//! Names that are not the cluster's: the agent asks the resolvers that the asker's service names, or else those of the
//! host; never others.

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

use super::{framed, reply::Asked};

/// Where the host's resolvers are named.
const RESOLVERS: &str = "/etc/resolv.conf";
/// How long one of them may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How many of them are asked at most (as in resolv.conf(5)).
const MOST_SERVERS: usize = 3;

/// A question as others are asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    /// The message.
    pub message: &'a [u8],
    /// How it came, and how it goes on.
    pub by: Asked,
    /// The resolvers' port.
    pub port: u16,
}

/// The answer to a question, as it came; an error if none of them answers.
///
/// The resolvers that the asker's service names replace those of the host.
pub(super) async fn ask(
    question: Question<'_>,
    named: Vec<IpAddr>,
    is_own: impl Fn(IpAddr) -> bool,
) -> Result<Vec<u8>, String> {
    let Question { message, by, port } = question;
    let text = tokio::fs::read_to_string(Path::new(RESOLVERS)).await.map_err(|e| format!("{RESOLVERS}: {e}"));
    let text = if named.is_empty() { text? } else { String::new() };
    let mut why = format!("{RESOLVERS} names no DNS server");
    for server in whom(named, &text, is_own) {
        let server = SocketAddr::new(server, port);
        let asking = async {
            match by {
                Asked::ByUdp => by_udp(message, server).await,
                Asked::ByTcp => by_tcp(message, server).await,
            }
        };
        match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => why = format!("{server}: {error}"),
            Err(_) => why = format!("{server} did not answer within {TIMEOUT:?}"),
        }
    }
    Err(why)
}

/// The resolvers to ask: those that the service names, or else those of the host without the cluster's own, which would
/// ask here again.
fn whom(named: Vec<IpAddr>, host: &str, is_own: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let hosts = servers(host).filter(|server| !is_own(*server));
    if named.is_empty() { hosts.take(MOST_SERVERS).collect() } else { named }
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
    fn a_services_own_resolvers_are_asked_instead_of_the_hosts() {
        let text = "nameserver 10.0.0.2\nnameserver 10.42.0.1\n";
        let is_own = |server: IpAddr| server == IpAddr::from([10, 42, 0, 1]);
        assert_eq!(whom(Vec::new(), text, is_own), [IpAddr::from([10, 0, 0, 2])], "never itself");
        let named = vec![IpAddr::from([10, 1, 1, 1])];
        assert_eq!(whom(named.clone(), text, is_own), named);
    }

    #[test]
    fn the_hosts_resolvers_are_read() {
        let text =
            "# nameserver 9.9.9.9\nnameserver 10.0.0.2\nsearch example.com\n nameserver  fd00::1 # why\nnameserver x\n";
        let found: Vec<String> = servers(text).map(|server| server.to_string()).collect();
        assert_eq!(found, ["10.0.0.2", "fd00::1"]);
    }
}
