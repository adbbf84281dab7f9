//! The directory as the coordinators sent it last. It lies on the disk too: names work with every coordinator gone, also
//! across a restart.

use std::{io, path::Path, time::Duration};

use common::{
    codec::Format,
    directory::{AllOpenPorts, Difference, Directory, OpenPorts},
    id::{ClusterId, InstanceId},
    wire::{DirectoryPiece, OpenPortsPiece},
};
use link::file;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{sync::watch, time::Instant};
use tracing::warn;

/// How the directory is sealed.
pub const DIRECTORY_FORMAT: Format = Format { magic: b"WDIR", version: 1, limit: 256 << 20 };
const FILE: &str = "directory";
/// How the open ports are sealed, which have a file of their own: earlier versions read that of the directory.
pub const OPEN_PORTS_FORMAT: Format = Format { magic: b"WPRT", version: 1, limit: 256 << 20 };
const OPEN_PORTS_FILE: &str = "open-ports";
/// How long changes are gathered at least before they are written: the next session sends again what is lost.
const GATHER: Duration = Duration::from_millis(250);
/// How much longer it rests than it writes: a large directory is written less often.
const REST: u32 = 20;

/// The contents of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Whose it is.
    pub cluster: ClusterId,
    /// The difference that leads to it from an empty directory.
    pub directory: Difference,
}

/// The contents of the file of open ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPortsContents {
    /// Whose they are.
    pub cluster: ClusterId,
    /// All of them.
    pub ports: Vec<(InstanceId, OpenPorts)>,
}

/// Reads the last directory. A damaged one, or that of another cluster, is as good as none: coordinators send it again.
pub fn load(state: &Path, cluster: ClusterId) -> Directory {
    let mut directory = Directory::default();
    let contents = read::<Contents>(&state.join(FILE), DIRECTORY_FORMAT);
    if let Some(contents) = contents.filter(|contents| contents.cluster == cluster) {
        directory.apply(contents.directory);
    }
    let open = read::<OpenPortsContents>(&state.join(OPEN_PORTS_FILE), OPEN_PORTS_FORMAT);
    let open = open.filter(|contents| contents.cluster == cluster);
    directory.put_open_ports(open.map(|contents| contents.ports.into_iter().collect()));
    directory
}

fn read<T: DeserializeOwned>(path: &Path, format: Format) -> Option<T> {
    let read = file::read(path).map_err(|error| error.to_string());
    let opened = read.and_then(|bytes| {
        let open = |bytes: Vec<u8>| format.open::<T>(&bytes).map_err(|error| error.to_string());
        bytes.map(open).transpose()
    });
    opened.unwrap_or_else(|error| {
        warn!(%error, path = %path.display(), "what was known of the cluster cannot be read; it is learnt again");
        None
    })
}

/// Writes it whenever it has changed, for as long as it is awaited.
pub async fn keep(state: &Path, cluster: ClusterId, mut directory: watch::Receiver<Directory>) {
    let mut ports = None;
    while directory.changed().await.is_ok() {
        let (now, began) = (directory.borrow_and_update().clone(), Instant::now());
        let contents = Contents { cluster, directory: Directory::default().difference(&now) };
        write(&state.join(FILE), DIRECTORY_FORMAT.seal(&contents).map_err(io::Error::other));
        if let Some(open) = now.open_ports().filter(|open| ports.as_ref() != Some(*open)) {
            let all = open.iter().map(|(id, open)| (id.clone(), open.clone())).collect();
            let contents = OpenPortsContents { cluster, ports: all };
            write(&state.join(OPEN_PORTS_FILE), OPEN_PORTS_FORMAT.seal(&contents).map_err(io::Error::other));
            ports = Some(open.clone());
        }
        tokio::time::sleep(GATHER.max(began.elapsed() * REST)).await;
    }
}

fn write(path: &Path, sealed: io::Result<Vec<u8>>) {
    if let Err(error) = sealed.and_then(|bytes| file::replace(path, &bytes)) {
        warn!(%error, path = %path.display(), "it cannot be stored; after a restart, names need a coordinator");
    }
}

