//! Stored files: whatever stands in one, opening it does not panic, and what opens seals to what opens to the same.
//!
//! A seed is a whole sealed file. Its magic says what it is; its checksum is mended, or nearly no input would get past
//! it.
#![no_main]

use std::fmt::Debug;

use common::codec::Format;
use coordinator::raft::store::{EndMark, MARK_FORMAT, RECORD_FORMAT, Record, SEGMENT_FORMAT, SegmentHeader};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

/// Magic and version; the checksum follows.
const BEFORE: usize = 6;
/// With the checksum.
const HEADER: usize = BEFORE + 4;

fuzz_target!(|bytes: &[u8]| {
    // As it came: the header is checked before anything else.
    let _ = RECORD_FORMAT.open::<Record>(bytes);
    if bytes.len() < HEADER {
        return;
    }
    let mut mended = bytes.to_vec();
    mended[BEFORE..HEADER].copy_from_slice(&crc32fast::hash(&bytes[HEADER..]).to_be_bytes());
    check::<coordinator::raft::Entry>(coordinator::raft::ENTRY_FORMAT, &mended);
    check::<Record>(RECORD_FORMAT, &mended);
    check::<SegmentHeader>(SEGMENT_FORMAT, &mended);
    check::<EndMark>(MARK_FORMAT, &mended);
    check::<coordinator::raft::SnapshotFile>(coordinator::raft::SNAPSHOT_FORMAT, &mended);
    check::<coordinator::birth::GenesisFile>(coordinator::birth::GENESIS_FORMAT, &mended);
    check::<coordinator::seal::SealingKey>(coordinator::seal::SEALING_KEY_FORMAT, &mended);
    check::<agent::ledger::Contents>(agent::ledger::LEDGER_FORMAT, &mended);
    check::<agent::directory::Contents>(agent::directory::DIRECTORY_FORMAT, &mended);
    check::<agent::images::Contents>(agent::images::IMAGES_FORMAT, &mended);
    check::<link::keyring::Keyring>(link::keyring::KEYRING_FORMAT, &mended);
});

fn check<T: Serialize + DeserializeOwned + Debug>(format: Format, bytes: &[u8]) {
    let Ok(value) = format.open::<T>(bytes) else { return };
    // Numbers and the order of keys may have been written otherwise than wharf writes them, so bytes are compared
    // from here on.
    let sealed = format.seal(&value).expect("what was opened is small enough to be sealed");
    let again: T = format.open(&sealed).expect("what was sealed opens");
    assert_eq!(format!("{again:?}"), format!("{value:?}"));
    assert_eq!(format.seal(&again).expect("seals"), sealed);
}
