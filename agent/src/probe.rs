//! Probes between hosts: each host sends probes to the others through the overlay, and pings those that it does not hear
//! on the underlay. It also pings their instances, because packets for a container pass other rules than packets for its
//! host, and services, by their addresses.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket as StdUdpSocket},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_core::{
    network::TUNNEL,
    probe::{ASK_EVERY, EVERY, Heard, LARGE, Missed, SMALL, SMALL_FOR_A_LARGE},
};
use common::network::{NetworkPlan, Peers, Subnet};
use futures::{StreamExt, stream};
use ipnet::Ipv4Net;
use link::identity::random_bytes;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use tokio::{
    net::UdpSocket,
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use crate::{
    findings::{Findings, Source},
    known::{Known, for_own_subnet},
    socket::bound,
};

/// Where probes arrive, at the hosts' own addresses on the overlay; containers do not reach it.
const PORT: u16 = 8473;
/// Headers of IPv4 and UDP, in bytes.
const HEADERS: u32 = 28;
/// The time between two judgements of silent peers.
const JUDGE: Duration = Duration::from_secs(2);
/// How long an address has to answer a ping.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// How many addresses are pinged at a time.
const ASKED_AT_ONCE: usize = 8;
/// How long to wait before the port is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Probes for as long as it is awaited.
pub async fn run(known: Known, findings: Findings) {
    let probing = async |own| {
        if let Err(error) = probe(own, known.clone(), &findings).await {
            warn!(%error, "other hosts cannot be probed; trying again");
        }
        sleep(AGAIN).await;
    };
    for_own_subnet(known.assignment.clone(), probing).await;
}

async fn probe(own: Subnet, known: Known, findings: &Findings) -> io::Result<()> {
    let socket = bound(SocketAddrV4::new(own.host(), PORT), SocketType::DGRAM)?;
    let socket = UdpSocket::from_std(StdUdpSocket::from(socket))?;
    let round = Round {
        known,
        own,
        heard: Mutex::default(),
        missed: Mutex::default(),
        heard_again: Notify::new(),
        began: Instant::now(),
    };
    tokio::select! {
        never = round.tell(&socket) => never,
        broken = round.listen(&socket) => broken,
        never = round.judge(findings) => never,
        () = round.ask(findings) => Ok(()),
        () = round.follow(findings) => Ok(()),
    }
}

/// The peers, and the probes and answers that have arrived.
struct Round {
    known: Known,
    own: Subnet,
    heard: Mutex<Heard>,
    missed: Mutex<Missed>,
    /// Notified when probes of a silent peer arrive again.
    heard_again: Notify,
    began: Instant,
}

impl Round {
    fn peers(&self) -> Peers {
        self.known.peers().unwrap_or_default()
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missed(&self) -> MutexGuard<'_, Missed> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends probes to every peer again and again, one after the other over the time of a round.
    async fn tell(&self, socket: &UdpSocket) -> io::Result<()> {
        for round in 0_u32.. {
            let (began, peers) = (Instant::now(), self.peers());
            let large = round.is_multiple_of(SMALL_FOR_A_LARGE).then(large_probe).flatten();
            for (number, peer) in peers.keys().enumerate() {
                sleep_until(turn(began, EVERY, number, peers.len())).await;
                for packet in [Some(SMALL), large.as_deref()].into_iter().flatten() {
                    if let Err(error) = socket.send_to(packet, (peer.host(), PORT)).await {
                        debug!(%peer, %error, "a probe was not sent");
                    }
                }
            }
            sleep_until(began + EVERY).await;
        }
        Ok(())
    }

    async fn listen(&self, socket: &UdpSocket) -> io::Result<()> {
        // The rest of a larger one does not matter.
        let mut buffer = [0; 64];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            let (is_small, is_large) = (buffer[..length].starts_with(SMALL), buffer[..length].starts_with(LARGE));
            let IpAddr::V4(from) = from.ip() else { continue };
            if let Ok(subnet) = Ipv4Net::new(from, NetworkPlan::SUBNET)
                && (is_small || is_large)
            {
                let ended_a_silence = self.heard().note(Subnet(subnet), is_large, self.began.elapsed());
                if ended_a_silence {
                    self.heard_again.notify_one();
                }
            }
        }
    }

    async fn judge(&self, findings: &Findings) -> io::Result<()> {
        loop {
            // The finding about a peer ends as soon as its probes arrive again.
            let _ = timeout(JUDGE, self.heard_again.notified()).await;
            let peers = self.peers();
            self.heard().keep(peers.keys().copied(), self.began.elapsed());
            let silent = self.heard().silent(self.began.elapsed());
            let asking = peers.into_iter().filter(|(peer, _)| silent.contains(peer));
            let answering: BTreeSet<Subnet> = stream::iter(asking)
                .map(async |(subnet, peer)| match peer.underlay {
                    IpAddr::V4(host) if answers(Ipv4Addr::UNSPECIFIED, host).await => Some(subnet),
                    _ => None,
                })
                .buffer_unordered(ASKED_AT_ONCE)
                .filter_map(std::future::ready)
                .collect()
                .await;
            let found = self.heard().findings(&answering, mtu().unwrap_or(0), self.began.elapsed());
            findings.put(Source::Probes, found);
        }
    }

    /// Pings instances of every peer and services, again and again.
    async fn ask(&self, findings: &Findings) {
        for round in 0.. {
            let (began, peers) = (Instant::now(), self.peers());
            let next = self.missed().next(&self.known.directory.borrow(), &peers, round);
            let count = next.len();
            let asking = next.into_iter().enumerate().map(async |(number, (asked, address))| {
                sleep_until(turn(began, ASK_EVERY, number, count)).await;
                (asked, answers(self.own.host(), address).await)
            });
            let asked: Vec<_> = stream::iter(asking).buffer_unordered(ASKED_AT_ONCE).collect().await;
            let unsettled = self.heard().unsettled(self.began.elapsed());
            self.missed().note(asked, &unsettled, &self.known.directory.borrow());
            findings.put(Source::Instances, self.missed().findings());
            sleep_until(began + ASK_EVERY).await;
        }
    }

    /// Takes back findings about instances that serve no longer.
    async fn follow(&self, findings: &Findings) {
        let mut directory = self.known.directory.clone();
        while directory.changed().await.is_ok() {
            self.missed().follow(&directory.borrow_and_update());
            findings.put(Source::Instances, self.missed().findings());
        }
    }
}

/// When it is the turn of one of so many, in a round that began then.
fn turn(began: Instant, round: Duration, number: usize, count: usize) -> Instant {
    let small = |count| u32::try_from(count).unwrap_or(u32::MAX);
    began + round * small(number) / small(count).max(1)
}

/// The largest packet that the overlay's link takes, in bytes, if it is there.
fn mtu() -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{TUNNEL}/mtu")).ok()?.trim().parse().ok()
}

