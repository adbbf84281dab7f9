//! Configs and secrets on this host. Configs lie in the state folder; secrets lie in memory alone, so after a boot the
//! agent asks for them again, and their instances wait until a coordinator answers.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use agent_core::ActionResult;
use common::{
    assignment::AssignedInstance,
    file::{FileKind, FileSpec},
    id::InstanceId,
    part::Part,
    wire::{Files as Answer, Open},
};
use link::{Connection, call::ask, file::if_there};
use rustix::{fs::statfs, mount::MountFlags};
use tokio::sync::watch;

/// Where secrets and leases lie by custom.
pub const MEMORY: &str = "/run/wharf";
/// The kernel's numbers of the types of file systems that are in memory.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
/// The most that they may take of the memory, as the kernel's mount option.
const MEMORY_SIZE: &std::ffi::CStr = c"mode=0700,size=64m";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where files lie on this host.
#[derive(Debug, Clone)]
pub struct Places {
    /// The folder of configs.
    disk: PathBuf,
    /// The folder of files that must not reach a disk.
    memory: PathBuf,
    /// A copy of this process's own binary.
    binary: PathBuf,
    /// Whether that copy was found to be the same.
    has_binary: Arc<OnceLock<()>>,
}

impl Places {
    /// Below a state folder, and below a folder for files that must not reach a disk.
    pub fn new(state: &Path, memory: &Path) -> Places {
        Places {
            disk: state.join("configs"),
            memory: memory.to_owned(),
            binary: state.join("wharf"),
            has_binary: Arc::default(),
        }
    }

    fn of_kind(&self, kind: FileKind) -> PathBuf {
        match kind {
            FileKind::Config => self.disk.clone(),
            FileKind::Secret => self.memory.join("secrets"),
        }
    }

    fn leases(&self) -> PathBuf {
        self.memory.join("leases")
    }

    /// The binary that guards strict singletons, and holds networks.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Makes that binary, unless it is there: a copy of this process's own, which may have been replaced or removed since
    /// the start. Containers that run keep the one that they were started with.
    pub fn ensure_binary(&self) -> io::Result<()> {
        if self.has_binary.get().is_some() {
            return Ok(());
        }
        let own = fs::read("/proc/self/exe")?;
        if fs::read(&self.binary).map_or(true, |copy| copy != own) {
            link::file::replace(&self.binary, &own)?;
            fs::set_permissions(&self.binary, Permissions::from_mode(0o755))?;
        }
        self.has_binary.get_or_init(|| ());
        Ok(())
    }

    /// The folder of the lease of a strict singleton's instance.
    pub fn lease(&self, instance: &InstanceId) -> PathBuf {
        self.leases().join(instance.container_name())
    }

