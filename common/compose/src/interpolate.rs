//! Interpolation: `${VARIABLE}` in every value of a file, as in the compose specification.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    MAX_TEXT,
    node::{Form, Node, Value},
    place::Findings,
};

/// Longest text after interpolation, in bytes.
const LONGEST: usize = 1 << 20;
/// Deepest nesting of defaults.
const MAX_NESTED: usize = 16;

/// What replaces the variables in the values of files.
pub(crate) struct Interpolation<'a> {
    pub(crate) variables: &'a BTreeMap<String, String>,
    /// How many bytes have come of it, in all files together.
    pub(crate) written: &'a Cell<usize>,
    pub(crate) findings: &'a Findings,
}

impl Interpolation<'_> {
    /// Replaces the variables in every value below `node`; keys are taken as they are.
    pub(crate) fn apply(&self, node: &mut Node, path: &str) {
        match &mut node.value {
            Value::Scalar(scalar) if scalar.text.contains('$') => {
                let mut unset = BTreeSet::new();
                match self.expanded(&scalar.text, &mut unset) {
                    Ok(expanded) => {
                        scalar.text = expanded;
                        scalar.form = Form::Text;
                    }
                    Err(reason) => self.findings.problem(Some(&node.place), path, reason),
                }
                for name in unset {
                    self.findings.warn(Some(&node.place), path, not_set(&name));
                }
            }
            Value::Scalar(_) => {}
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.apply(item, &format!("{path}[{index}]"));
                }
            }
            Value::Map(map) => {
                for entry in &mut map.entries {
                    let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                    self.apply(&mut entry.node, &path);
                }
            }
        }
    }

    fn expanded(&self, text: &str, unset: &mut BTreeSet<String>) -> Result<String, String> {
        let too_much = || format!("the files have more than {MAX_TEXT} bytes with their variables replaced");
        if self.written.get() > MAX_TEXT {
            return Err(too_much());
        }
        let expanded = expand(text, self.variables, unset)?;
        self.written.set(self.written.get().saturating_add(expanded.len()));
        if self.written.get() > MAX_TEXT { Err(too_much()) } else { Ok(expanded) }
    }
}

/// The warning about a variable that is used but not set.
pub(crate) fn not_set(name: &str) -> String {
    format!("the variable {name} is not set, so it is empty here")
}

/// Expands `$X`, `${X}`, `${X:-default}`, `${X-default}`, `${X:?error}`, `${X?error}`, `${X:+other}`, `${X+other}` and
/// `$$`; any other `$` stays. Inserted values are not expanded again. Variables without a value and default are added
/// to `unset`. Errors never show the text, because it may be a secret.
pub(crate) fn expand(
    text: &str,
    variables: &BTreeMap<String, String>,
    unset: &mut BTreeSet<String>,
) -> Result<String, String> {
    Expansion { variables, unset }.text(text, 0)
}

/// How the files use a variable.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct VariableUse {
    /// Whether the files are refused without it.
    pub required: bool,
    /// The value used if it is not set: the first default in the files.
    pub default: Option<String>,
}

/// Adds the variables that the values below a node use.
pub(crate) fn used(node: &Node, found: &mut BTreeMap<String, VariableUse>) {
    match &node.value {
        Value::Scalar(scalar) => used_in(&scalar.text, 0, found),
        Value::List(items) => items.iter().for_each(|item| used(item, found)),
        Value::Map(map) => map.entries().iter().for_each(|entry| used(&entry.node, found)),
    }
}

fn used_in(text: &str, depth: usize, found: &mut BTreeMap<String, VariableUse>) {
    let mut rest = text;
    while let Some(at) = rest.find('$').filter(|_| depth <= MAX_NESTED) {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            // Nothing is made of a text with a brace that is not closed.
            let Some(end) = closing_brace(after) else { return };
            let (name, operator) = after[..end].split_at(name_length(&after[..end]));
            let operator = operator.strip_prefix(':').unwrap_or(operator);
            let variable = found.entry(name.to_owned()).or_default();
            match operator.chars().next() {
                Some('-') if variable.default.is_none() => variable.default = Some(operator[1..].to_owned()),
                Some('?') => variable.required = true,
                _ => {}
            }
            used_in(operator.get(1..).unwrap_or_default(), depth + 1, found);
            rest = &after[end + 1..];
        } else {
            let length = name_length(rest);
            if length > 0 {
                found.entry(rest[..length].to_owned()).or_default();
            }
            rest = &rest[length..];
        }
    }
}

struct Expansion<'a> {
    variables: &'a BTreeMap<String, String>,
    unset: &'a mut BTreeSet<String>,
}

impl Expansion<'_> {
    fn text(&mut self, text: &str, depth: usize) -> Result<String, String> {
        if depth > MAX_NESTED {
            return Err(format!("defaults are nested deeper than {MAX_NESTED} levels"));
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let end = closing_brace(after).ok_or("a ${ is not closed by a }; write $$ for the character $")?;
                out.push_str(&self.braced(&after[..end], depth)?);
                rest = &after[end + 1..];
            } else {
                let length = name_length(rest);
                if length == 0 {
                    out.push('$');
                } else {
                    out.push_str(&self.value(&rest[..length]));
                }
                rest = &rest[length..];
            }
            if out.len() > LONGEST {
                return Err(format!("it grows beyond {LONGEST} bytes"));
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&mut self, name: &str) -> String {
        self.variables.get(name).cloned().unwrap_or_else(|| {
            self.unset.insert(name.to_owned());
            String::new()
        })
    }

    fn braced(&mut self, inside: &str, depth: usize) -> Result<String, String> {
        let (name, operator) = inside.split_at(name_length(inside));
        if name.is_empty() {
            return Err("a ${ is not followed by the name of a variable; write $$ for the character $".to_owned());
        }
        let (empty_counts, operator) = match operator.strip_prefix(':') {
            Some(operator) => (false, operator),
            None => (true, operator),
        };
        let value = self.variables.get(name).filter(|value| empty_counts || !value.is_empty()).cloned();
        let Some(kind) = operator.chars().next() else {
            return if empty_counts { Ok(self.value(name)) } else { Err(format!("${{{name}: ends too early")) };
        };
        let word = &operator[kind.len_utf8()..];
        match (kind, value) {
            ('-' | '?', Some(value)) => Ok(value),
            ('-', None) | ('+', Some(_)) => self.text(word, depth + 1),
            ('?', None) if word.is_empty() => Err(format!("the variable {name} is not set")),
            ('?', None) => Err(format!("the variable {name} is not set: {}", self.text(word, depth + 1)?)),
            ('+', None) => Ok(String::new()),
            _ => Err(format!(
                "${{{name} is followed by {kind:?}; there are :- and - for a default, :? and ? for what must be set, \
                 :+ and + for another value"
            )),
        }
    }
}

fn name_length(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// The position of the closing brace. Further braces count only after a `$`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut before = ' ';
    for (at, character) in text.char_indices() {
        match character {
            '{' if before == '$' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        // The second `$` of a pair is a normal character.
        before = if before == '$' && character == '$' { ' ' } else { character };
    }
    None
}

#[cfg(test)]
mod tests;
