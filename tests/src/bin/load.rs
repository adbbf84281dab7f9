//! Load, and checks of its result: acknowledged writes must be remembered; writes at full speed; and the speed of the
//! disk.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, Write},
    net::{SocketAddr, UdpSocket},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use clap::{Parser, Subcommand, ValueEnum};
use cli::context::Contexts;
use common::api::{InstanceView, List};
use hyper::{Method, StatusCode};
use tests::http::{Client, Endpoint};
use tokio::task::JoinSet;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Writes one key after the other until its input ends. Prints a line with time and key for each acknowledgement.
    Write {
        /// The prefix of the keys.
        prefix: String,
        /// The duration in seconds.
        #[arg(long, default_value_t = 3600)]
        seconds: u64,
    },
    /// Returns every datagram that arrives on a port, until it is killed.
    Hear { port: u16 },
    /// Serves a folder as a registry of images on a port of this host, until it is killed.
    Registry { port: u16, folder: PathBuf },
    /// Sends a datagram to all servers every 0.1 s, always from the same port. Prints how many got no answer, and the
    /// longest time without one. A file always holds the numbers of datagrams sent and returned.
    Datagrams {
        seconds: f64,
        #[arg(long, value_delimiter = ',')]
        to: Vec<SocketAddr>,
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Reads lines from `write` and checks that every key exists.
    Verify,
    /// Writes from many clients and prints rate and latency as JSON.
    Bench {
        #[arg(long)]
        target: Target,
        #[arg(long, default_value_t = 64)]
        clients: usize,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// The servers of a target without a context.
        #[arg(long, value_delimiter = ',')]
        servers: Vec<SocketAddr>,
    },
    /// Calls every healthy instance of a service until its input ends. Prints the number of calls, and a line for each
    /// failed one.
    Call {
        /// The service, `stack/service`.
        service: String,
    },
    /// Appends 1 KiB and syncs, repeatedly, and prints the rate as JSON.
    Disk {
        directory: PathBuf,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    /// The keys of a wharf cluster by HTTPS; the cluster is that of the default context.
    Wharf,
    /// etcd's JSON gateway for the version 3 API.
    EtcdGateway,
    /// etcd's version 2 API.
    EtcdV2,
}

fn wharf() -> anyhow::Result<Endpoint> {
    let (_, context) = Contexts::load().and_then(|contexts| contexts.choose(None)).map_err(anyhow::Error::msg)?;
    Endpoint::wharf(&context)
}

fn path_of(key: &str) -> String {
    format!("/api/v1/environments/default/keys/{key}")
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match Args::parse().command {
        Load::Write { prefix, seconds } => runtime.block_on(write(&prefix, Duration::from_secs(seconds))),
        Load::Call { service } => runtime.block_on(call(&service)),
        Load::Hear { port } => hear(port),
        Load::Registry { port, folder } => tests::registry::serve(port, &folder),
        Load::Datagrams { seconds, to, file } => datagrams(&to, seconds, file.as_deref()),
        Load::Verify => runtime.block_on(verify()),
        Load::Bench { target, clients, seconds, servers } => {
            runtime.block_on(bench(target, clients, Duration::from_secs(seconds), servers))
        }
        Load::Disk { directory, seconds } => disk(directory, Duration::from_secs(seconds)),
    }
}

/// The interval between datagrams.
const DATAGRAM_EVERY: Duration = Duration::from_millis(100);

fn hear(port: u16) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], from)?;
    }
}

fn datagrams(servers: &[SocketAddr], seconds: f64, file: Option<&Path>) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let began = Instant::now();
    let (mut sent, mut answered) = (0_u64, BTreeSet::new());
    let (mut heard, mut longest) = (began, Duration::ZERO);
    while began.elapsed().as_secs_f64() < seconds {
        let next = Instant::now() + DATAGRAM_EVERY;
        for server in servers {
            // Servers that are away for a while are the point of this test.
            let _ = socket.send_to(&sent.to_be_bytes(), server);
        }
        sent += 1;
        while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            let mut number = [0; 8];
            let is_one = socket.recv(&mut number).is_ok_and(|length| length == number.len());
            if is_one && answered.insert(u64::from_be_bytes(number)) {
                longest = longest.max(heard.elapsed());
                heard = Instant::now();
            }
        }
        if let Some(file) = file {
            let new = file.with_extension("new");
            fs::write(&new, format!("{sent} {}", answered.len()))?;
            fs::rename(&new, file)?;
        }
    }
    longest = longest.max(heard.elapsed());
    println!("{} of {sent} lost, {} ms at most without one", sent - answered.len() as u64, longest.as_millis());
    Ok(())
}