    /// An instance's files, each with its part and its place on the host.
    pub fn of<'a>(&'a self, instance: &'a AssignedInstance) -> impl Iterator<Item = (Part, PathBuf, &'a FileSpec)> {
        let folder = instance.id.container_name();
        let place = move |(index, (part, file)): (usize, (Part, &'a FileSpec))| {
            (part, self.of_kind(file.kind).join(&folder).join(format!("{index}-{}", file.name)), file)
        };
        instance.spec.files().enumerate().map(place)
    }

    fn folders(&self) -> [PathBuf; 3] {
        [self.of_kind(FileKind::Config), self.of_kind(FileKind::Secret), self.leases()]
    }

    /// Makes the folder in memory that only root can enter, unless it is there.
    pub fn ensure_in_memory(&self) -> io::Result<()> {
        let folder = &self.memory;
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        let is_in_memory = || Ok::<bool, io::Error>(IN_MEMORY.contains(&(statfs(folder)?.f_type as i64)));
        if is_in_memory()? {
            return Ok(());
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", folder, "tmpfs", flags, MEMORY_SIZE)
            .map_err(|error| io::Error::other(format!("a tmpfs cannot be mounted at {}: {error}", folder.display())))?;
        if is_in_memory()? { Ok(()) } else { Err(io::Error::other(format!("{} is not in memory", folder.display()))) }
    }

    /// Removes the files of an instance.
    pub fn remove(&self, instance: &InstanceId) -> io::Result<()> {
        self.folders().into_iter().try_for_each(|folder| remove(&folder.join(instance.container_name())))
    }

    /// Removes the files of all instances but those that are `kept`.
    pub fn sweep(&self, kept: &BTreeSet<InstanceId>) -> io::Result<()> {
        let kept: BTreeSet<String> = kept.iter().map(InstanceId::container_name).collect();
        for folder in self.folders() {
            for entry in if_there(fs::read_dir(&folder))?.into_iter().flatten() {
                let entry = entry?;
                if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
                    remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    if_there(fs::remove_dir_all(folder)).map(drop)
}

/// Removes all that this host keeps in memory.
pub fn forget_memory(memory: &Path) -> io::Result<()> {
    for entry in if_there(fs::read_dir(memory))?.into_iter().flatten() {
        remove(&entry?.path())?;
    }
    match rustix::mount::unmount(memory, rustix::mount::UnmountFlags::DETACH) {
        // It was not mounted by itself: the folder above is in memory already, or it was never needed.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => remove(memory),
        Err(error) => Err(error.into()),
    }
}

/// Brings files to where containers find them.
#[derive(Clone)]
pub struct Files {
    places: Places,
    /// The connection to the coordinator that leads, while there is one.
    leader: watch::Receiver<Option<Connection>>,
}

impl Files {
    /// Files at these places, from the coordinator that leads.
    pub fn new(places: Places, leader: watch::Receiver<Option<Connection>>) -> Files {
        Files { places, leader }
    }

    /// Where they lie.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Puts all files of an instance in their places, unless they are there.
    pub async fn ensure(&self, instance: &AssignedInstance) -> Result<(), ActionResult> {
        if self.places.of(instance).all(|(_, path, _)| path.exists()) {
            return Ok(());
        }
        let waits = |why: String| ActionResult::Waits(format!("it waits for its configs and secrets: {why}"));
        let leader = self.leader.borrow().clone().ok_or_else(|| waits("no coordinator answers".to_owned()))?;
        let request = Open::Files(instance.id.clone());
        let answered = tokio::time::timeout(TIMEOUT, ask::<Answer>(&leader, &request)).await;
        let contents = match answered {
            Ok(Ok(Answer::Contents(contents))) => contents,
            Ok(Ok(Answer::Refused(problem))) => {
                return Err(waits(std::iter::once(problem.what).chain(problem.why).collect::<Vec<_>>().join(": ")));
            }
            Ok(Err(error)) => return Err(waits(error.to_string())),
            Err(_) => return Err(waits(format!("the coordinator did not answer within {TIMEOUT:?}"))),
        };
        if contents.len() != instance.spec.files().count() {
            return Err(ActionResult::Failed("the coordinator sent other files than requested".to_owned()));
        }
        let failed = |why: io::Error| ActionResult::Failed(format!("its configs and secrets cannot be stored: {why}"));
        if instance.spec.files().any(|(_, file)| file.kind == FileKind::Secret) {
            self.places.ensure_in_memory().map_err(failed)?;
        }
        let places = self.places.of(instance).map(|(_, path, file)| (path, file.clone()));
        let files: Vec<_> = places.zip(contents).collect();
        // Each waits for the disk, and heartbeats may not.
        let writing = tokio::task::spawn_blocking(move || {
            files.iter().try_for_each(|((path, file), content)| write(path, file, content.expose()))
        });
        writing.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked))).map_err(failed)
    }
}

/// Writes a file that is whole as soon as it has its name, also after the power was cut.
fn write(path: &Path, file: &FileSpec, content: &[u8]) -> io::Result<()> {
    write_with(path, file, content, File::sync_all)
}

/// The same with another way to make a file or a folder durable.
fn write_with(path: &Path, file: &FileSpec, content: &[u8], sync: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    ensure_folder(folder, &sync)?;
    let beside = path.with_extension("tmp");
    if_there(fs::remove_file(&beside))?;
    let mut options = fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
    let mut written = options.open(&beside)?;
    io::Write::write_all(&mut written, content)?;
    chown(&beside, Some(file.uid), Some(file.gid))?;
    fs::set_permissions(&beside, Permissions::from_mode(file.mode))?;
    // Otherwise the name may reach the disk before what it names, and an empty file would count as there.
    sync(&written)?;
    fs::rename(&beside, path)?;
    sync(&File::open(folder)?)
}

/// Makes a folder and those above it, durably, unless they are there.
fn ensure_folder(folder: &Path, sync: &impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    let Some(above) = folder.parent().filter(|_| !folder.exists()) else { return Ok(()) };
    ensure_folder(above, sync)?;
    fs::create_dir_all(folder)?;
    sync(&File::open(above)?)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, os::unix::fs::MetadataExt};

    use super::*;

    /// The files that belong to whoever runs the tests, who perhaps can give none to another.
    fn spec(folder: &Path) -> FileSpec {
        let owner = fs::metadata(folder).expect("it is there");
        let spec = FileSpec::of(FileKind::Config, "app".parse().expect("a name"));
        FileSpec { uid: owner.uid(), gid: owner.gid(), mode: 0o440, ..spec }
    }

    #[test]
    fn a_file_is_durable_before_it_has_its_name_and_its_folders_are_after_that() {
        let state = tempfile::tempdir().expect("a folder");
        let instance = state.path().join("configs/one");
        let path = instance.join("0-app");
        let synced = RefCell::new(Vec::new());
        let sync = |file: &File| {
            let found = file.metadata()?;
            let known = [state.path().to_owned(), state.path().join("configs"), instance.clone()];
            let is_it = |folder: &PathBuf| fs::metadata(folder).is_ok_and(|folder| folder.ino() == found.ino());
            let folder = known.iter().position(is_it);
            synced.borrow_mut().push((folder, found.len() * u64::from(found.is_file()), path.exists()));
            file.sync_all()
        };
        write_with(&path, &spec(state.path()), b"content", sync).expect("it is written");
        let file = (None, 7, false);
        let [above, configs, own] = [(Some(0), 0, false), (Some(1), 0, false), (Some(2), 0, true)];
        assert_eq!(synced.take(), [above, configs, file, own]);
        let found = fs::metadata(&path).expect("it is there");
        assert_eq!((found.mode() & 0o777, fs::read(&path).expect("it can be read")), (0o440, b"content".to_vec()));
        write_with(&path, &spec(state.path()), b"again", sync).expect("it is written anew");
        assert_eq!(synced.take(), [(None, 5, true), (Some(2), 0, true)], "the folders are there");
    }

    #[test]
    fn a_file_that_cannot_be_made_durable_is_not_there() {
        let state = tempfile::tempdir().expect("a folder");
        let path = state.path().join("0-app");
        let full = |_: &File| Err(io::Error::from(io::ErrorKind::StorageFull));
        let failed = write_with(&path, &spec(state.path()), b"content", full).expect_err("it fails");
        assert_eq!((failed.kind(), path.exists()), (io::ErrorKind::StorageFull, false));
        write(&path, &spec(state.path()), b"content").expect("what a failure leaves is no hindrance");
        assert_eq!(fs::read(&path).expect("it can be read"), b"content");
    }
}
