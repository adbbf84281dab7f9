//! Compose files become a [`StackSpec`]: read, interpolated, merged, converted.
//!
//! This is the input format only: it is read on the client, and the spec is what travels. What the
//! platform does not do yet is named in a warning and never dropped in silence. There is no
//! position in a parsed YAML value, so problems name the file and the path in it
//! (`services.web.ports[0]`); line and column come from the YAML parser where it knows them.

mod container;
mod convert;
mod deploy;
mod devices;
mod files;
mod interpolate;
mod merge;
mod networks;
mod node;
mod short;
mod unit;

use std::collections::BTreeMap;

use serde_norway::Value;

use crate::{api::PutFile, name::Name, spec::StackSpec};

/// Largest file, in bytes.
pub const MAX_FILE: usize = 1 << 20;
/// Most values in a file, after aliases are expanded.
pub const MAX_NODES: usize = 200_000;
/// Deepest nesting of values.
pub const MAX_DEPTH: usize = 64;

/// A file as it was read.
#[derive(Debug, Clone)]
pub struct Source {
    /// How problems call it.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// What the files ask for.
#[derive(Debug, Clone)]
pub struct Composed {
    /// The top-level `name`, if there is one.
    pub name: Option<Name>,
    /// The stack.
    pub spec: StackSpec,
    /// The contents of the stack's own configs and secrets.
    pub files: Vec<PutFile>,
    /// What was asked for and is not done, each with its place.
    pub warnings: Vec<String>,
}

/// Why the files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// A file is larger than it may be.
    #[error("{file}: {size} bytes are more than the {MAX_FILE} allowed")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size in bytes.
        size: usize,
    },
    /// A file has more values or deeper nesting than it may have.
    #[error("{file}: {reason}")]
    TooComplex {
        /// The file.
        file: String,
        /// Which limit.
        reason: String,
    },
    /// A file is not YAML.
    #[error("{file}: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says, with line and column.
        reason: String,
    },
    /// Values that cannot be used; all that were found.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

/// What surrounds the files: variables, the directory, and a way to read the files that they name.
pub struct Project<'a, R> {
    /// The variables for interpolation.
    pub variables: &'a BTreeMap<String, String>,
    /// The absolute directory that relative paths start from.
    pub directory: &'a str,
    /// Reads a file named by `env_file` or by a config or secret, or says why it cannot.
    pub read: R,
}

/// Reads compose files, later ones overriding earlier ones.
pub fn compose<R>(files: &[Source], project: Project<'_, R>) -> Result<Composed, ComposeError>
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
    let mut problems = Vec::new();
    let mut merged = Value::Mapping(Default::default());
    for file in files {
        let mut value = parse(file)?;
        interpolate::interpolate(&mut value, project.variables, &mut |path, reason| {
            problems.push(format!("{}: {path}: {reason}", file.name));
        });
        merge::normalise(&mut value);
        merge::merge(&mut merged, value, "");
    }
    if !problems.is_empty() {
        return Err(ComposeError::Invalid(problems));
    }
    let files: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let composed = convert::convert(&merged, &project).map_err(|found| in_file(&files, found))?;
    let violations: Vec<String> = composed.spec.validate().iter().map(ToString::to_string).collect();
    if violations.is_empty() { Ok(composed) } else { Err(in_file(&files, violations)) }
}

fn in_file(files: &[&str], found: Vec<String>) -> ComposeError {
    let files = files.join(", ");
    ComposeError::Invalid(found.into_iter().map(|line| format!("{files}: {line}")).collect())
}

fn parse(file: &Source) -> Result<Value, ComposeError> {
    if file.text.len() > MAX_FILE {
        return Err(ComposeError::TooLarge { file: file.name.clone(), size: file.text.len() });
    }
    let syntax = |reason: String| ComposeError::Syntax { file: file.name.clone(), reason };
    let text = file.text.strip_prefix('\u{feff}').unwrap_or(&file.text);
    let mut value: Value = serde_norway::from_str(text).map_err(|e| syntax(e.to_string()))?;
    let complex = |reason| ComposeError::TooComplex { file: file.name.clone(), reason };
    measure(&value).map_err(complex)?;
    value.apply_merge().map_err(|e| syntax(e.to_string()))?;
    measure(&value).map_err(complex)?;
    match value {
        Value::Mapping(_) => Ok(value),
        Value::Null => Err(syntax("the file is empty".to_owned())),
        _ => Err(syntax("the file must be a mapping with the key services".to_owned())),
    }
}

/// Walks a value and refuses what is too deep or too large.
fn measure(value: &Value) -> Result<(), String> {
    let mut nodes = 0usize;
    let mut open = vec![(value, 0usize)];
    while let Some((value, depth)) = open.pop() {
        nodes += 1;
        if nodes > MAX_NODES {
            return Err(format!("it has more than {MAX_NODES} values once its aliases are expanded"));
        }
        if depth > MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
        }
        match value {
            Value::Sequence(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Mapping(map) => open.extend(map.iter().flat_map(|(k, v)| [(k, depth + 1), (v, depth + 1)])),
            Value::Tagged(tagged) => open.push((&tagged.value, depth + 1)),
            _ => {}
        }
    }
    Ok(())
}

/// Reads a `.env` or `env_file`: `KEY=value` lines, `#` comments, optional quotes and `export`.
pub fn parse_env(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut variables = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (key, value) = line.split_once('=').ok_or_else(|| format!("line {}: {line:?} has no '='", number + 1))?;
        let value = value.trim();
        let quoted = |quote: char| value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote));
        let value = match (quoted('"'), quoted('\'')) {
            (Some(inner), _) => inner.replace("\\n", "\n").replace("\\\"", "\""),
            (_, Some(inner)) => inner.to_owned(),
            _ => value.split(" #").next().unwrap_or(value).trim_end().to_owned(),
        };
        variables.insert(key.trim().to_owned(), value);
    }
    Ok(variables)
}

#[cfg(test)]
mod tests;
