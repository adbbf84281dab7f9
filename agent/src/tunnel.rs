//! WireGuard in a process of its own, for kernels without it. The process holds the overlay's link and is configured by
//! `wg` like the kernel. It outlives the agent, so that no packet notices when that restarts, and ends with the link.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::Stdio,
    time::Duration,
};

use gotatun::device::{self, uapi::UapiServer};
use link::file;
use rustix::{
    fs::FlockOperation,
    io::Errno,
    net::{AddressFamily, SocketType, netdevice},
};
use tokio::{io::AsyncReadExt, process::Command};

/// The name of the process.
const PROGRAM: &str = "wharf-tunnel";
/// Where `wg` looks for the sockets of such processes.
const SOCKETS: &str = "/var/run/wireguard";
/// The line that it prints once `wg` can configure it.
const READY: &str = "ready";
/// How long it may take until then.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// How often it looks whether its link is still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Whether this process was started as one.
pub fn is_asked_for() -> bool {
    std::env::args_os().next().is_some_and(|program| program == PROGRAM)
}

/// Starts one that makes a link of that name, and waits until `wg` can configure it.
pub(crate) async fn start(link: &str) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("WireGuard's own process: {why}");
    let mut command = std::process::Command::new("/proc/self/exe");
    // It outlives the reader of this process's output.
    command.arg0(PROGRAM).arg(link).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).current_dir("/");
    let mut child = Command::from(command).spawn().map_err(|error| failed(&error))?;
    let mut said = child.stdout.take().ok_or_else(|| failed(&"it has no output"))?;
    let mut text = String::new();
    match tokio::time::timeout(READY_WITHIN, said.read_to_string(&mut text)).await {
        Err(_) => {
            let ended = child.kill().await;
            Err(failed(&format!("it was not ready within {READY_WITHIN:?} ({ended:?})")))
        }
        Ok(Err(error)) => Err(failed(&error)),
        Ok(Ok(_)) if text.trim() == READY => Ok(()),
        Ok(Ok(_)) => Err(failed(&text.trim())),
    }
}

/// Holds the link until it is removed; the result is the exit code.
pub fn run() -> u8 {
    let link = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let held = runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(hold(&link)));
    match held {
        Ok(()) => 0,
        Err(why) => {
            println!("{why}");
            1
        }
    }
}

async fn hold(link: &str) -> Result<(), String> {
    // The end of the agent's terminal or session does not end this.
    rustix::process::setsid().map_err(|error| format!("setsid: {error}"))?;
    rustix::thread::set_name(c"wharf-tunnel").map_err(|error| format!("its name: {error}"))?;
    let _alone = alone(link).map_err(|error| format!("the previous process does not end: {error}"))?;
    let builder = device::build().with_default_udp().create_tun(link).map_err(|error| error.to_string())?;
    let configured_by = UapiServer::default_unix_socket(link, None, None).map_err(|error| error.to_string())?;
    let mut device = builder.with_uapi(configured_by).build().await.map_err(|error| error.to_string())?;
    let link = Link::of(link).map_err(|error| format!("{link} cannot be found: {error}"))?;
    println!("{READY}");
    close_output().map_err(|error| format!("its output: {error}"))?;
    tokio::select! {
        () = device.wait() => Ok(()),
        () = link.is_gone() => Ok(()),
    }
}

/// A link by its number: its name may be another one's later.
struct Link {
    socket: OwnedFd,
    index: u32,
}

impl Link {
    fn of(name: &str) -> io::Result<Link> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let index = netdevice::name_to_index(&socket, name)?;
        Ok(Link { socket, index })
    }

    /// Waits until it is. The kernel wakes no reader then, and only a writer gets an error.
    async fn is_gone(&self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while netdevice::index_to_name(&self.socket, self.index) != Err(Errno::NODEV) {
            looks.tick().await;
        }
    }
}

/// Waits until no other process holds the link: one whose link is gone ends a moment later, and has the port until then.
fn alone(link: &str) -> io::Result<File> {
    fs::create_dir_all(SOCKETS)?;
    let lock = File::create(format!("{SOCKETS}/{link}.lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// Removes the files of such processes; they themselves end with their links.
pub(crate) fn forget(link: &str) -> Result<(), String> {
    for kind in ["sock", "lock"] {
        let path = format!("{SOCKETS}/{link}.{kind}");
        file::if_there(fs::remove_file(&path)).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

/// Closes the output of this process.
fn close_output() -> io::Result<()> {
    let nothing = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(nothing)?;
    Ok(())
}
