//! Every key of the compose specification, and what wharf does with it.
//!
//! This table is the one place that knows: files are checked against it, and the documentation is written from it.
//! Refused is what would change what runs, what it may do or who reaches it, and cannot be done; only what is harmless
//! is left out with a warning, or without one.

mod sections;
mod service;
mod text;

use crate::{field::Field, node::Node};

pub use text::{counts, markdown, summary};

/// What wharf does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// What compose does with it.
    Done,
    /// The same, within limits.
    Partly(&'static str),
    /// Nothing: the file is refused, with the reason and the way out.
    Refused(&'static str),
    /// Nothing, which a warning says: what runs, what it may do and who reaches it is the same.
    Warned(&'static str),
    /// Nothing, and nobody would notice.
    Ignored(&'static str),
}

/// What lies below a key.
#[derive(Debug, Clone, Copy)]
pub enum Below {
    /// A value, or whatever people like.
    Anything,
    /// These keys.
    Keys(&'static [Key]),
    /// A mapping of names that people choose, each with these keys.
    Named(&'static [Key]),
    /// A list of mappings with these keys.
    Items(&'static [Key]),
}

/// A key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What wharf does with it.
    pub does: Does,
    /// What lies below it.
    pub below: Below,
    /// Values by which a key that is refused changes nothing.
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

/// The keys of a file.
pub const TOP: &[Key] = sections::TOP;
/// wharf's own keys of a service.
pub const OWN: &[Key] = service::OWN;

/// What wharf does with a key of a file.
#[derive(Debug, Clone)]
pub struct Use {
    /// The path of the value, such as `services.web.image`.
    pub path: String,
    /// Where it was written.
    pub place: crate::Place,
    /// What is done with it.
    pub does: Does,
}

/// Complains of keys that are not in the table, also of services whose profiles are off.
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
        Some((_, found)) => format!("there is no such key; did you mean {found}?"),
        None => "there is no such key; one that begins with x- may be anything".to_owned(),
    }
}

/// How many letters must be added, taken away or changed to make one word of the other; two that are swapped count one.
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

/// Refuses and warns of what the table says of the keys of a file.
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

/// What wharf does with each key that a file has.
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

/// A service that names an image runs it, wherever it would be built from.
fn beside_image(key: &Key, parent: &Field<'_>) -> Option<&'static str> {
    let names_image = key.name == "build" && parent.get("image").is_some();
    names_image.then_some("images are not built here: the one under image is pulled, so build and push it before")
}

/// Whether a value leaves everything as it is without it.
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
        // What is refused as a whole is not refused again for its parts.
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
