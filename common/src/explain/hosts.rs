//! What happens to hosts and on them.

use crate::api::Fate;

/// What becomes of an instance whose host is emptied.
pub fn fate(fate: &Fate) -> String {
    match fate {
        Fate::Moves { to } => format!("→ {to}"),
        Fate::EndsHere => "ends here; its service goes on on the other hosts".to_owned(),
        Fate::Ends => "ends; nothing takes its place now".to_owned(),
        Fate::Stays { why } => format!("until the deadline: {}", why.join("; ")),
    }
}
