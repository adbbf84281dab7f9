//! A YAML value together with its place, and the readings that complain with that place.

use std::cell::RefCell;

use serde_norway::Value;

/// What was found while reading: problems end it, warnings do not.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) problems: RefCell<Vec<String>>,
    pub(super) warnings: RefCell<Vec<String>>,
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
    findings: &'a Findings,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value, findings: &'a Findings) -> Node<'a> {
        Node { value, path: String::new(), findings }
    }

    fn child(&self, key: &str, value: &'a Value) -> Node<'a> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Node { value, path, findings: self.findings }
    }

    pub(super) fn problem(&self, reason: impl std::fmt::Display) {
        self.findings.problems.borrow_mut().push(format!("{}: {reason}", self.path));
    }

    pub(super) fn warn(&self, reason: impl std::fmt::Display) {
        self.findings.warnings.borrow_mut().push(format!("{}: {reason}", self.path));
    }

    fn expected(&self, what: &str) {
        let found = match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
            Value::Tagged(_) => "a tagged value",
        };
        self.problem(format!("expected {what}, found {found}"));
    }

    /// The value under `key`, unless it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<Node<'a>> {
        let value = self.value.as_mapping()?.get(key)?;
        (!value.is_null()).then(|| self.child(key, value))
    }

    /// The entries of a mapping.
    pub(super) fn entries(&self) -> Vec<(String, Node<'a>)> {
        let Some(map) = self.value.as_mapping() else {
            self.expected("a mapping");
            return Vec::new();
        };
        let key_text = |key: &Value| match key {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(value) => Some(value.to_string()),
            _ => None,
        };
        map.iter()
            .filter_map(|(key, value)| {
                let key = key_text(key).or_else(|| {
                    self.problem("a key must be text");
                    None
                })?;
                let node = self.child(&key, value);
                Some((key, node))
            })
            .collect()
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Vec<Node<'a>> {
        let Value::Sequence(items) = self.value else {
            self.expected("a list");
            return Vec::new();
        };
        let at = |index: usize| format!("{}[{index}]", self.path);
        items.iter().enumerate().map(|(i, value)| Node { value, path: at(i), findings: self.findings }).collect()
    }

    /// Text; numbers and booleans are taken as they are written.
    pub(super) fn text(&self) -> Option<String> {
        match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(value) => Some(value.to_string()),
            _ => {
                self.expected("text");
                None
            }
        }
    }

    /// Text in a form that `T` reads.
    pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self) -> Option<T> {
        self.text()?.parse().map_err(|e| self.problem(e)).ok()
    }

    /// A whole number, also written as text (as it is after interpolation).
    pub(super) fn number<T: TryFrom<u64>>(&self) -> Option<T> {
        let text = self.text()?;
        let number = text.parse::<u64>().ok().and_then(|n| T::try_from(n).ok());
        if number.is_none() {
            self.problem(format!("{text:?} is not a whole number in the allowed range"));
        }
        number
    }

    /// True or false, also written as text.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.text()?.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            other => {
                self.problem(format!("expected true or false, found {other:?}"));
                None
            }
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self) -> Vec<String> {
        self.items().iter().filter_map(Node::text).collect()
    }

    /// Warns of every key that is not in `known`.
    pub(super) fn warn_unknown(&self, known: &[&str]) {
        for (key, node) in self.entries() {
            if !known.contains(&key.as_str()) && !key.starts_with("x-") {
                node.warn("this key is not supported yet and has no effect");
            }
        }
    }

    pub(super) fn is_mapping(&self) -> bool {
        self.value.is_mapping()
    }

    pub(super) fn is_list(&self) -> bool {
        self.value.is_sequence()
    }
}
