//! Room on the disk of the store. While there is enough of it, a member keeps a reserve: a file that takes space and holds
//! nothing. When the disk is nearly full the member gives the reserve free, so that what must be written to take part
//! (votes, entries that are under way, snapshots) finds room, and refuses changes until there is room again. Reads go on.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tracing::{error, info, warn};

use super::Consensus;

/// The reserve's file in the state folder.
const FILE: &str = "reserve";
/// The bytes of the reserve.
const RESERVE: u64 = 64 << 20;
/// With less room than this, in bytes, a member refuses changes.
const LOW: u64 = 64 << 20;
/// With so much room, in bytes, there is enough for the reserve, and changes are accepted: more than [`LOW`] after the
/// reserve was taken, so that a member does not change its mind all the time.
const ENOUGH: u64 = LOW + RESERVE + (32 << 20);
/// How often a member looks at its disk.
const LOOK: Duration = Duration::from_secs(1);
/// How many looks later a leader that is short of room asks the others again whether one of them leads instead.
const ASK_EVERY: u32 = 10;

/// The room that a member has.
pub struct Space {
    folder: PathBuf,
    is_short: AtomicBool,
}

impl Space {
    /// That of the disk of a state folder.
    pub fn of(folder: &Path) -> Space {
        Space { folder: folder.to_owned(), is_short: AtomicBool::new(false) }
    }

    /// Whether there is too little for changes.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Acquire)
    }

    /// Looks at the disk, and does what follows from it; says whether that changed.
    fn look(&self) -> io::Result<bool> {
        let reserve = self.folder.join(FILE);
        let (free, was_short) = (free(&self.folder)?, self.is_short());
        match next(was_short, reserve.try_exists()?, free) {
            Step::GiveFree => {
                give_free(&self.folder)?;
                self.is_short.store(true, Ordering::Release);
            }
            Step::Keep => {
                make(&reserve)?;
                self.is_short.store(false, Ordering::Release);
            }
            Step::Nothing => {}
        }
        Ok(self.is_short() != was_short)
    }
}

/// What follows from the room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The reserve is given free, and changes are refused.
    GiveFree,
    /// The reserve is made, and changes are accepted.
    Keep,
    Nothing,
}

fn next(is_short: bool, has_reserve: bool, free: u64) -> Step {
    match free {
        _ if free < LOW && (!is_short || has_reserve) => Step::GiveFree,
        _ if free >= ENOUGH && (is_short || !has_reserve) => Step::Keep,
        _ => Step::Nothing,
    }
}

/// The bytes that this process can still write to the disk of a folder.
fn free(folder: &Path) -> io::Result<u64> {
    let disk = statvfs(folder)?;
    // A part of many file systems is for root alone, as which coordinators run.
    let blocks = if rustix::process::geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
    Ok(blocks.saturating_mul(disk.f_frsize))
}

fn make(reserve: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(reserve)?;
    match fallocate(&file, FallocateFlags::empty(), 0, RESERVE) {
        Ok(()) => Ok(()),
        // Zeros may take no space there. Without a reserve it is noticed later that the disk is full.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => {
            std::fs::remove_file(reserve)?;
            Err(error.into())
        }
    }
}

/// Gives the reserve in a state folder free; whether there was one.
pub fn give_free(folder: &Path) -> io::Result<bool> {
    Ok(link::file::if_there(std::fs::remove_file(folder.join(FILE)))?.is_some())
}

/// Writes something, and once more with the room of the reserve if the disk is full.
pub fn with_reserve<T>(folder: &Path, write: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match write() {
        Err(full) if full.kind() == io::ErrorKind::StorageFull && give_free(folder)? => {
            warn!("the disk is full: the store takes the room of its reserve");
            write()
        }
        written => written,
    }
}

/// Looks at the disk for as long as it is awaited. A leader that is short of room asks the others to lead.
pub async fn run(consensus: Consensus) {
    let mut looks = 0_u32;
    loop {
        match consensus.space.look() {
            Ok(false) => {}
            Ok(true) if consensus.space.is_short() => {
                error!(folder = %consensus.space.folder.display(), "the disk is nearly full: this coordinator refuses changes");
                looks = 0;
            }
            Ok(true) => info!("the disk has room again: this coordinator accepts changes"),
            Err(error) => warn!(%error, "the room on the disk of the store is not known"),
        }
        if consensus.space.is_short() && looks.is_multiple_of(ASK_EVERY) {
            let_another_lead(&consensus).await;
        }
        looks = looks.wrapping_add(1);
        tokio::time::sleep(LOOK).await;
    }
}

/// Hands leadership to another voter that has room, if this member leads and there is one.
async fn let_another_lead(consensus: &Consensus) {
    for other in consensus.group().into_iter().filter(|member| member.votes && member.id != consensus.me()) {
        if !consensus.leadership().leads {
            return;
        }
        match consensus.hand_over(other.id).await {
            Ok(()) => return,
            Err(why) => info!(member = %other.id, why, "another coordinator does not lead instead"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_gives_its_reserve_free_before_the_disk_is_full_and_takes_it_back_later() {
        assert_eq!(next(false, true, LOW), Step::Nothing);
        assert_eq!(next(false, true, LOW - 1), Step::GiveFree);
        assert_eq!(next(false, false, LOW - 1), Step::GiveFree, "also without one it is short");
        assert_eq!(next(true, false, 0), Step::Nothing);
        assert_eq!(next(true, false, LOW - 1 + RESERVE), Step::Nothing, "that is its own reserve");
        assert_eq!(next(true, false, ENOUGH), Step::Keep);
        assert_eq!(next(false, false, ENOUGH), Step::Keep);
        assert_eq!(next(false, true, ENOUGH), Step::Nothing);
    }

    #[test]
    fn a_full_disk_has_the_room_of_the_reserve_once() {
        let folder = tempfile::tempdir().expect("a folder");
        make(&folder.path().join(FILE)).expect("there is room");
        let tries = AtomicBool::new(false);
        let full = || Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull));
        let at_second = || if tries.swap(true, Ordering::Relaxed) { Ok(()) } else { full() };
        with_reserve(folder.path(), at_second).expect("it is written at the second try");
        assert!(!folder.path().join(FILE).exists());
        assert!(with_reserve(folder.path(), full).is_err(), "there is no reserve any more");
        assert!(with_reserve(folder.path(), || Err::<(), _>(io::Error::other("broken"))).is_err());
    }

    #[test]
    fn a_look_makes_the_reserve_and_counts_what_it_takes() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = Space::of(folder.path());
        let before = free(folder.path()).expect("it is known");
        assert!(before > 2 * ENOUGH, "the tests need some room");
        assert!(!space.look().expect("it is known"));
        let reserve = std::fs::metadata(folder.path().join(FILE)).expect("it is there");
        assert_eq!(reserve.len(), RESERVE);
        assert!(std::os::unix::fs::MetadataExt::blocks(&reserve) * 512 >= RESERVE, "it takes space");
    }
}
