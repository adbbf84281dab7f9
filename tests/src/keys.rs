//! The documents that are generated from the table of compose keys.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const KEYS: &str = "<!-- from the table of keys: scripts/keys writes it -->\n";
const DEFAULTS: &str = "<!-- from the table of defaults: scripts/keys writes it -->\n";
const END: &str = "<!-- end -->";

/// The documents as the table defines them, by their paths.
pub fn documents() -> io::Result<Vec<(PathBuf, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = root.join("README.md");
    let all = root.join("docs/compose.md");
    let summary = with(&fs::read_to_string(&readme)?, KEYS, &compose::keys::summary())?;
    let defaults = with(&fs::read_to_string(&all)?, DEFAULTS, &compose::defaults())?;
    let table = with(&defaults, KEYS, &compose::keys::markdown())?;
    Ok(vec![(readme, summary), (all, table)])
}

/// Replaces the text between a mark and the end mark.
fn with(document: &str, mark: &str, text: &str) -> io::Result<String> {
    let parts = document.split_once(mark).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| io::Error::other(format!("{} is not there", mark.trim())))?;
    Ok(format!("{before}{mark}{text}{END}{after}"))
}
