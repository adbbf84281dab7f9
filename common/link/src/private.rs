//! Folders and files that only their owner can read. A state folder holds the host's key, and a coordinator's holds the
//! cluster's authority: a local user who can read it controls the cluster.

use std::{
    fs::{self, DirBuilder, Metadata, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use common::error::{Code, Problem};
use rustix::{fs::Mode, process};

use crate::file::if_there;

/// The permission bits of group and others.
const OTHERS: u32 = 0o077;
/// Files for containers have their own modes, and lie in a folder that only the owner can enter.
const FOR_CONTAINERS: [&str; 2] = ["configs", "wharf"];
/// The maximum number of paths that a problem names.
const MOST_NAMED: usize = 8;

/// Sets the umask so that only the owner can read new files and folders, unless they ask for other modes.
pub fn for_owner_alone() {
    process::umask(Mode::RWXG | Mode::RWXO);
}

/// Creates a folder that only its owner can enter, unless it already exists.
pub fn ensure_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Checks that only the owner can read a state folder and its content. An empty folder with looser permissions is
/// closed, because it had no secrets. A non-empty one is refused, because somebody must learn that its keys may have
/// leaked.
pub fn check_state(state: &Path) -> Result<(), Problem> {
    let failed = |error: io::Error| {
        Problem::new(Code::InstallFailed, format!("The state folder {} cannot be used", state.display()))
            .why(error.to_string())
    };
    let Some(found) = if_there(fs::metadata(state)).map_err(failed)? else { return Ok(()) };
    if is_open(&found) && is_empty(state).map_err(failed)? {
        return fs::set_permissions(state, Permissions::from_mode(0o700)).map_err(failed);
    }
    let owner = process::geteuid().as_raw();
    let open = open_paths(state, &found).map_err(failed)?;
    match (found.uid() == owner, open.is_empty()) {
        (true, true) => Ok(()),
        (false, _) => Err(exposed(state)
            .why(format!("it belongs to user {}, but wharf runs as user {owner}", found.uid()))
            .fix(format!("Change its owner: chown -R {owner} {}", state.display()))),
        (true, false) => Err(refusal(state, &open)),
    }
}

fn exposed(state: &Path) -> Problem {
    Problem::new(Code::StateExposed, format!("The state folder {} is accessible to other users", state.display()))
}

fn refusal(state: &Path, open: &[PathBuf]) -> Problem {
    let named: Vec<String> = open.iter().take(MOST_NAMED).map(|path| path.display().to_string()).collect();
    let more = open.len().saturating_sub(MOST_NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    exposed(state)
        .why(format!("it holds keys, but other users can read or enter {}{rest}", named.join(", ")))
        .fix(format!("Change the permissions and start again: chmod go= {}", named.join(" ")))
        .fix("If other people use this machine, they may have copied its keys: let the host leave and join again")
}

fn is_open(found: &Metadata) -> bool {
    found.mode() & OTHERS != 0
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

/// The paths that others can read or enter: the folder itself, and everything in it.
fn open_paths(state: &Path, found: &Metadata) -> io::Result<Vec<PathBuf>> {
    let mut open = Vec::new();
    if is_open(found) {
        open.push(state.to_owned());
    }
    for entry in fs::read_dir(state)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| FOR_CONTAINERS.contains(&name)) {
            collect(&entry.path(), &mut open)?;
        }
    }
    open.sort();
    Ok(open)
}

fn collect(path: &Path, open: &mut Vec<PathBuf>) -> io::Result<()> {
    // Files may disappear during the walk, and the targets of symbolic links do not count.
    let Some(found) = if_there(fs::symlink_metadata(path))?.filter(|found| !found.is_symlink()) else { return Ok(()) };
    if is_open(&found) {
        open.push(path.to_owned());
    }
    if found.is_dir() {
        for entry in if_there(fs::read_dir(path))?.into_iter().flatten() {
            collect(&entry?.path(), open)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(entries: &[(&str, u32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).expect("it is closed");
        for (name, mode) in entries {
            let path = folder.path().join(name);
            if name.ends_with('/') {
                fs::create_dir(&path).expect("a folder");
            } else if !name.is_empty() {
                fs::write(&path, b"key").expect("a file");
            }
            fs::set_permissions(&path, Permissions::from_mode(*mode)).expect("it has the mode");
        }
        folder
    }

    #[test]
    fn a_state_folder_that_others_can_read_is_refused_with_what_closes_it() {
        let cases: [(&[(&str, u32)], &[&str]); 9] = [
            (&[], &[]),
            (&[("", 0o755)], &[]),
            (&[("identity", 0o600), ("raft/", 0o700), ("raft/db", 0o600)], &[]),
            (&[("configs/", 0o755), ("wharf", 0o755)], &[]),
            (&[("", 0o755), ("identity", 0o600)], &[""]),
            (&[("", 0o710), ("identity", 0o600)], &[""]),
            (&[("identity", 0o640)], &["identity"]),
            (&[("raft/", 0o755), ("raft/db", 0o644)], &["raft", "raft/db"]),
            (&[("", 0o755), ("wharf.log", 0o604)], &["", "wharf.log"]),
        ];
        for (entries, open) in cases {
            let folder = state(entries);
            let checked = check_state(folder.path());
            if open.is_empty() {
                assert!(checked.is_ok(), "{entries:?}: {checked:?}");
                let mode = fs::metadata(folder.path()).expect("it is there").mode();
                assert_eq!(mode & OTHERS, 0, "{entries:?}: an empty one is closed");
                continue;
            }
            let problem = checked.expect_err("it is refused");
            let paths: Vec<String> = open
                .iter()
                .map(|name| folder.path().join(name).display().to_string().trim_end_matches('/').to_owned())
                .collect();
            assert_eq!(problem.code, Code::StateExposed);
            assert!(problem.fix[0].ends_with(&format!("chmod go= {}", paths.join(" "))), "{problem}");
            // The suggested fix works.
            for path in paths {
                let mode = fs::metadata(&path).expect("it is there").mode();
                fs::set_permissions(&path, Permissions::from_mode(mode & 0o700)).expect("it is closed");
            }
            assert!(check_state(folder.path()).is_ok(), "{entries:?}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_made_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        assert!(check_state(&state).is_ok());
        ensure_folder(&state).expect("it is made");
        assert_eq!(fs::metadata(&state).expect("it is there").mode() & 0o777, 0o700);
    }
}
