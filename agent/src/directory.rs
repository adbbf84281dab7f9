//! The directory as the coordinators sent it last. It lies on the disk too: names work with every coordinator gone, also
//! across a restart.

use std::{io, path::Path, time::Duration};

use common::{
    codec::Format,
    directory::{Difference, Directory},
    id::ClusterId,
    wire::DirectoryPiece,
};
use link::file;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use tracing::warn;

/// How the directory is sealed.
pub const DIRECTORY_FORMAT: Format = Format { magic: b"WDIR", version: 1, limit: 256 << 20 };
const FILE: &str = "directory";
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

/// Reads the last directory. A damaged one, or that of another cluster, is as good as none: coordinators send it again.
pub fn load(state: &Path, cluster: ClusterId) -> Directory {
    let mut directory = Directory::default();
    let read = file::read(&state.join(FILE)).map_err(|error| error.to_string());
    let opened = read.and_then(|bytes| {
        let open = |bytes: Vec<u8>| DIRECTORY_FORMAT.open::<Contents>(&bytes).map_err(|error| error.to_string());
        bytes.map(open).transpose()
    });
    match opened {
        Ok(Some(contents)) if contents.cluster == cluster => directory.apply(contents.directory),
        Ok(_) => {}
        Err(error) => warn!(%error, "the names that were known cannot be read; they are learnt again"),
    }
    directory
}

/// Writes it whenever it has changed, for as long as it is awaited.
pub async fn keep(state: &Path, cluster: ClusterId, mut directory: watch::Receiver<Directory>) {
    while directory.changed().await.is_ok() {
        let (now, began) = (directory.borrow_and_update().clone(), Instant::now());
        let contents = Contents { cluster, directory: Directory::default().difference(&now) };
        let sealed = DIRECTORY_FORMAT.seal(&contents).map_err(io::Error::other);
        if let Err(error) = sealed.and_then(|bytes| file::replace(&state.join(FILE), &bytes)) {
            warn!(%error, "the directory cannot be stored; after a restart, names need a coordinator");
        }
        tokio::time::sleep(GATHER.max(began.elapsed() * REST)).await;
    }
}

/// Puts together the pieces that a coordinator sends.
pub struct Learner {
    known: watch::Sender<Directory>,
    unfinished: Option<Directory>,
}

impl Learner {
    /// One that publishes the directory there.
    pub fn new(known: watch::Sender<Directory>) -> Learner {
        Learner { known, unfinished: None }
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
            let differs = *known != next;
            *known = next;
            differs
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::directory::Endpoint;

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
        let whole = known.borrow().clone();

        let keeping = keep(folder.path(), cluster, known.clone());
        assert!(tokio::time::timeout(Duration::from_secs(1), keeping).await.is_err(), "it goes on");
        assert_eq!(load(folder.path(), cluster), whole);
        assert_eq!(load(folder.path(), ClusterId([2; 10])), Directory::default(), "another cluster's are not ours");

        learner.hear(piece(true, 9, false));
        assert_eq!(count(), 1, "another coordinator starts over");
    }
}
