//! How long a host is believed alive.

use common::{
    api::Settings,
    host::Liveness,
    time::{Span, Timestamp},
};

/// What is believed of a host after `silence`, if that differs from what is `known`.
///
/// `heard` says whether the present leader has heard of it at all: a new leader waits for hosts to
/// come back before it believes anything new of them.
pub fn judge(known: Liveness, heard: bool, silence: Span, settings: &Settings, now: Timestamp) -> Option<Liveness> {
    let next = if known == Liveness::Joining && !heard {
        // What never came is not missed.
        return None;
    } else if silence >= settings.down_after {
        Liveness::Down { since: now }
    } else if silence >= settings.suspect_after {
        match known {
            // What is down stays so until it is heard; what has just joined is not suspected.
            Liveness::Down { .. } | Liveness::Joining => return None,
            _ => Liveness::Suspect { since: now },
        }
    } else if heard {
        Liveness::Ready
    } else {
        return None;
    };
    (next.word() != known.word()).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_makes_suspect_then_down_and_a_beat_makes_ready() {
        let settings = Settings::default();
        let now = Timestamp(1_000_000);
        let word = |known, heard, seconds| {
            judge(known, heard, Span::seconds(seconds), &settings, now).map(|liveness| liveness.word())
        };
        let (since, ready) = (now, Liveness::Ready);
        assert_eq!(word(Liveness::Joining, true, 0), Some("ready"));
        assert_eq!(word(Liveness::Joining, false, 90), None, "a host that never came is not down");
        assert_eq!(word(ready, true, 14), None);
        assert_eq!(word(ready, true, 15), Some("suspect"));
        assert_eq!(word(ready, false, 1), None, "a new leader waits for the host to come back");
        assert_eq!(word(ready, false, 30), Some("down"));
        assert_eq!(word(Liveness::Suspect { since }, true, 31), Some("down"));
        assert_eq!(word(Liveness::Down { since }, false, 16), None);
        assert_eq!(word(Liveness::Down { since }, true, 1), Some("ready"));
    }
}
