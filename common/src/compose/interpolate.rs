//! `${VARIABLE}` in every text of a file, as the compose specification describes it.

use std::collections::BTreeMap;

use serde_norway::Value;

/// Longest text after interpolation, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// Replaces variables in every text value; `complain` gets the place and the reason of each failure.
pub(super) fn interpolate(
    value: &mut Value,
    variables: &BTreeMap<String, String>,
    complain: &mut impl FnMut(&str, String),
) {
    walk(value, "", variables, complain);
}

fn walk(value: &mut Value, path: &str, variables: &BTreeMap<String, String>, complain: &mut impl FnMut(&str, String)) {
    match value {
        Value::String(text) if text.contains('$') => match expand(text, variables, 0) {
            Ok(expanded) => *text = expanded,
            Err(reason) => complain(path, reason),
        },
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, &format!("{path}[{index}]"), variables, complain);
            }
        }
        Value::Mapping(map) => {
            for (key, item) in map.iter_mut() {
                let key = key.as_str().unwrap_or("?");
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                walk(item, &path, variables, complain);
            }
        }
        Value::Tagged(tagged) => walk(&mut tagged.value, path, variables, complain),
        _ => {}
    }
}

/// Expands `$X`, `${X}`, `${X:-default}`, `${X-default}`, `${X:?error}`, `${X?error}`,
/// `${X:+other}`, `${X+other}` and `$$`. Values that come in are not expanded again.
pub(super) fn expand(text: &str, variables: &BTreeMap<String, String>, depth: usize) -> Result<String, String> {
    if depth > 16 {
        return Err("defaults are nested deeper than 16 levels".to_owned());
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
            let end = closing_brace(after).ok_or_else(|| format!("{text:?} has a ${{ without its }}"))?;
            out.push_str(&braced(&after[..end], variables, depth)?);
            rest = &after[end + 1..];
        } else {
            let length = name_length(rest);
            if length == 0 {
                return Err(format!("{text:?} has a single $; write $$ for the character itself"));
            }
            out.push_str(variables.get(&rest[..length]).map_or("", String::as_str));
            rest = &rest[length..];
        }
        if out.len() > MAX_TEXT {
            return Err(format!("it grows beyond {MAX_TEXT} bytes"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn braced(inside: &str, variables: &BTreeMap<String, String>, depth: usize) -> Result<String, String> {
    let (name, operator) = inside.split_at(name_length(inside));
    if name.is_empty() {
        return Err(format!("${{{inside}}} names no variable"));
    }
    let (empty_counts, operator) = match operator.strip_prefix(':') {
        Some(operator) => (false, operator),
        None => (true, operator),
    };
    let value = variables.get(name).filter(|value| empty_counts || !value.is_empty());
    let Some(kind) = operator.chars().next() else {
        return if empty_counts {
            Ok(variables.get(name).cloned().unwrap_or_default())
        } else {
            Err(format!("${{{inside}}} ends too early"))
        };
    };
    let word = &operator[kind.len_utf8()..];
    match (kind, value) {
        ('-' | '?', Some(value)) => Ok(value.clone()),
        ('-', None) | ('+', Some(_)) => expand(word, variables, depth + 1),
        ('?', None) if word.is_empty() => Err(format!("the variable {name} is not set")),
        ('?', None) => Err(format!("the variable {name} is not set: {word}")),
        ('+', None) => Ok(String::new()),
        _ => Err(format!("${{{inside}}} is not a form of interpolation")),
    }
}

fn name_length(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// The place of the brace that closes the one just opened.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}