/// Puts together the pieces that a coordinator sends.
pub struct Learner {
    known: watch::Sender<Directory>,
    unfinished: Option<Directory>,
    unfinished_ports: Option<AllOpenPorts>,
}

impl Learner {
    /// One that publishes the directory there.
    pub fn new(known: watch::Sender<Directory>) -> Learner {
        Learner { known, unfinished: None, unfinished_ports: None }
    }

    /// How many hosts the directory names.
    pub fn hosts(&self) -> usize {
        self.known.borrow().hosts().count()
    }

    /// Takes a piece, and publishes the directory once it is whole.
    pub fn hear(&mut self, piece: DirectoryPiece) {
        let unfinished = self.unfinished.take();
        let mut next = match (piece.anew, unfinished) {
            (true, _) => Directory::default(),
            (false, Some(unfinished)) => unfinished,
            (false, None) => self.known.borrow().clone(),
        };
        next.apply(piece.difference);
        if piece.more {
            self.unfinished = Some(next);
            return;
        }
        self.known.send_if_modified(|known| {
            // They come by themselves.
            next.put_open_ports(known.open_ports().cloned());
            let differs = *known != next;
            *known = next;
            differs
        });
    }

    /// Takes a piece of the open ports, and publishes them once they are whole.
    pub fn hear_open_ports(&mut self, piece: OpenPortsPiece) {
        let unfinished = self.unfinished_ports.take();
        let mut next = match piece.anew {
            true => AllOpenPorts::new(),
            false => unfinished.or_else(|| self.known.borrow().open_ports().cloned()).unwrap_or_default(),
        };
        for (id, ports) in piece.difference {
            match ports {
                Some(ports) => next.insert(id, ports),
                None => next.remove(&id),
            };
        }
        if piece.more {
            self.unfinished_ports = Some(next);
            return;
        }
        self.known.send_if_modified(|known| {
            let differs = known.open_ports() != Some(&next);
            known.put_open_ports(Some(next));
            differs
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::{directory::Endpoint, network::Subnet, spec::Protocol};

    fn piece(anew: bool, last: u8, more: bool) -> DirectoryPiece {
        let id = format!("default/shop/web/{last}.1").parse().expect("an id");
        let endpoint = Endpoint { address: [10, 42, 0, last].into(), serves: true };
        DirectoryPiece {
            anew,
            difference: Difference { instances: vec![(id, Some(endpoint))], ..Difference::default() },
            more,
        }
    }

    #[tokio::test]
    async fn it_is_known_once_it_is_whole_and_also_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = ClusterId([1; 10]);
        let (sender, known) = watch::channel(load(folder.path(), cluster));
        let mut learner = Learner::new(sender);
        let count = || known.borrow().instances().count();
        learner.hear(piece(true, 2, true));
        assert_eq!(count(), 0, "half of it would be wrong");
        learner.hear(piece(false, 3, false));
        assert_eq!(count(), 2);
        learner.hear(piece(false, 4, false));
        assert_eq!(count(), 3);
        let open = |last: u8| {
            let id = format!("default/shop/web/{last}.1").parse().expect("an id");
            (id, Some(OpenPorts { host: Subnet::of([10, 42, 0, 0].into()), ports: vec![(None, Protocol::Tcp, 80)] }))
        };
        let ports = |anew, last, more| OpenPortsPiece { anew, difference: vec![open(last)], more };
        let open_ports = || known.borrow().open_ports().map(AllOpenPorts::len);
        learner.hear_open_ports(ports(true, 2, true));
        assert_eq!(open_ports(), None, "half of them would close the others");
        learner.hear_open_ports(ports(false, 3, false));
        learner.hear(piece(false, 4, false));
        assert_eq!(open_ports(), Some(2));
        let whole = known.borrow().clone();

        let keeping = keep(folder.path(), cluster, known.clone());
        assert!(tokio::time::timeout(Duration::from_secs(1), keeping).await.is_err(), "it goes on");
        assert_eq!(load(folder.path(), cluster), whole);
        assert_eq!(load(folder.path(), ClusterId([2; 10])), Directory::default(), "another cluster's are not ours");

        learner.hear(piece(true, 9, false));
        assert_eq!(count(), 1, "another coordinator starts over");
    }
}
