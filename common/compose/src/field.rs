//! Values with their paths, and methods that read them and report errors at their places.

use std::fmt::Display;

use crate::{
    node::{Entry, Form, Node, Value},
    place::{Findings, Place},
};

/// A value with its path, its place, and the list to report problems to.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: String,
    place: &'a Place,
    findings: &'a Findings,
}

impl<'a> Field<'a> {
    pub(crate) fn root(node: &'a Node, findings: &'a Findings) -> Field<'a> {
        Field { node, path: String::new(), place: &node.place, findings }
    }

    fn child(&self, entry: &'a Entry) -> Field<'a> {
        let path = if self.path.is_empty() { entry.key.clone() } else { format!("{}.{}", self.path, entry.key) };
        Field { node: &entry.node, path, place: entry.best_place(), findings: self.findings }
    }

    pub(crate) fn place(&self) -> &'a Place {
        self.place
    }

    pub(crate) fn problem(&self, reason: impl Display) {
        self.findings.problem(Some(self.place), &self.path, reason);
    }

    pub(crate) fn warn(&self, reason: impl Display) {
        self.findings.warn(Some(self.place), &self.path, reason);
    }

    pub(crate) fn note(&self, reason: impl Display) {
        self.findings.note(Some(self.place), &self.path, reason);
    }

    /// Adds a warning about this value at another place.
    pub(crate) fn warn_at(&self, place: &Place, reason: impl Display) {
        self.findings.warn(Some(place), &self.path, reason);
    }

    pub(crate) fn expected(&self, what: &str) {
        self.problem(format!("expected {what}, found {}", self.node.kind()));
    }

    /// The value under `key`, unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<Field<'a>> {
        let entry = self.node.as_map()?.entry(key)?;
        (!entry.node.is_null()).then(|| self.child(entry))
    }

    /// The value along a path of keys.
    pub(crate) fn along(&self, keys: &[&str]) -> Option<Field<'a>> {
        keys.iter().try_fold(self.clone(), |field, key| field.get(key))
    }

    /// The entries of a mapping, including those with null values.
    pub(crate) fn entries(&self) -> Vec<(&'a str, Field<'a>)> {
        let Value::Map(map) = &self.node.value else {
            self.expected("a mapping");
            return Vec::new();
        };
        map.entries().iter().map(|entry| (entry.key.as_str(), self.child(entry))).collect()
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Vec<Field<'a>> {
        let Value::List(items) = &self.node.value else {
            self.expected("a list");
            return Vec::new();
        };
        let at = |index: usize| format!("{}[{index}]", self.path);
        let field =
            |(i, node): (usize, &'a Node)| Field { node, path: at(i), place: &node.place, findings: self.findings };
        items.iter().enumerate().map(field).collect()
    }

    /// The entries of the mapping under `key`; none if it is absent.
    pub(crate) fn entries_of(&self, key: &str) -> Vec<(&'a str, Field<'a>)> {
        self.get(key).map(|field| field.entries()).unwrap_or_default()
    }

    /// The items of the list under `key`; none if it is absent.
    pub(crate) fn items_of(&self, key: &str) -> Vec<Field<'a>> {
        self.get(key).map(|field| field.items()).unwrap_or_default()
    }

    /// The texts of the list under `key`.
    pub(crate) fn texts_of(&self, key: &str) -> Vec<String> {
        self.items_of(key).iter().filter_map(Field::text).collect()
    }

    /// The text under `key`.
    pub(crate) fn text_of(&self, key: &str) -> Option<String> {
        self.get(key).and_then(|field| field.text())
    }

    /// The value under `key`, parsed as `T`.
    pub(crate) fn parse_of<T: std::str::FromStr<Err: Display>>(&self, key: &str) -> Option<T> {
        self.get(key).and_then(|field| field.parse())
    }

    /// The whole number under `key`.
    pub(crate) fn number_of<T: TryFrom<i64>>(&self, key: &str) -> Option<T> {
        self.get(key).and_then(|field| field.number())
    }

    /// Whether the value under `key` is true; false if it is absent.
    pub(crate) fn is(&self, key: &str) -> bool {
        self.get(key).and_then(|field| field.boolean()).unwrap_or(false)
    }

    /// The text of a scalar as written, including numbers and booleans.
    pub(crate) fn text(&self) -> Option<String> {
        let text = self.node.as_text().map(str::to_owned);
        if text.is_none() {
            self.expected("text");
        }
        text
    }

    /// The text, parsed as `T`.
    pub(crate) fn parse<T: std::str::FromStr<Err: Display>>(&self) -> Option<T> {
        self.text()?.parse().map_err(|error| self.problem(error)).ok()
    }

    /// A whole number in any YAML spelling, also as text, which interpolation produces.
    pub(crate) fn number<T: TryFrom<i64>>(&self) -> Option<T> {
        let text = self.text()?;
        let number = whole(&text).and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            self.problem(format!("{:?} is not a whole number in the allowed range", cut(&text)));
        }
        number
    }

    /// A boolean, also as text.
    pub(crate) fn boolean(&self) -> Option<bool> {
        let text = self.text()?;
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" | "1" => Some(true),
            "false" | "no" | "n" | "off" | "0" => Some(false),
            _ => {
                self.problem(format!("expected true or false, found {:?}", cut(&text)));
                None
            }
        }
    }

    pub(crate) fn is_mapping(&self) -> bool {
        self.node.as_map().is_some()
    }

    pub(crate) fn is_list(&self) -> bool {
        self.node.as_list().is_some()
    }

    /// Whether YAML reads the value as a number.
    pub(crate) fn is_number(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if scalar.form == Form::Int)
    }

    /// One word of a list.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meant)| *meant);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).filter(|word| !word.is_empty()).collect();
            let (last, others) = known.split_last().unwrap_or((&"nothing", &[]));
            let known = if others.is_empty() { (*last).to_owned() } else { format!("{} or {last}", others.join(", ")) };
            self.problem(format!("{:?} is not supported here: use {known}", cut(&text)));
        }
        found
    }
}

/// A whole number in YAML's and compose's spellings: decimal, `0x1F`, `0o17`, `0b1`.
pub(crate) fn whole(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let radix = |prefix: &str, radix: u32| digits.strip_prefix(prefix).and_then(|d| i64::from_str_radix(d, radix).ok());
    let number = match digits.get(..2) {
        Some("0x") => radix("0x", 16),
        Some("0o") => radix("0o", 8),
        Some("0b") => radix("0b", 2),
        _ => digits.parse().ok().filter(|_| !digits.starts_with(['-', '+'])),
    };
    number.map(|number| number * sign)
}

/// The beginning of a text, for messages.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
