//! Measures the overlay from inside: throughput, latency, connections, DNS, and how fast a host's kernel follows
//! changes.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use agent::{
    findings::Findings,
    known::Known,
    network::{NetworkKeeper, OwnKey},
    runtime::fake::Fake,
};
use agent_core::network::Residents;
use anyhow::{Context, ensure};
use clap::Parser;
use common::{
    assignment::Assignment,
    directory::{Directory, Endpoint, HostListing, Listing},
    id::{ClusterId, HostId, ServiceId},
    network::{Network, NetworkPlan, Overlay, Subnet},
};
use tokio::sync::watch;

/// The first byte of a connection states its purpose.
const POUR: u8 = b'P';
const ECHO: u8 = b'E';
const ONCE: u8 = b'O';
/// The number of bytes per write.
const CHUNK: usize = 128 << 10;
/// The interval between calls, and the timeout of one call.
const CALL_EVERY: Duration = Duration::from_millis(10);
const CALL_WITHIN: Duration = Duration::from_secs(1);

#[derive(Parser)]
enum Args {
    /// Answers on ports until it is killed.
    Serve { ports: Vec<u16> },
    /// The throughput to a server in gigabits per second.
    Throughput { server: SocketAddr, seconds: f64 },
    /// The median round-trip time of a byte, in microseconds.
    Latency { server: SocketAddr, count: usize },
    /// Connections per second: each is opened, answered and closed.
    Connections { server: SocketAddr, seconds: f64 },
    /// Calls a server for this many seconds; prints the number of failed calls and the longest time without an answer.
    Calls { server: SocketAddr, seconds: f64 },
    /// The duration of one new connection to a server, in microseconds.
    Connect { server: SocketAddr },
    /// The median duration of a DNS query, in microseconds.
    Resolve { name: String, server: IpAddr, count: usize },
    /// How fast a kernel applies this many peers and services with ten instances each, and then one change; needs its
    /// own network namespace (unshare --net).
    Apply { peers: usize, services: usize },
}

fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Serve { ports } => serve(&ports),
        Args::Throughput { server, seconds } => throughput(server, Duration::from_secs_f64(seconds)),
        Args::Latency { server, count } => latency(server, count),
        Args::Connections { server, seconds } => connections(server, Duration::from_secs_f64(seconds)),
        Args::Calls { server, seconds } => calls(server, Duration::from_secs_f64(seconds)),
        Args::Connect { server } => connect_once(server),
        Args::Resolve { name, server, count } => resolve(&name, SocketAddr::new(server, 53), count),
        Args::Apply { peers, services } => tokio::runtime::Runtime::new()?.block_on(apply(peers, services)),
    }
}

fn serve(ports: &[u16]) -> anyhow::Result<()> {
    let listen = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).with_context(|| port.to_string());
    let listeners: Vec<TcpListener> = ports.iter().map(listen).collect::<anyhow::Result<_>>()?;
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || {
                        // The client closes the connection at the end of a measurement.
                        let _ = answer(stream);
                    });
                }
            });
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut what = [0];
    stream.read_exact(&mut what)?;
    match what[0] {
        POUR => {
            let mut buffer = vec![0; CHUNK];
            while stream.read(&mut buffer)? > 0 {}
        }
        ECHO => {
            while stream.read_exact(&mut what).is_ok() {
                stream.write_all(&what)?;
            }
        }
        _ => stream.write_all(&what)?,
    }
    Ok(())
}

fn connect(server: SocketAddr, what: u8) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).with_context(|| server.to_string())?;
    stream.set_nodelay(true)?;
    stream.write_all(&[what])?;
    Ok(stream)
}

fn throughput(server: SocketAddr, time: Duration) -> anyhow::Result<()> {
    let mut stream = connect(server, POUR)?;
    let chunk = vec![0; CHUNK];
    let (began, mut bytes) = (Instant::now(), 0);
    while began.elapsed() < time {
        bytes += stream.write(&chunk)?;
    }
    println!("{:.3}", bytes as f64 * 8.0 / 1e9 / began.elapsed().as_secs_f64());
    Ok(())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn latency(server: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut stream = connect(server, ECHO)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let (began, mut byte) = (Instant::now(), [1]);
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        times.push(began.elapsed());
    }
    println!("{:.1}", median(times));
    Ok(())
}

fn connections(server: SocketAddr, time: Duration) -> anyhow::Result<()> {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        let mut stream = connect(server, ONCE)?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        count += 1;
    }
    println!("{:.0}", f64::from(count) / began.elapsed().as_secs_f64());
    Ok(())
}

