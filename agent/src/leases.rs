//! The leases of strict singletons on this host. Each lies in a file in memory that the container sees: the
//! guard in it ends the program at the hard end, whether this agent lives or not (`guard.rs`).

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use agent_core::Lease;
use common::{id::InstanceId, time::Timestamp, wire::Extension};
use link::clock::{BootTime, now};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::files::Places;

/// The name of a lease's file in its folder.
pub const FILE: &str = "lease";

/// When a lease ends, softly and for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// When the agent asks the program to end.
    pub soft: BootTime,
    /// When the guard kills it.
    pub hard: BootTime,
}

impl Ends {
    /// A lease that no coordinator has given yet.
    const NEVER_BEGUN: Ends = Ends { soft: BootTime(0), hard: BootTime(0) };

    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.soft.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.hard.0.to_le_bytes());
        bytes
    }

    /// Reads a lease, and reads it again while it is being written.
    pub fn read(path: &Path) -> io::Result<Ends> {
        let file = File::open(path)?;
        let read = || {
            let mut bytes = [0; 16];
            file.read_exact_at(&mut bytes, 0).map(|()| bytes)
        };
        let mut bytes = read()?;
        loop {
            let again = read()?;
            if again == bytes {
                break;
            }
            bytes = again;
        }
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("it has eight bytes"));
        Ok(Ends { soft: BootTime(number(0)), hard: BootTime(number(8)) })
    }
}

/// All leases of this host.
pub struct Leases {
    places: Places,
    held: Mutex<BTreeMap<InstanceId, Ends>>,
    /// Wakes the reconciler when something may start.
    wake: Arc<Notify>,
}

impl Leases {
    /// No leases yet: those of containers that run are found with [`Leases::adopt`].
    pub fn new(places: Places, wake: Arc<Notify>) -> Leases {
        Leases { places, held: Mutex::default(), wake }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Ends>> {
        self.held.lock().expect("no panic while it is held")
    }

    fn file(&self, instance: &InstanceId) -> PathBuf {
        self.places.lease(instance).join(FILE)
    }

    /// Takes up leases that were given before this agent started.
    pub fn adopt<'a>(&self, instances: impl Iterator<Item = &'a InstanceId>) {
        for instance in instances {
            if let Ok(ends) = Ends::read(&self.file(instance)) {
                self.held().entry(instance.clone()).or_insert(ends);
            }
        }
    }

    /// Makes the guard and the file of an instance, which its container sees, unless they are there.
    pub fn ensure(&self, instance: &InstanceId) -> io::Result<()> {
        self.places.ensure_binary()?;
        let file = self.file(instance);
        if file.exists() {
            return Ok(());
        }
        self.places.ensure_in_memory()?;
        let folder = self.places.lease(instance);
        fs::create_dir_all(&folder)?;
        let ends = self.held().get(instance).copied().unwrap_or(Ends::NEVER_BEGUN);
        write(&file, ends)?;
        // The guard reads it as whatever user its container has; on the host only root comes as far as this.
        fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
        fs::set_permissions(&file, Permissions::from_mode(0o644))
    }

    /// Extends leases by a coordinator's answer to the beat that was sent at that time.
    pub fn extend(&self, sent: BootTime, extension: &Extension) {
        for instance in &extension.instances {
            let ends = Ends { soft: sent.plus(extension.times.soft), hard: sent.plus(extension.times.hard) };
            let before = self.held().get(instance).copied().unwrap_or(Ends::NEVER_BEGUN);
            if ends.hard <= before.hard || ends.hard <= BootTime::now() {
                continue;
            }
            let file = self.file(instance);
            // Before there is a container there is no guard that reads it.
            if file.exists()
                && let Err(error) = write(&file, ends)
            {
                warn!(%instance, %error, "its lease cannot be stored; it ends when the previous one expires");
                continue;
            }
            self.held().insert(instance.clone(), ends);
            if before.soft <= BootTime::now() {
                info!(%instance, "lease stored");
                self.wake.notify_one();
            }
        }
    }

    /// The leases by this host's other clock, as it is now.
    pub fn by_wall_clock(&self) -> BTreeMap<InstanceId, Lease> {
        let (boot, wall) = (BootTime::now(), now());
        let at = |end: BootTime| Timestamp((wall.0 + end.0).saturating_sub(boot.0));
        let lease = |(id, ends): (&InstanceId, &Ends)| (id.clone(), Lease { soft: at(ends.soft), hard: at(ends.hard) });
        self.held().iter().map(lease).collect()
    }

    /// Forgets an instance whose container is gone.
    pub fn forget(&self, instance: &InstanceId) {
        self.held().remove(instance);
    }
}

fn write(path: &Path, ends: Ends) -> io::Result<()> {
    // In place: the container sees this very file.
    OpenOptions::new().write(true).create(true).truncate(false).open(path)?.write_all_at(&ends.bytes(), 0)
}
