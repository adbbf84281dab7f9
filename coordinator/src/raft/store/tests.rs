use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use openraft::CommittedLeaderId;

use super::*;
use crate::raft::types::Vote;

const ME: MemberId = MemberId(1);
/// Segments that a few entries fill.
const SMALL: u64 = 4096;

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(3, 1), index)
}

fn sealed(index: u64) -> Vec<u8> {
    ENTRY_FORMAT.seal(&Entry { log_id: id(index), payload: openraft::EntryPayload::Blank }).expect("seals")
}

fn open(folder: &Path) -> Result<Store, StoreError> {
    Store::open_sized(folder, ME, SMALL)
}

async fn append(store: &Store, indices: std::ops::Range<u64>) {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let entries = indices.map(|index| (id(index), sealed(index))).collect();
    store.append(entries, move |written| drop(sender.send(written)));
    receiver.await.expect("it is called").expect("it is written");
}

fn indices(store: &Store) -> Vec<u64> {
    store.shared.contents().entries.keys().copied().collect()
}

/// What a log holds: what must not change unnoticed.
fn held(folder: &Path) -> Result<(Facts, BTreeMap<u64, Position>), StoreError> {
    let Read { contents, .. } = Contents::read(folder)?.expect("there is one");
    Ok((contents.facts, contents.entries))
}

/// A log with a vote, entries of several segments, a truncation and a purge, which was closed in good order.
async fn small_log(folder: &Path) {
    let store = open(folder).expect("it is made");
    store.write(Record::Vote(Vote::new(3, 1))).await.expect("writes");
    for index in 0..12 {
        append(&store, index..index + 1).await;
    }
    store.write(Record::Truncate(10)).await.expect("writes");
    append(&store, 10..14).await;
    store.write(Record::Purge(id(1))).await.expect("writes");
    store.note_committed(id(12));
    store.write(Record::Vote(Vote::new(4, 2))).await.expect("writes");
}

#[tokio::test]
async fn what_was_durable_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("raft");
    small_log(&folder).await;
    let store = open(&folder).expect("opens again");
    assert_eq!(indices(&store), (2..14).collect::<Vec<_>>());
    let expected = Facts {
        owner: ME,
        vote: Some(Vote::new(4, 2)),
        committed: Some(id(12)),
        purged: Some(id(1)),
        last: Some(id(13)),
    };
    assert_eq!(store.facts(), expected);
    for index in 2..14 {
        assert_eq!(store.entry(index).expect("reads").expect("is there").0.log_id, id(index));
    }
    assert!(store.entry(1).expect("reads").is_none() && store.entry(14).expect("reads").is_none());
    append(&store, 14..40).await;
    drop(store);
    assert_eq!(indices(&open(&folder).expect("opens again")), (2..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn segments_go_when_their_entries_were_purged_and_are_used_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("raft");
    let store = open(&folder).expect("it is made");
    for index in 0..60 {
        append(&store, index..index + 1).await;
        if index >= 10 {
            store.write(Record::Purge(id(index - 10))).await.expect("writes");
        }
    }
    store.write(Record::Purge(id(59))).await.expect("writes");
    drop(store);
    let left = segment::list(&folder).expect("lists");
    assert!(left.len() <= 2 && *left.first().expect("one stays") > 10, "{left:?}");
    assert!(folder.join(segment::SPARE).exists());
    let store = open(&folder).expect("opens");
    assert_eq!((indices(&store), store.facts().last), (vec![], Some(id(59))));
    // A frame that is larger than a segment has one of its own.
    let large = (id(60), vec![7; 3 * SMALL as usize]);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    store.append(vec![large], move |written| drop(sender.send(written)));
    receiver.await.expect("it is called").expect("it is written");
    assert!(store.entry(60).is_err_and(|error| error.to_string().contains("entry 60")), "that is no entry");
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_named_or_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("raft");
    small_log(&folder).await;
    let before = held(&folder).expect("it is whole");
    let mut named = BTreeSet::new();
    for file in fs::read_dir(&folder).expect("lists").map(|file| file.expect("lists").path()) {
        let bytes = fs::read(&file).expect("reads");
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << (position % 8);
            fs::write(&file, &damaged).expect("writes");
            match held(&folder) {
                Err(StoreError::Corrupt { .. }) => {
                    named.insert((file.clone(), position as u64));
                }
                Err(error) => panic!("{}: byte {position}: {error}", file.display()),
                // Behind the end of a frame, or in what was purged.
                Ok(after) => assert!(after == before, "{}: byte {position} changes what is held", file.display()),
            }
        }
        fs::write(&file, &bytes).expect("writes");
    }
    for Position { id, generation, range } in before.1.values() {
        let file = segment::path(&folder, *generation);
        let is_named = |byte| named.contains(&(file.clone(), byte));
        assert!(range.clone().all(is_named), "damage to entry {} is seen", id.index);
    }
}

