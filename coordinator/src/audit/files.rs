//! The files of the audit: each holds entries that follow each other, and is named after its first one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use common::audit::{AuditHash, AuditLine};

/// How large a file may grow, in bytes, before the next one begins.
const MAX_FILE: u64 = 16 << 20;
/// How many files are kept.
const MOST_FILES: usize = 16;
/// More than any line has, in bytes.
const MAX_LINE: u64 = 4096;

/// The files, open at the last one.
pub(super) struct Files {
    folder: PathBuf,
    last: Option<Last>,
    newest: (u64, AuditHash),
}

struct Last {
    file: File,
    size: u64,
}

impl Files {
    /// Opens the folder. Goes on with the file whose last entry comes right before one of these, if there is one.
    pub(super) fn open(folder: &Path, entries: &[AuditLine]) -> io::Result<Files> {
        link::private::ensure_folder(folder)?;
        let mut files = Files { folder: folder.to_owned(), last: None, newest: (0, AuditHash::default()) };
        for path in listed(folder)?.into_iter().rev() {
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            let Some(line) = last_whole_line(&mut file)? else { continue };
            let follows = |next: &AuditLine| next.entry.previous == line.hash;
            let is_newest = entries.last().is_some_and(|newest| newest.hash == line.hash);
            if is_newest || entries.iter().any(follows) {
                let size = file.seek(SeekFrom::End(0))?;
                (files.last, files.newest) = (Some(Last { file, size }), (line.entry.number, line.hash));
                break;
            }
        }
        Ok(files)
    }

    /// The number of the newest entry in the files that the cluster has as well; 0 if there is none.
    pub(super) fn newest(&self) -> u64 {
        self.newest.0
    }

