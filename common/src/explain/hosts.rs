//! Sentences about hosts and their instances.

use crate::api::Fate;

/// The effect of draining a host on one of its instances.
pub fn fate(fate: &Fate) -> String {
    match fate {
        Fate::Moves { to } => format!("→ {to}"),
        Fate::EndsHere => "ends here; its service keeps running on the other hosts".to_owned(),
        Fate::Ends => "ends; nothing replaces it now".to_owned(),
        Fate::Stays { why } => format!("until the deadline: {}", why.join("; ")),
    }
}