#[tokio::test]
async fn damage_to_what_is_not_written_to_any_more_is_found_while_the_store_is_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("raft");
    small_log(&folder).await;
    let store = open(&folder).expect("opens");
    let closed = store.closed_segments();
    assert!(closed.len() >= 2, "{closed:?}");
    for generation in &closed {
        store.check_segment(*generation).expect("it is whole");
        let (path, range) = {
            let contents = store.shared.contents();
            let position = contents.entries.values().find(|position| position.generation == *generation);
            (segment::path(&folder, *generation), position.map(|position| position.range.clone()))
        };
        let Some(range) = range else { continue };
        let bytes = fs::read(&path).expect("reads");
        let mut damaged = bytes.clone();
        damaged[range.start as usize] ^= 1;
        fs::write(&path, &damaged).expect("writes");
        let error = store.check_segment(*generation).expect_err("it is damaged").to_string();
        assert!(error.contains("is damaged"), "{error}");
        fs::write(&path, &bytes).expect("writes");
    }
    store.check_segment(99).expect("it was given up");
}

#[tokio::test]
async fn a_cut_or_torn_end_takes_only_what_nobody_was_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("raft");
    let store = open(&folder).expect("it is made");
    append(&store, 0..3).await;
    drop(store);
    let acknowledged = held(&folder).expect("it is whole");
    let end = Contents::read(&folder).expect("it is whole").expect("there is one").end.at as usize;
    let mark = fs::read(mark::path(&folder)).expect("reads");
    let file = segment::path(&folder, 1);
    let before = fs::read(&file).expect("reads");
    // One more frame, of which the end mark does not know.
    let store = open(&folder).expect("opens");
    store.alone().store(false, Ordering::Relaxed);
    append(&store, 3..5).await;
    drop(store);
    let after = fs::read(&file).expect("reads");
    fs::write(mark::path(&folder), mark).expect("writes");
    let length = held(&folder).expect("it is whole").1[&4].range.end as usize;
    for torn in end..length {
        // The disk has some of it: the first bytes, or the last ones.
        for (first, second) in [(&after, &before), (&before, &after)] {
            let bytes = [&first[..torn], &second[torn..]].concat();
            fs::write(&file, &bytes).expect("writes");
            let found = held(&folder).expect("a torn write is no damage");
            let is_whole = bytes[end..length] == after[end..length];
            assert!(is_whole || found == acknowledged, "{torn}");
        }
    }
    // The next frame takes the place of the torn one.
    fs::write(&file, [&after[..end + 30], &before[end + 30..]].concat()).expect("writes");
    let store = open(&folder).expect("opens");
    append(&store, 3..4).await;
    drop(store);
    assert_eq!(indices(&open(&folder).expect("opens")), [0, 1, 2, 3]);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("raft");
    small_log(&folder).await;
    let generations = segment::list(&folder).expect("lists");
    assert!(generations.len() >= 3, "{generations:?}");
    for generation in &generations {
        let (file, beside) = (segment::path(&folder, *generation), folder.join("beside"));
        fs::rename(&file, &beside).expect("moves");
        let error = held(&folder).expect_err("a segment is missing").to_string();
        assert!(error.contains("missing"), "{error}");
        fs::rename(&beside, &file).expect("moves");
    }
    let aside = folder.with_extension("end");
    fs::rename(mark::path(&folder), &aside).expect("moves");
    assert!(held(&folder).is_err_and(|error| error.to_string().contains("its end mark is missing")));
    fs::rename(&aside, mark::path(&folder)).expect("moves");
    for generation in generations {
        fs::remove_file(segment::path(&folder, generation)).expect("removes");
    }
    assert!(open(&folder).is_err_and(|error| error.to_string().contains("its segments are missing")));
    fs::remove_file(mark::path(&folder)).expect("removes");
    fs::write(folder.join("db"), b"something else").expect("writes");
    assert!(open(&folder).is_err_and(|error| error.to_string().contains("db is there, and no segment of a log")));
}

