//! The facts of a host, as its agent observes them.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{
    device::{Devices, GPU},
    host::HostFacts,
    id::{BootId, ClusterId},
    network::WireguardKey,
    quantity::{Bytes, MilliCpu},
};
use sha2::{Digest, Sha256};

use crate::runtime::{ContainerRuntime, EngineFacts};

/// How long Docker may take for its own facts: the host's must reach the cluster even while Docker starts.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Looks at the host, which others reach at an address, and know by a key if it can encrypt.
pub async fn observe(
    runtime: &(impl ContainerRuntime + ?Sized),
    address: IpAddr,
    wireguard: Option<WireguardKey>,
) -> HostFacts {
    let answered = tokio::time::timeout(ENGINE_TIMEOUT, runtime.facts()).await;
    // An empty version means that the host's Docker does not answer.
    let engine = answered.ok().and_then(Result::ok).unwrap_or_else(|| EngineFacts {
        version: String::new(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        devices: Devices::default(),
    });
    let mut devices = engine.devices;
    let gpus = nvidia_gpus(Path::new("/proc/driver/nvidia/gpus"));
    if !gpus.is_empty() {
        devices.insert(GPU.to_owned(), gpus);
    }
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
        devices,
        wireguard,
    }
}

/// The ids of NVIDIA's GPUs in the order of their places on the bus, which is that of `nvidia-smi`. Their driver
/// has a file for each: <https://download.nvidia.com/XFree86/Linux-x86_64/580.65.06/README/procinterface.html>.
fn nvidia_gpus(folder: &Path) -> Vec<String> {
    // Without the driver there is no folder, and there are no GPUs that a container could use.
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut places: Vec<PathBuf> = entries.flatten().map(|entry| entry.path().join("information")).collect();
    places.sort();
    let id = |text: &str| text.lines().find_map(|line| Some(line.strip_prefix("GPU UUID:")?.trim().to_owned()));
    // One that has lost its bus says question marks.
    let is_sound = |id: &String| id.starts_with("GPU-") && !id.contains('?');
    places.iter().filter_map(|place| id(&fs::read_to_string(place).ok()?)).filter(is_sound).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_those_that_the_driver_shows_in_the_order_of_the_bus() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(nvidia_gpus(&folder.path().join("none")), Vec::<String>::new());
        let places = [
            ("0000:65:00.0", "GPU-2222-b"),
            ("0000:17:00.0", "GPU-1111-a"),
            ("0000:ca:00.0", "GPU-????????-????-????-????-????????????"),
        ];
        for (bus, id) in places {
            let place = folder.path().join(bus);
            fs::create_dir(&place).expect("a folder");
            let text = format!("Model: \t\t NVIDIA H100\nIRQ:   \t\t 180\nGPU UUID: \t {id}\nBus Location: \t {bus}\n");
            fs::write(place.join("information"), text).expect("a file");
        }
        assert_eq!(nvidia_gpus(folder.path()), ["GPU-1111-a", "GPU-2222-b"]);
    }
}
