//! The table as Markdown: a summary for the README, and all of it for the documentation.

use std::fmt::Write;

use super::{Below, Does, Key, OWN, TOP};

/// The maximum width of a line.
const WIDTH: usize = 118;

/// A key with its full path, such as `services.*.deploy.mode`.
struct Row {
    path: String,
    key: Key,
}

fn rows(keys: &[Key], above: &str, found: &mut Vec<Row>) {
    for key in keys {
        let path = format!("{above}{}", key.name);
        found.push(Row { path: path.clone(), key: *key });
        match key.below {
            Below::Anything => {}
            Below::Keys(keys) => rows(keys, &format!("{path}."), found),
            Below::Named(keys) => rows(keys, &format!("{path}.*."), found),
            Below::Items(keys) => rows(keys, &format!("{path}[]."), found),
        }
    }
}

fn all() -> Vec<Row> {
    let mut found = Vec::new();
    rows(TOP, "", &mut found);
    found
}

/// The numbers of supported, refused and ignored keys.
pub fn counts() -> (usize, usize, usize) {
    let all = all();
    let count = |which: fn(Does) -> bool| all.iter().filter(|row| which(row.key.does)).count();
    (
        count(|does| matches!(does, Does::Done | Does::Partly(_))),
        count(|does| matches!(does, Does::Refused(_))),
        count(|does| matches!(does, Does::Warned(_) | Does::Ignored(_))),
    )
}

/// The README's section: supported, refused and ignored keys by name.
pub fn summary() -> String {
    let all = all();
    let of = |above: &str, which: fn(Does) -> bool| -> String {
        let direct = |row: &&Row| {
            row.path.strip_prefix(above).is_some_and(|rest| !rest.contains(['.', '['])) && which(row.key.does)
        };
        all.iter().filter(direct).map(|row| format!("`{}`", row.key.name)).collect::<Vec<_>>().join(" ")
    };
    let is_done: fn(Does) -> bool = |does| matches!(does, Does::Done | Does::Partly(_));
    let is_refused: fn(Does) -> bool = |does| matches!(does, Does::Refused(_));
    let is_left_out: fn(Does) -> bool = |does| matches!(does, Does::Warned(_) | Does::Ignored(_));
    let own = OWN.iter().map(|key| format!("`{}`", key.name)).collect::<Vec<_>>().join(" ");
    let (done, refused, harmless) = counts();
    let paragraphs = [
        format!(
            "Of the {} keys of the specification, {done} are done, {refused} refused with their place and the way out, \
             and {harmless} left out because they change nothing that runs: [docs/compose.md](docs/compose.md) has each. \
             Interpolation, `.env`, several `-f`, `!reset` and `!override` are as in compose.",
            done + refused + harmless
        ),
        format!("**Done** in a service: {}; wharf's own: {own}.", of("services.*.", is_done)),
        format!(
            "**Refused** in a service: {}. **Left out**: {}.",
            of("services.*.", is_refused),
            of("services.*.", is_left_out)
        ),
    ];
    paragraphs.iter().map(|text| wrapped(text)).collect::<Vec<_>>().join("\n")
}

/// The complete table.
pub fn markdown() -> String {
    let mut text = String::from("| key | wharf |\n|---|---|\n");
    for row in all() {
        let does = match row.key.does {
            Does::Done => "done".to_owned(),
            Does::Partly(how) => format!("done: {how}"),
            Does::Refused(why) => format!("**refused**: {why}"),
            Does::Warned(why) => format!("left out with a warning: {why}"),
            Does::Ignored(why) => format!("left out: {why}"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{}` | {does} |", row.path);
    }
    text
}

fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > WIDTH {
            out.push('\n');
            width = 0;
        } else if width > 0 {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += length;
    }
    out.push('\n');
    out
}
