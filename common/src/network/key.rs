//! Public keys of WireGuard.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A host's public WireGuard key (Curve25519). Its text is the output of `wg pubkey`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireguardKey(pub [u8; 32]);

impl fmt::Display for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WireguardKey {
    type Err = String;
    fn from_str(text: &str) -> Result<WireguardKey, String> {
        let bytes = BASE64_STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(WireguardKey).ok_or_else(|| "it is not a WireGuard key, which is 32 bytes in base64".to_owned())
    }
}

/// Text in formats for people, bytes in binary formats.
impl Serialize for WireguardKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for WireguardKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WireguardKey, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            Deserialize::deserialize(deserializer).map(WireguardKey)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_wg_writes_them() {
        let text = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
        let key: WireguardKey = text.parse().expect("a key");
        assert_eq!((key.0[0], key.0[31], key.to_string().as_str()), (1, 32, text));
        for wrong in ["", "AQID", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA", "(none)"] {
            assert!(wrong.parse::<WireguardKey>().is_err(), "{wrong}");
        }
    }
}
