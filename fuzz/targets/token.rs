//! Texts that people paste and type: parsing does not panic, and what parses prints to what parses to the same.
#![no_main]

use std::{
    fmt::{Debug, Display},
    str::FromStr,
};

use common::{
    base32,
    cron::Schedule,
    hex,
    id::{BootId, ClusterId, HostId, InstanceId, ServiceId, SlotId, StackId},
    name::Name,
    network::WireguardKey,
    part::Part,
    quantity::{Bytes, MilliCpu},
    spec::{Alias, Constraint, HostAddress, VolumeName},
    time::{Span, Timestamp},
    token::{ApiToken, JoinToken, TokenId},
    wire::is_moment,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    tokens(text);
    printed::<TokenId>(text);
    printed::<Name>(text);
    printed::<ClusterId>(text);
    printed::<HostId>(text);
    printed::<BootId>(text);
    printed::<StackId>(text);
    printed::<ServiceId>(text);
    printed::<SlotId>(text);
    printed::<InstanceId>(text);
    printed::<Part>(text);
    printed::<Span>(text);
    printed::<Timestamp>(text);
    printed::<MilliCpu>(text);
    printed::<Alias>(text);
    printed::<VolumeName>(text);
    printed::<Constraint>(text);
    printed::<HostAddress>(text);
    printed::<WireguardKey>(text);
    schedule(text);
    // Printed for people, rounded.
    if let Ok(bytes) = text.parse::<Bytes>() {
        let _ = bytes.to_string();
    }
    if let Some(bytes) = hex::decode(text) {
        assert_eq!(hex::encode(&bytes), text.to_ascii_lowercase());
    }
    if let Some(bytes) = base32::decode::<10>(text) {
        assert_eq!(base32::encode(&bytes), text);
    }
    is_moment(text);
});

/// Those that have one spelling alone.
fn tokens(text: &str) {
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.reveal(), text);
    }
    if let Ok(token) = text.parse::<ApiToken>() {
        assert_eq!(token.reveal(), text);
    }
}

fn printed<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => match value.to_string().parse::<T>() {
            Ok(again) => assert_eq!(again, value, "{text:?}"),
            Err(error) => panic!("{text:?} parses and prints as {value}, which does not parse: {error}"),
        },
        // It names what is wrong, of whatever length that is.
        Err(error) => assert!(error.to_string().len() < 2000, "{error}"),
    }
}

/// A pattern, and a zone behind a line's end.
fn schedule(text: &str) {
    let (pattern, zone) = text.split_once('\n').unwrap_or((text, "UTC"));
    let Ok(schedule) = Schedule::parse(pattern, zone) else { return };
    let mut at = Timestamp(1_790_000_000_000);
    for _ in 0..3 {
        let Some(next) = schedule.next_after(at) else { return };
        assert!(next > at, "{pattern:?} in {zone:?} is due at {next}, and after {at}");
        at = next;
    }
}