fn calls(server: SocketAddr, time: Duration) -> anyhow::Result<()> {
    let (began, mut count, mut failed) = (Instant::now(), 0, 0);
    let (mut answered, mut longest) = (began, Duration::ZERO);
    while began.elapsed() < time {
        let next = Instant::now() + CALL_EVERY;
        count += 1;
        if call(server).is_ok() {
            longest = longest.max(answered.elapsed());
            answered = Instant::now();
        } else {
            failed += 1;
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    longest = longest.max(answered.elapsed());
    println!("{failed} of {count} calls failed, {} ms at most without an answer", longest.as_millis());
    Ok(())
}

fn call(server: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, CALL_WITHIN)?;
    stream.set_read_timeout(Some(CALL_WITHIN))?;
    let mut what = [ONCE];
    stream.write_all(&what)?;
    stream.read_exact(&mut what)
}

fn connect_once(server: SocketAddr) -> anyhow::Result<()> {
    let began = Instant::now();
    TcpStream::connect_timeout(&server, Duration::from_secs(5)).with_context(|| server.to_string())?;
    println!("{}", began.elapsed().as_micros());
    Ok(())
}

fn resolve(name: &str, server: SocketAddr, count: usize) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        // A recursive query for the addresses of a name (RFC 1035, section 4).
        let mut question = u16::try_from(number % 65_536)?.to_be_bytes().to_vec();
        question.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            question.push(u8::try_from(label.len())?);
            question.extend(label.bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        let (began, mut answer) = (Instant::now(), [0; 512]);
        socket.send(&question)?;
        let length = socket.recv(&mut answer)?;
        times.push(began.elapsed());
        ensure!(answer[3] & 0x0f == 0 && length > question.len(), "{name} is not known: {}", answer[3] & 0x0f);
    }
    println!("{:.0}", median(times));
    Ok(())
}

/// The directory of a cluster with hosts in these subnets, and this many services with ten instances each.
fn directory(subnets: impl Iterator<Item = Subnet>, services: usize) -> anyhow::Result<Directory> {
    let mut directory = Directory::default();
    for (number, subnet) in subnets.enumerate() {
        let address = Some([192, 168, u8::try_from(number / 250)?, u8::try_from(number % 250 + 1)?].into());
        let (id, name) = (HostId([1; 10]), format!("h{number}").parse()?);
        directory.put_host(subnet, Some(HostListing { id, name, address, key: None, labels: BTreeMap::new() }));
    }
    let mut addresses = NetworkPlan::default().services.hosts();
    for number in 0..services {
        let service: ServiceId = format!("default/bench/s{number}").parse()?;
        let address = Some(addresses.next().context("there are enough addresses")?);
        directory.put_service(service.clone(), Some(Listing { address, ..Listing::default() }));
        (1..=10).for_each(|slot| put_instance(&mut directory, &service, slot, number));
    }
    Ok(directory)
}

fn put_instance(directory: &mut Directory, service: &ServiceId, slot: u32, number: usize) {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 42, 0, 2)) + slot * 4096 + number as u32);
    directory.put_instance(service.slot(slot).instance(1), Some(Endpoint { address, serves: true }));
}

fn said(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn wait_for(what: &str, is_so: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<Duration> {
    let began = Instant::now();
    while !is_so().unwrap_or(false) {
        ensure!(began.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(began.elapsed())
}

async fn apply(peers: usize, services: usize) -> anyhow::Result<()> {
    ensure!(said("ip", &["-o", "link"])?.lines().count() == 1, "this needs a network of its own: unshare --net");
    said("ip", &["link", "add", "under0", "type", "bridge"])?;
    said("ip", &["address", "add", "192.168.0.1/16", "dev", "under0"])?;
    said("ip", &["link", "set", "under0", "up"])?;
    // The parts that Docker would create.
    said("ip", &["link", "add", "wharf-br0", "type", "bridge"])?;
    let plan = NetworkPlan { containers: "10.32.0.0/11".parse()?, ..NetworkPlan::default() };
    let own = plan.subnets().next().context("there is a subnet")?;
    let mut known = directory(plan.subnets().take(peers + 1), services)?;
    let routes = peers + 1;
    let mut assignment = Assignment::nothing(ClusterId([1; 10]), HostId([1; 10]));
    assignment.generation = 1;
    assignment.network = Network::Overlay(Overlay { plan, own });
    let (_assignments, assignment) = watch::channel(assignment);
    let (_addresses, address) = watch::channel(Some(IpAddr::from([192, 168, 0, 1])));
    let (directories, followed) = watch::channel(known.clone());
    let (_residents, residents) = watch::channel(Some(Residents::new()));
    let heard = Known { assignment, directory: followed, residents };
    let admitted = watch::channel(None).0;
    let folder = tempfile::tempdir()?;
    let key = OwnKey::load_or_make(folder.path())?;
    let keeper = NetworkKeeper::new(Arc::new(Fake::default()), heard, key, address, admitted, Findings::default());
    let began = Instant::now();
    let keeping = tokio::spawn(keeper.run());
    let has_routes = || Ok(said("ip", &["route", "show", "proto", "77"])?.lines().count() == routes);
    wait_for("the peers", has_routes).await?;
    println!("{:.0}", began.elapsed().as_secs_f64() * 1e3);
    // After a change the keeper looks again at once for further changes, and then rests.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let leads = || said("nft", &["list", "chain", "ip", "wharf", "service-10.43.0.1"]);
    ensure!(leads()?.contains("mod 10 "), "{}", leads()?);
    let looks = Instant::now();
    leads()?;
    let look = looks.elapsed();
    put_instance(&mut known, &"default/bench/s0".parse()?, 11, 0);
    directories.send_replace(known);
    let changed = wait_for("the change", || Ok(leads()?.contains("mod 11 "))).await?;
    println!("{:.0}", changed.saturating_sub(look).as_secs_f64() * 1e3);
    keeping.abort();
    Ok(())
}
