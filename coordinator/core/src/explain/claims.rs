//! What a host claims beyond what was accepted of it.

use crate::state::Inventory;

/// Each difference that a person has to accept.
pub fn claims(accepted: &Inventory, waiting: &Inventory) -> Vec<String> {
    let mut all = Vec::new();
    let mut differs = |what: &str, before: &dyn std::fmt::Display, now: &dyn std::fmt::Display| {
        all.push(format!("{what} {now} instead of {before}"));
    };
    if accepted.hostname != waiting.hostname {
        differs("the hostname", &accepted.hostname, &waiting.hostname);
    }
    if accepted.address != waiting.address {
        differs("the address", &accepted.address, &waiting.address);
    }
    if accepted.os != waiting.os {
        differs("the operating system", &accepted.os, &waiting.os);
    }
    if accepted.arch != waiting.arch {
        differs("the architecture", &accepted.arch, &waiting.arch);
    }
    if accepted.cpu < waiting.cpu {
        differs("cores:", &accepted.cpu, &waiting.cpu);
    }
    if accepted.memory < waiting.memory {
        differs("memory:", &accepted.memory, &waiting.memory);
    }
    for (kind, ids) in waiting.devices.iter().flatten() {
        let known = accepted.devices.as_ref().and_then(|devices| devices.get(kind));
        let new = ids.iter().filter(|id| !known.is_some_and(|known| known.contains(id)));
        all.extend(new.map(|id| format!("the device {kind} {id}")));
    }
    all
}