#[tokio::test]
async fn a_vote_and_what_no_other_member_has_are_marked_before_they_are_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("raft");
    let store = open(&folder).expect("it is made");
    let unmarked = || {
        let Read { end, mark, .. } = Contents::read(&folder).expect("it is whole").expect("there is one");
        end.sequence - mark.expect("there is a mark").0.sequence
    };
    append(&store, 0..1).await;
    assert_eq!(unmarked(), 0);
    store.alone().store(false, Ordering::Relaxed);
    // In quick succession, so that the mark lags for once.
    let mut lagged = false;
    for index in 1..200 {
        append(&store, index..index + 1).await;
        lagged |= unmarked() > 0;
    }
    assert!(lagged, "others have the entries");
    store.write(Record::Vote(Vote::new(9, 1))).await.expect("writes");
    assert_eq!(unmarked(), 0);
}

#[test]
fn a_store_that_was_made_and_is_gone_is_damage() {
    let state = tempfile::tempdir().expect("a folder");
    let state = state.path();
    drop(Store::open(state, ME).expect("it is made"));
    for kept in [true, false] {
        fs::remove_dir_all(state.join("raft")).expect("removes");
        if kept {
            fs::create_dir(state.join("raft")).expect("an empty mount");
        }
        let Err(StoreError::Corrupt { reason, .. }) = Store::open(state, ME) else { panic!("it would vote again") };
        assert!(reason.contains("is missing"), "{reason}");
        fs::create_dir_all(state.join("raft")).expect("is made");
    }
    fs::remove_file(state.join(MADE)).expect("removes");
    drop(Store::open(state, ME).expect("it is made anew"));
}

#[test]
fn a_store_is_used_by_one_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), ME).expect("it is made");
    let refused = Store::open(folder.path(), ME);
    assert!(refused.is_err_and(|error| error.to_string().contains("another process uses it")));
    drop(store);
    drop(Store::open(folder.path(), ME).expect("it is free"));
}

#[tokio::test]
async fn a_store_of_another_member_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(Store::open(folder.path(), ME).expect("it is made"));
    let refused = Store::open(folder.path(), MemberId(2));
    assert!(matches!(refused, Err(StoreError::Foreign { owner: ME, .. })));
}

#[tokio::test]
async fn the_committed_index_is_durable_soon_and_never_ahead_of_the_entries() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("raft");
    let store = open(&folder).expect("it is made");
    append(&store, 0..2).await;
    store.note_committed(id(0));
    store.note_committed(id(1));
    let written = async {
        while store.facts().committed != Some(id(1)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), written).await.expect("it is written although nothing else is");
    store.write(Record::Committed(id(9))).await.expect("writes");
    drop(store);
    assert_eq!(open(&folder).expect("opens").facts().committed, None, "that entry was never there");
}
