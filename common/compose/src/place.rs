//! Positions in files, and findings about them.

use std::{cell::RefCell, fmt, sync::Arc};

/// The maximum number of findings of a kind, because people do not read more at once.
const MAX_FINDINGS: usize = 200;

/// A position in a compose file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The name of the file in messages.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1, in characters.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A problem, warning or note about a place in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The place; absent if something is missing altogether.
    pub place: Option<Place>,
    /// The path of the value, such as `services.web.ports[0]`; empty for a file as a whole.
    pub path: String,
    /// The message, one sentence.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

/// The findings so far. Problems refuse the files; warnings and notes do not.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    problems: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
    notes: RefCell<Vec<Finding>>,
}

impl Findings {
    pub(crate) fn problem(&self, place: Option<&Place>, path: &str, reason: impl fmt::Display) {
        push(&self.problems, place, path, reason);
    }

    pub(crate) fn warn(&self, place: Option<&Place>, path: &str, reason: impl fmt::Display) {
        push(&self.warnings, place, path, reason);
    }

    pub(crate) fn note(&self, place: Option<&Place>, path: &str, reason: impl fmt::Display) {
        push(&self.notes, place, path, reason);
    }

    pub(crate) fn is_refused(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    /// Takes the problems, warnings and notes.
    pub(crate) fn taken(&self) -> (Vec<Finding>, Vec<Finding>, Vec<Finding>) {
        (self.problems.borrow().clone(), self.warnings.borrow().clone(), self.notes.borrow().clone())
    }
}

fn push(list: &RefCell<Vec<Finding>>, place: Option<&Place>, path: &str, reason: impl fmt::Display) {
    let finding = Finding { place: place.cloned(), path: path.to_owned(), reason: reason.to_string() };
    let mut list = list.borrow_mut();
    // A base of two services is read twice, but its problems should be reported once.
    if list.len() < MAX_FINDINGS && !list.contains(&finding) {
        list.push(finding);
    }
}
