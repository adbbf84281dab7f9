//! Devices of hosts that are reserved for one container: GPUs, and Docker's generic resources.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::part::Part;

/// The kind of NVIDIA GPUs; the driver lists them.
pub const GPU: &str = "gpu";

/// The maximum length of a kind, id or capability, in bytes.
const MAX_WORD: usize = 64;
/// The maximum number of devices of one kind that a container may request.
const MAX_OF_A_KIND: usize = 1024;

/// The ids of a host's devices by kind, in the order in which the host lists them.
pub type Devices = BTreeMap<String, Vec<String>>;

/// A container's request for devices of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceRequest {
    /// How many, or which ones.
    pub amount: DeviceAmount,
    /// The use of a GPU, in the driver's words: `compute`, `utility`, `video`.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

impl DeviceRequest {
    /// The rule that the request breaks, if any.
    pub fn violation(&self, kind: &str) -> Option<String> {
        let is_word = |text: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
            !text.is_empty() && text.len() <= MAX_WORD && text.chars().all(allowed)
        };
        let (asked, ids) = match &self.amount {
            DeviceAmount::Count(count) => (*count as usize, [].as_slice()),
            DeviceAmount::All => (1, [].as_slice()),
            DeviceAmount::These(ids) => (ids.len(), ids.as_slice()),
        };
        if self.capabilities.iter().chain(ids).map(String::as_str).chain([kind]).any(|text| !is_word(text)) {
            let words = "up to 64 letters, digits and ._-";
            return Some(format!("kinds, ids and capabilities of devices consist of {words}"));
        }
        if !(1..=MAX_OF_A_KIND).contains(&asked) || self.capabilities.len() > MAX_OF_A_KIND {
            return Some(format!("{kind}: the number must be between 1 and {MAX_OF_A_KIND}, not {asked}"));
        }
        let twice = (1..ids.len()).find(|index| ids[..*index].contains(&ids[*index]));
        twice.map(|index| format!("{kind} {} is requested twice", ids[index]))
    }
}

/// Which of a host's devices of a kind a container gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceAmount {
    /// This many free devices.
    Count(u32),
    /// All devices of the host; it must have at least one.
    All,
    /// These devices, by id or by their position in the host's list, from 0.
    These(Vec<String>),
}

impl DeviceAmount {
    /// Picks devices from those of a host; `None` if too few are free.
    pub fn choose(&self, on_host: &[String], is_free: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        let free = || on_host.iter().filter(|id| is_free(id)).cloned();
        match self {
            DeviceAmount::Count(count) => {
                let chosen: Vec<String> = free().take(*count as usize).collect();
                (chosen.len() == *count as usize).then_some(chosen)
            }
            DeviceAmount::All => {
                let chosen: Vec<String> = free().collect();
                (!chosen.is_empty() && chosen.len() == on_host.len()).then_some(chosen)
            }
            DeviceAmount::These(wanted) => {
                let named = |wanted: &String| {
                    let by_place = || on_host.get(wanted.parse::<usize>().ok()?);
                    on_host.iter().find(|id| *id == wanted).or_else(by_place).filter(|id| is_free(id)).cloned()
                };
                wanted.iter().map(named).collect()
            }
        }
    }
}

impl std::fmt::Display for DeviceAmount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceAmount::Count(count) => write!(f, "{count}"),
            DeviceAmount::All => f.write_str("all that a host has"),
            DeviceAmount::These(ids) => f.write_str(&ids.join(" and ")),
        }
    }
}

/// A device reserved for one container of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BoundDevice {
    /// The container.
    #[schema(value_type = String)]
    pub part: Part,
    /// The kind of the device.
    pub kind: String,
    /// The device's id on its host.
    pub id: String,
}

impl BoundDevice {
    /// The key under which the device is booked on the host.
    pub fn booking(&self) -> (String, String) {
        (self.kind.clone(), self.id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_chosen_in_the_order_of_the_host() {
        let on_host = ["GPU-c", "GPU-a", "GPU-b"].map(str::to_owned);
        let chosen = |amount: DeviceAmount, taken: &str| amount.choose(&on_host, |id| id != taken);
        let these = |ids: &[&str]| DeviceAmount::These(ids.iter().map(|id| (*id).to_owned()).collect());
        let ids = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        assert_eq!(chosen(DeviceAmount::Count(2), "GPU-c"), ids(&["GPU-a", "GPU-b"]));
        assert_eq!(chosen(DeviceAmount::Count(3), "GPU-c"), None);
        assert_eq!(chosen(DeviceAmount::All, ""), ids(&["GPU-c", "GPU-a", "GPU-b"]));
        assert_eq!(chosen(DeviceAmount::All, "GPU-a"), None);
        assert_eq!(chosen(these(&["0", "GPU-b"]), ""), ids(&["GPU-c", "GPU-b"]));
        assert_eq!(chosen(these(&["1"]), "GPU-a"), None);
        assert_eq!(chosen(these(&["3"]), ""), None);
        let violation = |amount, kind: &str| DeviceRequest { amount, capabilities: Vec::new() }.violation(kind);
        assert_eq!(violation(DeviceAmount::Count(1), GPU), None);
        for (amount, kind, part) in [
            (DeviceAmount::Count(0), GPU, "not 0"),
            (DeviceAmount::All, "a b", "letters"),
            (these(&["a", "a"]), GPU, "gpu a is requested twice"),
            (these(&["a\n"]), GPU, "letters"),
        ] {
            let reason = violation(amount, kind).expect("it is refused");
            assert!(reason.contains(part), "{reason}");
        }
        assert_eq!(DeviceAmount::All.choose(&[], |_| true), None, "a host without any has not all of them");
    }
}