/// The timeout of one coordinator, before the next one is tried.
const PATIENCE: Duration = Duration::from_millis(1500);

async fn write(prefix: &str, length: Duration) -> anyhow::Result<()> {
    let endpoint = wharf()?;
    let end = Instant::now() + length;
    let is_over = until_input_ends();
    let mut server = 0;
    let mut connection = None;
    let mut number = 0_u64;
    while Instant::now() < end && !is_over.load(Ordering::Relaxed) {
        let key = format!("{prefix}-{number}");
        loop {
            let sent = async {
                let client = match &mut connection {
                    Some(client) => client,
                    None => connection.insert(tokio::time::timeout(PATIENCE, endpoint.connect(server)).await??),
                };
                client.send(Method::PUT, &path_of(&key), Bytes::from(key.clone()), Some(&key), PATIENCE).await
            };
            match sent.await {
                Ok((StatusCode::NO_CONTENT, _)) => break,
                // After any error, try the next coordinator with the same idempotency key.
                _ => {
                    connection = None;
                    server += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            ensure!(Instant::now() < end + Duration::from_secs(30), "nothing is acknowledged any more");
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let mut stdout = std::io::stdout();
        // The line is written before the next write begins, so that the reader knows all acknowledged writes.
        writeln!(stdout, "{at} {key}")?;
        stdout.flush()?;
        number += 1;
    }
    Ok(())
}

/// The program ends with its input, because its parent may not be able to kill it across namespaces.
fn until_input_ends() -> Arc<AtomicBool> {
    let is_over = Arc::new(AtomicBool::new(false));
    let told = is_over.clone();
    std::thread::spawn(move || {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        told.store(true, Ordering::Relaxed);
    });
    is_over
}

/// The interval at which a caller looks up the instances.
const LOOK: Duration = Duration::from_millis(200);

async fn call(service: &str) -> anyhow::Result<()> {
    let endpoint = wharf()?;
    let (stack, service) = service.split_once('/').context("a service is stack/service")?;
    // Any coordinator may answer, with or without a leader, as a resolver would use it.
    let path = format!("/api/v1/environments/default/instances?stack={stack}&service={service}&stale");
    let is_over = until_input_ends();
    let (mut calls, mut server) = (0_u64, 0);
    while !is_over.load(Ordering::Relaxed) {
        let listed = async {
            let mut client = tokio::time::timeout(PATIENCE, endpoint.connect(server)).await??;
            client.send(Method::GET, &path, Bytes::new(), None, PATIENCE).await
        };
        let Ok((StatusCode::OK, body)) = listed.await else {
            server += 1;
            continue;
        };
        let list: List<InstanceView> = serde_json::from_slice(&body)?;
        let addresses: Vec<SocketAddr> = list
            .items
            .iter()
            .filter(|instance| instance.state == "healthy")
            .filter_map(|instance| Some((instance.address?, instance.ports.first()?.host).into()))
            .collect();
        let looked = Instant::now();
        while looked.elapsed() < LOOK {
            for address in &addresses {
                calls += 1;
                let called = async {
                    let mut client = Endpoint::plain(vec![*address]).connect(0).await?;
                    client.send(Method::GET, "/", Bytes::new(), None, PATIENCE).await
                };
                match tokio::time::timeout(PATIENCE, called).await {
                    Ok(Ok((StatusCode::OK, _))) => {}
                    failed => println!("{address}: {failed:?}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    println!("{calls}");
    Ok(())
}

/// Connects to the first server that answers; others may still be starting.
async fn connect_to_any(endpoint: &Endpoint) -> anyhow::Result<Client> {
    let mut last = None;
    for server in 0..endpoint.servers.len() {
        match endpoint.connect(server).await {
            Ok(client) => return Ok(client),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| anyhow!("there is no server")))
}

async fn verify() -> anyhow::Result<()> {
    let mut client = connect_to_any(&wharf()?).await?;
    let mut count = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (_, key) = line.split_once(' ').context("a line of `write` has a time and a key")?;
        let (status, body) =
            client.send(Method::GET, &path_of(key), Bytes::new(), None, Duration::from_secs(10)).await?;
        ensure!(status == StatusCode::OK, "{key} was acknowledged and is lost: {status}");
        let value: serde_json::Value = serde_json::from_slice(&body)?;
        ensure!(value["value"] == key, "{key} has another value: {value}");
        count += 1;
    }
    println!("{count}");
    Ok(())
}

async fn bench(target: Target, clients: usize, length: Duration, servers: Vec<SocketAddr>) -> anyhow::Result<()> {
    let endpoint = match target {
        Target::Wharf => wharf()?,
        Target::EtcdGateway | Target::EtcdV2 => Endpoint::plain(servers),
    };
    let mut connections = Vec::new();
    for number in 0..clients {
        connections.push(endpoint.connect(number).await?);
    }
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for (number, mut client) in connections.into_iter().enumerate() {
        tasks.spawn(async move {
            let (mut latencies, mut errors) = (Vec::new(), 0_u64);
            let mut count = 0_u64;
            let value = "v".repeat(200);
            while began.elapsed() < length {
                let key = format!("bench-{number}-{}", count % 500);
                let (method, path, body) = request(target, &key, &value);
                let sent = Instant::now();
                match client.send(method, &path, body, None, Duration::from_secs(10)).await {
                    Ok((status, _)) if status.is_success() => latencies.push(sent.elapsed()),
                    Ok(_) => errors += 1,
                    // The connection is closed.
                    Err(_) => return (latencies, errors + 1),
                }
                count += 1;
            }
            (latencies, errors)
        });
    }
    let (mut latencies, mut errors) = (Vec::new(), 0);
    for (of_client, failed) in tasks.join_all().await {
        latencies.extend(of_client);
        errors += failed;
    }
    ensure!(!latencies.is_empty(), "no write was acknowledged; {errors} failed");
    let per_second = latencies.len() as f64 / began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let quantile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "{}",
        serde_json::json!({
            "clients": clients, "per_second": per_second.round(), "p50_ms": quantile(50), "p99_ms": quantile(99),
            "errors": errors,
        })
    );
    Ok(())
}

fn request(target: Target, key: &str, value: &str) -> (Method, String, Bytes) {
    // The gateway wants key and value in base64. Both are chosen so that they are valid base64 as they are.
    match target {
        Target::Wharf => (Method::PUT, path_of(key), Bytes::from(value.to_owned())),
        Target::EtcdGateway => {
            let key: String = format!("{key:x<16}").replace('-', "x").chars().take(16).collect();
            (Method::POST, "/v3/kv/put".to_owned(), Bytes::from(format!(r#"{{"key":"{key}","value":"{value}"}}"#)))
        }
        Target::EtcdV2 => (Method::PUT, format!("/v2/keys/{key}?value={value}"), Bytes::new()),
    }
}

fn disk(directory: PathBuf, length: Duration) -> anyhow::Result<()> {
    let path = directory.join("wharf-disk-speed");
    let file = File::create(&path)?;
    let record = [7_u8; 1024];
    let mut latencies = Vec::new();
    let began = Instant::now();
    while began.elapsed() < length {
        let each = Instant::now();
        file.write_all_at(&record, latencies.len() as u64 * 1024)?;
        file.sync_data()?;
        latencies.push(each.elapsed());
    }
    std::fs::remove_file(path)?;
    let per_second = latencies.len() as f64 / began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let quantile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "{}",
        serde_json::json!({ "per_second": per_second.round(), "p50_ms": quantile(50), "p99_ms": quantile(99) })
    );
    Ok(())
}
