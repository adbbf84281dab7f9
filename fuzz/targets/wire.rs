//! Frames of the link and the coordinators' commands: decoding arbitrary bytes does not panic or allocate without
//! bound, and what decodes encodes to what decodes to the same.
//!
//! The first byte says which message it is, since on a stream its place says so. The others are a list of such messages,
//! as the golden files hold them, or one of them.
#![no_main]

use std::fmt::Debug;

use common::{
    codec,
    wire::{Files, LogFrame, Open, PeerIdentity, Renewed, ToAgent, ToCoordinator},
};
use coordinator::raft::{Entry, MemberAnswer, MemberCall};
use coordinator_core::{Batch, Proposal, State};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 10 {
        0 => both::<Open>(body, authorized),
        1 => both::<ToCoordinator>(body, |_| ()),
        2 => both::<ToAgent>(body, |_| ()),
        3 => both::<Renewed>(body, |_| ()),
        4 => both::<Files>(body, |_| ()),
        5 => both::<LogFrame>(body, |_| ()),
        6 => both::<MemberCall>(body, |_| ()),
        7 => both::<MemberAnswer>(body, |_| ()),
        8 => both::<Proposal>(body, |_| ()),
        _ => both::<Entry>(body, applied),
    }
});

/// Whoever sent it, whether it is allowed can be said.
fn authorized(open: &Open) {
    if let Open::Session(hello) = open {
        assert!(open.allowed_for(&PeerIdentity { host: hello.host, member: None }), "a host may speak for itself");
    }
}

/// Commands of any content can be applied, and are applied alike.
fn applied(entry: &Entry) {
    let openraft::EntryPayload::Normal(batch) = &entry.payload else { return };
    let batch: &Batch = batch;
    let (mut one, mut other) = (State::default(), State::default());
    let outcomes = one.apply(batch);
    assert_eq!(outcomes.len(), batch.proposals.len());
    assert_eq!(format!("{outcomes:?}"), format!("{:?}", other.apply(batch)));
    assert!(one == other, "the same commands give the same state");
}

fn both<T: Serialize + DeserializeOwned + Debug>(body: &[u8], look: impl Fn(&T)) {
    check::<T>(body, &look);
    check::<Vec<T>>(body, |frames| frames.iter().for_each(&look));
}

fn check<T: Serialize + DeserializeOwned + Debug>(body: &[u8], look: impl Fn(&T)) {
    let Ok(value) = codec::decode::<T>(body) else { return };
    let encoded = codec::encode(&value).expect("what was decoded can be encoded");
    assert_eq!(codec::size(&value).expect("it has one"), encoded.len());
    let again: T = codec::decode(&encoded).expect("what was encoded can be decoded");
    assert_eq!(format!("{again:?}"), format!("{value:?}"));
    assert_eq!(codec::encode(&again).expect("encodes"), encoded);
    look(&value);
}
