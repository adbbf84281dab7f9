//! What the agent says of its host.

use std::{fs, net::IpAddr, time::Duration};

use common::{
    host::HostFacts,
    id::{BootId, ClusterId},
    quantity::{Bytes, MilliCpu},
};
use sha2::{Digest, Sha256};

use crate::runtime::ContainerRuntime;

/// How long Docker may take to say what it is; a host must be heard of even while Docker starts.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Looks at the host.
pub async fn observe(runtime: &impl ContainerRuntime, address: IpAddr) -> HostFacts {
    let answered = tokio::time::timeout(ENGINE_TIMEOUT, runtime.version()).await;
    // A host whose Docker does not answer says so by an empty version.
    let engine = answered.ok().and_then(Result::ok).unwrap_or_else(|| crate::runtime::EngineVersion {
        version: String::new(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
    });
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    HostFacts {
        hostname: hostname(),
        address,
        cpu: MilliCpu(cores * 1000),
        memory: Bytes(memory()),
        os: engine.os,
        arch: engine.arch,
        kernel: read("/proc/sys/kernel/osrelease"),
        docker: engine.version,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        boot: boot_id(),
    }
}

/// The host's own name for itself.
pub fn hostname() -> String {
    read("/proc/sys/kernel/hostname")
}

fn memory() -> u64 {
    let kilobytes = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim_end().to_owned()).unwrap_or_default()
}

/// The kernel's boot, and the start of the first process of this PID namespace: a host that is
/// itself a container gets a new first process without a new kernel.
pub fn boot_id() -> BootId {
    let stat = read("/proc/1/stat");
    // Field 22 counts from behind the program's name, which may contain anything.
    let started =
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap_or_default().to_owned();
    let hash = Sha256::digest(format!("{}/{started}", read("/proc/sys/kernel/random/boot_id")));
    let mut id = [0u8; 10];
    id.copy_from_slice(&hash[..10]);
    BootId(id)
}

/// A hash of the machine's id that means nothing outside the cluster.
pub fn machine_hash(cluster: ClusterId) -> [u8; 16] {
    let hash = Sha256::digest(format!("wharf {cluster} {}", read("/etc/machine-id")));
    let mut machine = [0u8; 16];
    machine.copy_from_slice(&hash[..16]);
    machine
}