/// As much as the overlay carries in one packet.
fn large_probe() -> Option<Vec<u8>> {
    let length = mtu()?.checked_sub(HEADERS)?;
    let mut packet = vec![0; usize::try_from(length).ok()?];
    packet.get_mut(..LARGE.len())?.copy_from_slice(LARGE);
    Some(packet)
}

/// Whether an address answers a ping (RFC 792) from an address of this host.
async fn answers(from: Ipv4Addr, host: Ipv4Addr) -> bool {
    let id: [u8; 2] = random_bytes();
    let asking = async {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::ICMP))?;
        rustix::net::bind(&socket, &SocketAddrV4::new(from, 0))?;
        rustix::net::connect(&socket, &SocketAddrV4::new(host, 0))?;
        // Not one of UDP, but it sends and receives like one.
        let socket = UdpSocket::from_std(StdUdpSocket::from(socket))?;
        socket.send(&echo_request(id)).await?;
        let mut buffer = [0; 256];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if is_reply(&buffer[..length], id) {
                return io::Result::Ok(());
            }
        }
    };
    matches!(timeout(ANSWERS_WITHIN, asking).await, Ok(Ok(())))
}

/// An echo request: type, code, checksum, identifier and a sequence number of zero.
fn echo_request([a, b]: [u8; 2]) -> [u8; 8] {
    // The sum of all words but itself, in ones' complement.
    let sum = 0x0800 + u32::from(u16::from_be_bytes([a, b]));
    let [high, low] = (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes();
    [8, 0, high, low, a, b, 0, 0]
}

/// Whether a packet, with its IP header, is the reply to an echo request.
fn is_reply(packet: &[u8], id: [u8; 2]) -> bool {
    let header = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    packet.get(header) == Some(&0) && packet.get(header + 4..header + 6) == Some(&id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn as_root_this_machine_answers_and_nobody_does_not() {
        assert!(rustix::process::geteuid().is_root(), "raw sockets need root; scripts/test --quick leaves it out");
        let any = Ipv4Addr::UNSPECIFIED;
        assert!(answers(any, Ipv4Addr::LOCALHOST).await);
        assert!(!answers(any, [240, 0, 0, 1].into()).await, "an address that nobody has (RFC 1112, section 4)");
    }

    #[test]
    fn requests_have_a_sum_that_comes_out() {
        for id in [[0, 0], [0xff, 0xff], [0x12, 0x34], [0xf8, 0x00]] {
            let words: u32 = echo_request(id).chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
            assert_eq!((words & 0xffff) + (words >> 16), 0xffff, "{id:?}");
        }
        assert!(is_reply(&[[0x45].as_slice(), &[0; 19], &[0, 0, 9, 9, 7, 8, 0, 0]].concat(), [7, 8]));
        assert!(!is_reply(&[0x45], [7, 8]));
    }
}
