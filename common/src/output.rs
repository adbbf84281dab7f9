//! The last lines of a program's output, stored with its failure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The maximum number of lines.
pub const MOST_LINES: usize = 20;
/// The maximum size of all lines together.
const MOST_BYTES: usize = 4 << 10;

/// The last lines of a program's output: at most [`MOST_LINES`] and 4 KiB, without control characters, so that they can
/// be stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct LastLines(Vec<String>);

impl LastLines {
    /// The end of a program's output. A line that is too long loses its beginning.
    pub fn of(output: &[u8]) -> LastLines {
        // Cut before decoding: a program may print one endless line.
        let cut = output.len().saturating_sub(MOST_BYTES);
        let text = String::from_utf8_lossy(&output[cut..]);
        let mut lines: Vec<String> = text.lines().map(harmless).filter(|line| !line.trim().is_empty()).collect();
        let mut room = MOST_BYTES;
        let fits = |line: &&String| {
            let fits = line.len() <= room;
            room = room.saturating_sub(line.len());
            fits
        };
        let kept = lines.iter().rev().take(MOST_LINES).take_while(fits).count();
        lines.drain(..lines.len() - kept);
        LastLines(lines)
    }

    /// The lines, the oldest first.
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// Whether no line was kept.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Makes a line safe for terminals: removes ECMA-48 sequences and replaces other control characters.
fn harmless(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line.trim_end().chars();
    while let Some(next) = rest.next() {
        match next {
            '\u{1b}' if rest.as_str().starts_with('[') => {
                // A sequence ends with the first byte from `@` to `~` after the bracket.
                rest.next();
                let _ = rest.find(|c| ('@'..='~').contains(c));
            }
            '\t' => shown.push(' '),
            control if control.is_control() => shown.push('\u{fffd}'),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_few_short_and_harmless() {
        let many: String = (1..=30).map(|number| format!("line {number}\n")).collect();
        let long = "x".repeat(10_000);
        let cases: [(&str, &[&str]); 7] = [
            ("", &[]),
            ("one\n\ntwo\r\nthree", &["one", "two", "three"]),
            ("\u{1b}[1;31mFATAL\u{1b}[0m no\tdatabase\n", &["FATAL no database"]),
            ("a\u{7}b\u{1b}]0;title\u{7}c", &["a\u{fffd}b\u{fffd}]0;title\u{fffd}c"]),
            ("\u{1b}[", &[]),
            (&many, &["line 11", "line 30"]),
            (&long, &[&long[..MOST_BYTES]]),
        ];
        for (output, expected) in cases {
            let kept = LastLines::of(output.as_bytes());
            let lines = kept.lines();
            assert!(lines.len() <= MOST_LINES && lines.iter().map(String::len).sum::<usize>() <= MOST_BYTES);
            let ends = [lines.first(), lines.last()].map(|line| line.map(String::as_str));
            assert_eq!(ends, [expected.first().copied(), expected.last().copied()], "{output:.40}");
        }
        assert_eq!(LastLines::of(b"bad \xff\xfe bytes").lines(), ["bad \u{fffd}\u{fffd} bytes"]);
        let wide = LastLines::of("\u{1}".repeat(4000).as_bytes());
        assert!(wide.is_empty(), "what grows beyond the limit is left out: {wide:?}");
    }
}
