//! The files of backups on a host.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{BackupError, Draft, Head};

const SUFFIX: &str = "backup";

/// The folder of scheduled backups beside a state folder.
pub fn beside(state: &Path) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push(OsString::from("-backups"));
    name.into()
}

/// What the file of a backup is called. Later ones come later in the alphabet.
pub fn name_of(head: &Head) -> String {
    format!("wharf-{}-{:020}.{SUFFIX}", head.cluster, head.index)
}

/// Writes a backup durably to a file that is not there yet; returns its size.
pub fn save(draft: &Draft, path: &Path) -> Result<u64, BackupError> {
    write_new(path, |file| draft.write(file))
}

/// Fills a new file that only its owner can read, beside its place; renames it once it is durable.
fn write_new(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<u64, BackupError>) -> Result<u64, BackupError> {
    if path.try_exists()? {
        let there = io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there already", path.display()));
        return Err(there.into());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let part = path.with_extension("part");
    let written = (|| {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        let mut writer = BufWriter::with_capacity(256 << 10, file);
        let size = fill(&mut writer)?;
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        // Unlike a rename, this never takes the place of a file that came meanwhile.
        fs::hard_link(&part, path)?;
        Ok(size)
    })();
    link::file::if_there(fs::remove_file(&part))?;
    File::open(folder)?.sync_all()?;
    written
}

/// The backups of a cluster in a folder, the newest first: their paths, and what they say of themselves.
pub fn list(folder: &Path) -> io::Result<Vec<(PathBuf, Result<Head, BackupError>)>> {
    let mut found = Vec::new();
    for entry in link::file::if_there(fs::read_dir(folder))?.into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == SUFFIX) {
            let head = File::open(&path).map_err(BackupError::Io).and_then(super::read_head);
            found.push((path, head));
        }
    }
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    Ok(found)
}

/// Removes the oldest scheduled backups of a cluster. Nothing else in the folder is touched.
pub fn keep_newest(folder: &Path, head: &Head, keep: usize) -> io::Result<()> {
    let prefix = format!("wharf-{}-", head.cluster);
    let mut own: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let index = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".backup"));
        if index.is_some_and(|index| index.len() == 20 && index.bytes().all(|byte| byte.is_ascii_digit())) {
            own.push(entry.path());
        }
    }
    own.sort();
    own.iter().rev().skip(keep).map(fs::remove_file).try_for_each(|removed| link::file::if_there(removed).map(drop))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all_and_never_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.backup");
        let fail = |to: &mut dyn Write| {
            to.write_all(b"half")?;
            Err(BackupError::NotABackup)
        };
        write_new(&path, fail).expect_err("it fails");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 0, "nothing is left");
        let fill = |to: &mut dyn Write| {
            to.write_all(b"whole")?;
            Ok(5)
        };
        assert_eq!(write_new(&path, fill).expect("it is written"), 5);
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        write_new(&path, fill).expect_err("it is there already");
        assert_eq!(fs::read(&path).expect("reads"), b"whole");
    }
}