    /// Appends the entries that are newer than those in the files, durably. After an error the files are to be opened
    /// again: a line may have been written in part.
    pub(super) fn append(&mut self, entries: &[AuditLine]) -> io::Result<()> {
        let first = entries.partition_point(|line| line.entry.number <= self.newest.0);
        let mut rest = entries.get(first..).unwrap_or_default();
        while let Some(first) = rest.first() {
            let last = match self.last.take() {
                Some(last) if last.size < MAX_FILE && first.entry.previous == self.newest.1 => last,
                _ => self.begin(first)?,
            };
            let written = self.fill(last, rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Appends entries to a file until it is full; returns how many.
    fn fill(&mut self, mut last: Last, entries: &[AuditLine]) -> io::Result<usize> {
        let (mut text, mut written) = (Vec::new(), 0);
        for line in entries {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
            self.newest = (line.entry.number, line.hash);
            written += 1;
            if last.size + text.len() as u64 >= MAX_FILE {
                break;
            }
        }
        last.file.write_all(&text)?;
        last.file.sync_data()?;
        last.size += text.len() as u64;
        self.last = Some(last);
        Ok(written)
    }

    /// Begins a file, and removes the oldest one if there are too many.
    fn begin(&self, first: &AuditLine) -> io::Result<Last> {
        let paths = listed(&self.folder)?;
        for path in paths.iter().take((paths.len() + 1).saturating_sub(MOST_FILES)) {
            fs::remove_file(path)?;
        }
        let file = create(&self.folder, &format!("{:020}", first.entry.number))?;
        File::open(&self.folder)?.sync_all()?;
        Ok(Last { file, size: 0 })
    }
}

/// Makes a file of that name, or of that name and the lowest number that no other history's file has.
fn create(folder: &Path, name: &str) -> io::Result<File> {
    for number in 1_u32.. {
        let path = folder.join(format!("{name}-{number}.jsonl"));
        match OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return opened,
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The files of a folder, the oldest first.
fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "jsonl") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The last line that was written as a whole. What follows it was never durable, and is cut.
fn last_whole_line(file: &mut File) -> io::Result<Option<AuditLine>> {
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(size.saturating_sub(2 * MAX_LINE)))?;
    let (mut reader, mut line, mut last, mut cut) = (BufReader::new(&mut *file), Vec::new(), None, 0);
    while reader.read_until(b'\n', &mut line)? > 0 {
        if !line.ends_with(b"\n") {
            cut = line.len() as u64;
            break;
        }
        // The first one may be the end of a line.
        last = serde_json::from_slice(&line).ok().or(last);
        line.clear();
    }
    if cut > 0 {
        file.set_len(size - cut)?;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use common::{
        audit::{AuditEntry, check},
        time::Timestamp,
    };

    use super::*;

    fn entries(subject: &str, previous: AuditHash, numbers: std::ops::RangeInclusive<u64>) -> Vec<AuditLine> {
        let mut previous = previous;
        let line = |number| {
            let (at, subject) = (Timestamp(number), subject.to_owned());
            let entry =
                AuditEntry { number, at, token: None, name: None, from: None, command: 3, subject, index: 1, previous };
            previous = entry.hash().expect("it is encoded");
            AuditLine { entry, what: "put stack".into(), hash: previous }
        };
        numbers.map(line).collect()
    }

    fn read(folder: &Path) -> Vec<Vec<AuditLine>> {
        let read = |path: &PathBuf| {
            let text = fs::read_to_string(path).expect("it is there");
            text.lines().map(|line| serde_json::from_str(line).expect("it is whole")).collect()
        };
        listed(folder).expect("it is listed").iter().map(read).collect()
    }

    #[test]
    fn entries_are_appended_once_across_restarts_and_torn_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = entries("a", AuditHash::default(), 1..=30);
        let mut files = Files::open(folder.path(), &all[..10]).expect("it is opened");
        files.append(&all[..10]).expect("they are written");
        files.append(&all[..12]).expect("they are written");
        assert_eq!(files.newest(), 12);
        drop(files);
        let path = listed(folder.path()).expect("it is listed").remove(0);
        let mut torn = OpenOptions::new().append(true).open(&path).expect("it is there");
        torn.write_all(b"{\"number\":13,\"at\"").expect("it is written");
        // The state no longer holds the oldest ones.
        let mut files = Files::open(folder.path(), &all[5..]).expect("it is opened");
        assert_eq!(files.newest(), 12);
        files.append(&all[5..]).expect("they are written");
        assert!(read(folder.path()) == [all], "each is there once");
    }

    #[test]
    fn another_history_goes_into_another_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = entries("a", AuditHash::default(), 1..=20);
        Files::open(folder.path(), &old).and_then(|mut files| files.append(&old)).expect("they are written");
        // The cluster was restored as of entry 10.
        let restored = [&old[..10], &entries("b", old[9].hash, 11..=25)].concat();
        let mut files = Files::open(folder.path(), &restored).expect("it is opened");
        assert_eq!(files.newest(), 0);
        files.append(&restored).expect("they are written");
        let mut found = read(folder.path());
        found.sort_by_key(Vec::len);
        assert!(found == [old, restored.clone()], "neither history is lost");
        // After a gap the next file begins.
        let later = entries("c", restored[24].hash, 26..=40);
        files.append(&later[5..]).expect("they are written");
        assert_eq!(read(folder.path()).len(), 3);
        assert!(read(folder.path()).iter().all(|lines| check(lines).is_ok()));
    }

    #[test]
    fn full_files_are_followed_by_others_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = entries(&"s".repeat(200), AuditHash::default(), 1..=1000);
        let mut files = Files::open(folder.path(), &all).expect("it is opened");
        for part in all.chunks(50) {
            files.append(part).expect("they are written");
            if let Some(last) = &mut files.last {
                last.size = MAX_FILE;
            }
        }
        let found = read(folder.path());
        assert_eq!(found.len(), MOST_FILES);
        let whole = found.concat();
        assert_eq!((whole.len(), check(&whole)), (50 * MOST_FILES, Ok(())));
        assert_eq!(whole.last().map(|line| line.entry.number), Some(1000));
    }
}
