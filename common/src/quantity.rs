//! Amounts of memory and CPU.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An amount of memory or disk space in bytes. Zero means "not stated".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// CPU in thousandths of a core. Zero means "not stated".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct MilliCpu(pub u64);

/// A text that is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct InvalidQuantity {
    /// The text as given, cut to 80 characters.
    pub text: String,
    /// The expected kind of text, with an example.
    pub what: &'static str,
}

impl FromStr for Bytes {
    type Err = InvalidQuantity;

    /// Parses `512m`, `1g`, `1.5GiB`, `1024`: units are powers of 1024 in all spellings, as in Docker.
    fn from_str(text: &str) -> Result<Bytes, InvalidQuantity> {
        let refuse = || InvalidQuantity {
            text: text.chars().take(80).collect(),
            what: "an amount of memory such as 512m or 2g",
        };
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let value: f64 = text[..digits].parse().map_err(|_| refuse())?;
        let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(refuse()),
        };
        let bytes = value * (1u64 << shift) as f64;
        // 2^60 is more than any host has, and sums over hosts stay far from an overflow.
        if bytes.is_finite() && (0.0..=(1u64 << 60) as f64).contains(&bytes) {
            Ok(Bytes(bytes as u64))
        } else {
            Err(refuse())
        }
    }
}

impl FromStr for MilliCpu {
    type Err = InvalidQuantity;

    /// Parses a number of cores, such as `0.5` or `2`.
    fn from_str(text: &str) -> Result<MilliCpu, InvalidQuantity> {
        let refuse = || InvalidQuantity {
            text: text.chars().take(80).collect(),
            what: "a number of CPU cores such as 0.5 or 2",
        };
        let cores: f64 = text.trim().parse().map_err(|_| refuse())?;
        if cores.is_finite() && (0.0..=100_000.0).contains(&cores) {
            Ok(MilliCpu((cores * 1000.0).round() as u64))
        } else {
            Err(refuse())
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0 as f64;
        let text = match self.0 {
            0..1024 => format!("{} B", self.0),
            1024..1_048_576 => format!("{:.0} KiB", value / 1024.0),
            1_048_576..1_073_741_824 => format!("{:.0} MiB", value / 1_048_576.0),
            _ => format!("{:.1} GiB", value / 1_073_741_824.0),
        };
        f.pad(&text)
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}", self.0 as f64 / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_docker_reads_it() {
        for (text, bytes) in [("1024", 1024), ("512m", 512 << 20), ("1.5GiB", 3 << 29), ("2 gb", 2 << 30)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for bad in ["", "m", "-1m", "1q", "1e3", "9999999999t", "NaN"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn cores_become_thousandths() {
        assert_eq!("0.25".parse(), Ok(MilliCpu(250)));
        for bad in ["", "NaN", "-1", "inf", "1e9"] {
            assert!(bad.parse::<MilliCpu>().is_err(), "{bad:?}");
        }
    }
}
