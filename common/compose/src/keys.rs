//! Every key of the compose specification, and what wharf does with it.
//!
//! This table is the only source: files are checked against it, and the documentation is generated from it. wharf
//! refuses keys that would change what runs, what it may do or who reaches it, and that wharf does not support. Only
//! harmless keys are ignored, with or without a warning.

mod sections;
mod service;
mod text;

use crate::{field::Field, node::Node};

pub use text::{counts, markdown, summary};

/// The treatment of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// It supports the key like compose.
    Done,
    /// It supports the key within these limits.
    Partly(&'static str),
    /// It refuses the file, for this reason and with this advice.
    Refused(&'static str),
    /// It ignores the key with a warning, because what runs, what it may do and who reaches it stay the same.
    Warned(&'static str),
    /// It ignores the key silently, because it makes no difference.
    Ignored(&'static str),
}

/// The allowed content below a key.
#[derive(Debug, Clone, Copy)]
pub enum Below {
    /// A value, or any content.
    Anything,
    /// A mapping with these keys.
    Keys(&'static [Key]),
    /// A mapping with freely chosen names, each with a mapping of these keys.
    Named(&'static [Key]),
    /// A list of mappings with these keys.
    Items(&'static [Key]),
}

/// A key and its treatment.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The key as written in files.
    pub name: &'static str,
    /// The treatment of the key itself.
    pub does: Does,
    /// The allowed content below it.
    pub below: Below,
    /// Values that have no effect, with which a refused key is allowed.
    pub unless: &'static [&'static str],
}

impl Key {
    const fn new(name: &'static str, does: Does) -> Key {
        Key { name, does, below: Below::Anything, unless: &[] }
    }

    const fn below(self, below: Below) -> Key {
        Key { below, ..self }
    }

    const fn unless(self, unless: &'static [&'static str]) -> Key {
        Key { unless, ..self }
    }
}

const fn done(name: &'static str) -> Key {
    Key::new(name, Does::Done)
}

const fn partly(name: &'static str, how: &'static str) -> Key {
    Key::new(name, Does::Partly(how))
}

const fn refused(name: &'static str, why: &'static str) -> Key {
    Key::new(name, Does::Refused(why))
}

const fn warned(name: &'static str, why: &'static str) -> Key {
    Key::new(name, Does::Warned(why))
}

const fn ignored(name: &'static str, why: &'static str) -> Key {
    Key::new(name, Does::Ignored(why))
}

/// The top-level keys.
pub const TOP: &[Key] = sections::TOP;
/// wharf's own keys of a service.
pub const OWN: &[Key] = service::OWN;

/// A key in a file and its treatment.
#[derive(Debug, Clone)]
pub struct Use {
    /// The path of the value, such as `services.web.image`.
    pub path: String,
    /// The place of the value.
    pub place: crate::Place,
    /// The treatment of the key.
    pub does: Does,
}

/// Reports keys that are not in the table, also in services whose profiles are not enabled.
pub(crate) fn check_names(root: &Field<'_>) {
    names(root, TOP);
}

fn names(field: &Field<'_>, keys: &'static [Key]) {
    if !field.is_mapping() {
        return;
    }
    for (name, value) in field.entries() {
        if name.starts_with("x-") {
            continue;
        }
        match keys.iter().find(|key| key.name == name) {
            None => value.problem(unknown(name, keys)),
            Some(key) => below(&value, key, &names),
        }
    }
}

/// Applies `to` to each mapping below a key.
fn below(value: &Field<'_>, key: &Key, to: &dyn Fn(&Field<'_>, &'static [Key])) {
    match key.below {
        Below::Anything => {}
        Below::Keys(keys) => to(value, keys),
        Below::Named(keys) if value.is_mapping() => value.entries().iter().for_each(|(_, value)| to(value, keys)),
        Below::Items(keys) if value.is_list() => value.items().iter().for_each(|value| to(value, keys)),
        Below::Named(_) | Below::Items(_) => {}
    }
}

fn unknown(name: &str, keys: &[Key]) -> String {
    let mut near: Vec<(usize, &str)> = keys.iter().map(|key| (distance(name, key.name), key.name)).collect();
    near.sort_unstable();
    match near.first().filter(|(distance, found)| *distance <= 1 + found.len() / 4) {
        Some((_, found)) => format!("this key does not exist; did you mean {found}?"),
        None => "this key does not exist; only keys that start with x- are free".to_owned(),
    }
}

/// The number of letters to add, remove or change to turn one word into the other. Swapping two neighbours counts as
/// one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(40).collect(), b.chars().take(40).collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let changed = rows[i][j] + usize::from(x != y);
            let mut least = changed.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// Reports refused keys, and ignored keys with a warning.
pub(crate) fn check_uses(root: &Field<'_>) {
    walk(root, TOP, &mut |field, key, parent| match key.does {
        Does::Refused(why) if !is_nothing(field.node, key) => match beside_image(key, parent) {
            Some(why) => field.warn(why),
            None => field.problem(why),
        },
        Does::Warned(why) if !is_nothing(field.node, key) => field.warn(why),
        _ => {}
    });
}

/// Lists each key in a file and its treatment.
pub(crate) fn uses(root: &Field<'_>) -> Vec<Use> {
    let mut found = Vec::new();
    walk(root, TOP, &mut |field, key, parent| {
        let does = match (key.does, beside_image(key, parent)) {
            (Does::Refused(_), Some(why)) => Does::Warned(why),
            (Does::Refused(_), None) if is_nothing(field.node, key) => Does::Ignored("it is off"),
            (does, _) => does,
        };
        found.push(Use { path: field.path.clone(), place: field.place().clone(), does });
    });
    found
}

/// A service with an image runs that image, even if it also has `build`.
fn beside_image(key: &Key, parent: &Field<'_>) -> Option<&'static str> {
    let names_image = key.name == "build" && parent.get("image").is_some();
    names_image.then_some("wharf does not build images: it pulls the one under image, so build and push that first")
}

/// Whether a value has the same effect as none.
fn is_nothing(node: &Node, key: &Key) -> bool {
    match node.as_text() {
        Some(text) => text == "false" || text.is_empty() || key.unless.contains(&text),
        None => {
            node.is_null()
                || node.as_list().is_some_and(<[Node]>::is_empty)
                || node.as_map().is_some_and(|map| map.entries().is_empty())
        }
    }
}

fn walk(field: &Field<'_>, keys: &'static [Key], visit: &mut dyn FnMut(&Field<'_>, &Key, &Field<'_>)) {
    if !field.is_mapping() {
        return;
    }
    for (name, value) in field.entries() {
        let Some(key) = keys.iter().find(|key| key.name == name) else { continue };
        visit(&value, key, field);
        // The parts of a refused key are not reported again.
        if matches!(key.does, Does::Refused(_)) {
            continue;
        }
        match key.below {
            Below::Anything => {}
            Below::Keys(keys) => walk(&value, keys, visit),
            Below::Named(keys) if value.is_mapping() => {
                value.entries().iter().for_each(|(_, value)| walk(value, keys, visit));
            }
            Below::Items(keys) if value.is_list() => value.items().iter().for_each(|value| walk(value, keys, visit)),
            Below::Named(_) | Below::Items(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
