//! Where something was written, and what was found there.

use std::{cell::RefCell, fmt, sync::Arc};

/// Most findings of a kind that are kept: nobody reads more at a time.
const MAX_FINDINGS: usize = 200;

/// A position in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as problems call it.
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

/// Something worth saying about a place of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it was written; absent if it is about what is missing everywhere.
    pub place: Option<Place>,
    /// The path of the value, such as `services.web.ports[0]`; empty for a file as a whole.
    pub path: String,
    /// What there is to say.
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

/// What was found so far: a problem refuses the files, a warning or a note does not.
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

    /// The problems, the warnings and the notes so far.
    pub(crate) fn taken(&self) -> (Vec<Finding>, Vec<Finding>, Vec<Finding>) {
        (self.problems.borrow().clone(), self.warnings.borrow().clone(), self.notes.borrow().clone())
    }
}

fn push(list: &RefCell<Vec<Finding>>, place: Option<&Place>, path: &str, reason: impl fmt::Display) {
    let finding = Finding { place: place.cloned(), path: path.to_owned(), reason: reason.to_string() };
    let mut list = list.borrow_mut();
    // A base that two services extend is read twice, and what is wrong with it is said once.
    if list.len() < MAX_FINDINGS && !list.contains(&finding) {
        list.push(finding);
    }
}
