//! The record of a host's images, on disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use agent_core::images::ImageRecord;
use common::{
    codec::Format,
    id::{ClusterId, HostId},
};
use link::file;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

/// How the record is sealed.
pub const IMAGES_FORMAT: Format = Format { magic: b"WIMG", version: 1, limit: 64 << 20 };
const FILE: &str = "images";

/// The contents of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The cluster of the host.
    pub cluster: ClusterId,
    /// The host: another one's images are not its own.
    pub host: HostId,
    /// The record.
    pub record: ImageRecord,
}

/// A record on disk.
#[derive(Debug)]
pub(crate) struct StoredRecord {
    path: PathBuf,
    contents: Contents,
    /// Whether the disk has the same contents.
    is_stored: bool,
}

impl StoredRecord {
    /// Reads the record of a state folder. Without one, nothing on the host counts as pulled by wharf, and all of it stays:
    /// so a record that cannot be used is no reason to stop.
    pub(crate) fn load(state: &Path, cluster: ClusterId, host: HostId) -> StoredRecord {
        let path = state.join(FILE);
        let known = read(&path).filter(|contents| contents.cluster == cluster && contents.host == host);
        let contents = known.unwrap_or_else(|| {
            info!("no record of images is known for this host: those that it has now are never removed");
            Contents { cluster, host, record: ImageRecord::default() }
        });
        StoredRecord { path, contents, is_stored: true }
    }

    pub(crate) fn record(&self) -> &ImageRecord {
        &self.contents.record
    }

    /// Changes the record, durably if it differs then. If it cannot be written, the next change tries again, and a restart
    /// before that leaves what wharf did not write down to somebody else.
    pub(crate) async fn change(&mut self, change: impl FnOnce(&mut ImageRecord)) {
        let before = self.contents.record.clone();
        change(&mut self.contents.record);
        if self.is_stored && self.contents.record == before {
            return;
        }
        let written = self.write().await;
        self.is_stored = written.is_ok();
        if let Err(error) = written {
            warn!(%error, path = %self.path.display(), "the record of images cannot be stored");
        }
    }

    async fn write(&self) -> io::Result<()> {
        let (path, bytes) = (self.path.clone(), IMAGES_FORMAT.seal(&self.contents).map_err(io::Error::other)?);
        spawn_blocking(move || file::replace(&path, &bytes)).await.map_err(io::Error::other)?
    }
}

/// The contents of the file, unless there is none. A damaged file is put aside.
fn read(path: &Path) -> Option<Contents> {
    let bytes = file::read(path).unwrap_or_else(|error| {
        error!(%error, path = %path.display(), "the record of images cannot be read");
        None
    })?;
    let opened = IMAGES_FORMAT.open::<Contents>(&bytes);
    if let Err(error) = &opened {
        let aside = path.with_extension("damaged");
        error!(%error, aside = %aside.display(), "the record of images is damaged; it is put aside");
        if let Err(error) = std::fs::rename(path, &aside) {
            warn!(%error, path = %path.display(), "it cannot be put aside, and is overwritten");
        }
    }
    opened.ok()
}

#[cfg(test)]
mod tests {
    use agent_core::images::{ImageId, ReadyImage, Reference, ServicePart};
    use common::{id::InstanceId, time::Timestamp};

    use super::*;

    fn load(folder: &Path, host: u8) -> StoredRecord {
        StoredRecord::load(folder, ClusterId([1; 10]), HostId([host; 10]))
    }

    fn note(record: &mut ImageRecord) {
        let instance: InstanceId = "default/shop/web/1.1".parse().expect("an id");
        let web = Reference::of("web:1");
        let ready = ReadyImage::pulled(&web, ImageId("a".into()), [web.clone()].into(), &[]);
        record.note(ServicePart::from(&instance.main()), ready, Timestamp(7));
    }

    #[tokio::test]
    async fn what_is_written_is_read_by_the_same_host_and_damage_is_put_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(*load(folder.path(), 1).record(), ImageRecord::default());
        load(folder.path(), 1).change(note).await;
        assert!(load(folder.path(), 1).record().pulled(&ImageId("a".into())).is_some());
        assert_eq!(*load(folder.path(), 2).record(), ImageRecord::default(), "another host pulled nothing");
        let path = folder.path().join(FILE);
        let mut bytes = std::fs::read(&path).expect("reads");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("writes");
        assert_eq!(*load(folder.path(), 1).record(), ImageRecord::default());
        assert!(path.with_extension("damaged").exists() && !path.exists());
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_with_the_next_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let in_the_way = folder.path().join(FILE).with_extension("tmp");
        std::fs::create_dir(&in_the_way).expect("a folder");
        let mut stored = load(folder.path(), 1);
        stored.change(note).await;
        assert_eq!(*load(folder.path(), 1).record(), ImageRecord::default());
        std::fs::remove_dir(&in_the_way).expect("removes");
        stored.change(|_| {}).await;
        assert_eq!(load(folder.path(), 1).record(), stored.record());
    }
}
