//! Parses `.env` and the files of `env_file`, as documented for compose.
//!
//! Errors name only the line: its content may be a secret, even where a key should be.

use std::collections::{BTreeMap, BTreeSet};

use crate::{MAX_TEXT, interpolate::expand};

/// The syntax of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Compose's syntax, with quotes, escapes, comments and interpolation.
    #[default]
    Compose,
    /// `format: raw`: the value is everything after the first `=`, unchanged.
    Raw,
}

/// The variables in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// The values. `None` for a name without `=`, which takes its value from the environment.
    pub values: BTreeMap<String, Option<String>>,
    /// Variables that are used but not set, with the line of their first use.
    pub unset: BTreeMap<String, usize>,
}

/// Why a file cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct EnvError {
    /// The line, from 1.
    pub line: usize,
    /// The problem with the line, without its content.
    pub reason: String,
}

/// Parses a file. Its variables can refer to those in `surroundings`, and then to those set further up in the file.
pub fn parse(text: &str, format: Format, surroundings: &BTreeMap<String, String>) -> Result<Variables, EnvError> {
    parse_after(text, format, surroundings, &BTreeMap::new())
}

/// Like [`parse`], for a file that follows others, whose variables have the lowest precedence.
pub fn parse_after(
    text: &str,
    format: Format,
    surroundings: &BTreeMap<String, String>,
    earlier: &BTreeMap<String, String>,
) -> Result<Variables, EnvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut known = earlier.clone();
    known.extend(surroundings.clone());
    let mut reader = Reader { rest: text, line: 1, surroundings, known, written: 0, found: Variables::default() };
    while reader.skip_to_statement() {
        reader.statement(format)?;
    }
    Ok(reader.found)
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    surroundings: &'a BTreeMap<String, String>,
    /// The variables from the environment, and those of the file that the environment does not have.
    known: BTreeMap<String, String>,
    /// How many bytes have come of values.
    written: usize,
    found: Variables,
}

impl<'a> Reader<'a> {
    fn refuse<T>(&self, reason: impl Into<String>) -> Result<T, EnvError> {
        Err(EnvError { line: self.line, reason: reason.into() })
    }

    /// Takes the rest of the line, including its end.
    fn take_line(&mut self) -> &'a str {
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.line += 1;
        self.rest = rest;
        line.strip_suffix('\r').unwrap_or(line)
    }

    /// Skips blank lines and comments; returns whether anything follows.
    fn skip_to_statement(&mut self) -> bool {
        loop {
            let trimmed = self.rest.trim_start();
            self.line += self.rest[..self.rest.len() - trimmed.len()].matches('\n').count();
            self.rest = trimmed;
            if !self.rest.starts_with('#') {
                return !self.rest.is_empty();
            }
            self.take_line();
        }
    }

    fn statement(&mut self, format: Format) -> Result<(), EnvError> {
        let line = self.rest.split('\n').next().unwrap_or_default();
        let start = match line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])) {
            Some(rest) => line.len() - rest.trim_start().len(),
            None => 0,
        };
        let end = line[start..].find(['=', ':']).map(|at| at + start);
        let key = line[start..end.unwrap_or(line.len())].trim_end();
        // A comment may follow a bare name.
        let key = if end.is_none() { key.split(" #").next().unwrap_or(key).trim_end() } else { key };
        if key.is_empty() || !key.chars().all(|c| c.is_alphanumeric() || "_.-[]".contains(c)) {
            return self.refuse("it does not start with the name of a variable (letters, digits and _) followed by =");
        }
        let key = key.to_owned();
        let Some(end) = end else {
            self.take_line();
            self.set(key.clone(), self.surroundings.get(&key).cloned());
            return Ok(());
        };
        self.rest = &self.rest[end + 1..];
        let value = match format {
            Format::Raw => self.take_line().to_owned(),
            Format::Compose => self.value()?,
        };
        self.set(key, Some(value));
        Ok(())
    }

    fn set(&mut self, key: String, value: Option<String>) {
        if let Some(value) = value.as_ref().filter(|_| !self.surroundings.contains_key(&key)) {
            self.known.insert(key.clone(), value.clone());
        }
        self.found.values.insert(key, value);
    }

    fn value(&mut self) -> Result<String, EnvError> {
        let after = self.rest.trim_start_matches([' ', '\t']);
        match after.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                self.rest = &after[1..];
                self.quoted(quote)
            }
            _ => {
                let line = self.line;
                let text = self.take_line();
                // A comment needs a space before the #, so that values can contain the character.
                let text = text.split(" #").next().and_then(|text| text.split("\t#").next()).unwrap_or(text);
                self.expanded(text.trim(), line)
            }
        }
    }

    /// Takes a value up to its closing quote, which may be on a later line.
    fn quoted(&mut self, quote: char) -> Result<String, EnvError> {
        let line = self.line;
        let mut escaped = false;
        let end = self.rest.char_indices().find(|(_, character)| {
            let closes = *character == quote && !escaped;
            escaped = *character == '\\' && !escaped;
            closes
        });
        let Some((end, _)) = end else {
            return self.refuse(format!("the quote {quote} that starts here is not closed"));
        };
        let inside = self.rest[..end].replace("\r\n", "\n");
        self.line += self.rest[..end].matches('\n').count();
        self.rest = &self.rest[end + 1..];
        let here = self.line;
        let after = self.take_line().trim();
        if !(after.is_empty() || after.starts_with('#')) {
            let reason = "only a comment may follow the closing quote";
            return Err(EnvError { line: here, reason: reason.to_owned() });
        }
        match quote {
            '\'' => Ok(inside.replace("\\'", "'")),
            _ => self.expanded(&unescaped(&inside), line),
        }
    }

    fn expanded(&mut self, text: &str, line: usize) -> Result<String, EnvError> {
        let mut unset = BTreeSet::new();
        let refuse = |reason| EnvError { line, reason };
        let expanded = expand(text, &self.known, &mut unset).map_err(refuse)?;
        self.written = self.written.saturating_add(expanded.len());
        if self.written > MAX_TEXT {
            return Err(refuse(format!("the values have more than {MAX_TEXT} bytes with their variables replaced")));
        }
        for name in unset {
            self.found.unset.entry(name).or_insert(line);
        }
        Ok(expanded)
    }
}

/// Replaces the escapes in double quotes. `\$` becomes `$$`, which interpolation turns into `$`.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let escape = if character == '\\' { rest.peek().copied() } else { None };
        let meant = match escape {
            Some('n') => "\n",
            Some('r') => "\r",
            Some('t') => "\t",
            Some('a') => "\u{7}",
            Some('b') => "\u{8}",
            Some('f') => "\u{c}",
            Some('v') => "\u{b}",
            Some('\\') => "\\",
            Some('"') => "\"",
            Some('$') => "$$",
            _ => {
                out.push(character);
                continue;
            }
        };
        out.push_str(meant);
        rest.next();
    }
    out
}

#[cfg(test)]
mod tests;
