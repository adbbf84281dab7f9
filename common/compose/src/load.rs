//! Turns files into one document: reads, interpolates, extends, includes and merges them.

mod extends;
mod include;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    ComposeError, MAX_FILES, MAX_NODES, ReadError, Source,
    interpolate::{Interpolation, expand},
    merge::{self, Merge, Tags},
    node::{Map, Node, Value},
    normal, paths,
    place::{Findings, Place},
    yaml,
};

/// A function that reads a file by its absolute path.
pub(crate) type Read<'a> = &'a dyn Fn(&str) -> Result<Vec<u8>, ReadError>;

/// Reads files and remembers the parsed ones.
pub(crate) struct Loader<'a> {
    read: Read<'a>,
    findings: &'a Findings,
    files: Cell<usize>,
    nodes: Cell<usize>,
    /// The bytes that have come of values with variables.
    written: Cell<usize>,
    /// The services of files that others extend, by the file's path.
    bases: RefCell<BTreeMap<String, Option<Map>>>,
    /// The variables from env files of included projects.
    pub(crate) from_included: RefCell<BTreeMap<String, String>>,
}

/// The environment of a set of files that are merged with each other.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// The base directory of relative paths.
    pub(crate) directory: String,
    /// The variables for interpolation.
    pub(crate) variables: BTreeMap<String, String>,
    /// The files being read, outermost first; including one of them again is a cycle.
    pub(crate) within: Vec<String>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(read: Read<'a>, findings: &'a Findings) -> Loader<'a> {
        Loader {
            read,
            findings,
            files: Cell::new(0),
            nodes: Cell::new(0),
            written: Cell::new(0),
            bases: RefCell::default(),
            from_included: RefCell::default(),
        }
    }

    /// Merges the files; later files override earlier ones.
    pub(crate) fn model(&self, sources: &[Source], around: &Surroundings) -> Result<Node, ComposeError> {
        let mut merged: Option<Node> = None;
        for source in sources {
            let name: Arc<str> = source.name.as_str().into();
            let documents = yaml::documents(&name, &source.text)?;
            if documents.is_empty() {
                let place = Place { file: name, line: 1, column: 1 };
                return Err(ComposeError::Syntax { place, reason: "the file is empty".to_owned() });
            }
            for document in documents {
                let mut file = self.prepared(document, &around.directory, &around.variables)?;
                self.extend(&mut file, &source.name, around);
                self.include(&mut file, around)?;
                let base = merged.get_or_insert_with(|| Node::new(Value::Map(Map::default()), file.place.clone()));
                Merge { tags: Tags::Spent, findings: self.findings }.lay(base, file, &[]);
                merge::unique(base, self.findings);
                self.measure(base)?;
            }
        }
        let mut merged = merged.unwrap_or_else(|| Node::null(Place { file: "".into(), line: 1, column: 1 }));
        inherit(&mut merged, &around.variables);
        Ok(merged)
    }

    /// A document in its long form, with variables replaced and absolute paths.
    fn prepared(
        &self,
        mut document: Node,
        directory: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<Node, ComposeError> {
        if document.as_map().is_none() {
            let reason = format!("expected a mapping with the key services, found {}", document.kind());
            return Err(ComposeError::Syntax { place: document.place, reason });
        }
        Interpolation { variables, written: &self.written, findings: self.findings }.apply(&mut document, "");
        normal::normalise(&mut document, self.findings);
        paths::resolve(&mut document, directory, variables);
        Ok(document)
    }

    /// Reads a compose file that another one refers to.
    fn source(&self, path: &str, around: &Surroundings) -> Result<Source, String> {
        let bytes = self.bytes(path).map_err(|error| error.to_string())?;
        let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        Ok(Source { name: shown(path, &around.directory), text })
    }

    /// Reads any file, and counts files against the limit.
    fn bytes(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        self.files.set(self.files.get() + 1);
        if self.files.get() > MAX_FILES {
            return Err(ReadError::Failed(format!("more than {MAX_FILES} files are named")));
        }
        (self.read)(path)
    }

    /// Checks the number of values after merging.
    fn measure(&self, node: &Node) -> Result<(), ComposeError> {
        let size = size(node);
        self.nodes.set(size);
        if size > MAX_NODES {
            let reason = format!("the files have more than {MAX_NODES} values once they are merged");
            return Err(ComposeError::TooComplex { place: node.place.clone(), reason });
        }
        Ok(())
    }
}

/// The name of the project as the files state it, else the name of the folder. It is needed before interpolation.
pub(crate) fn project_name(sources: &[Source], project: &crate::Project<'_>) -> String {
    let documents = |source: &Source| yaml::documents(&"".into(), &source.text).unwrap_or_default();
    let names = sources.iter().flat_map(documents).filter_map(|file| file.get("name")?.as_text().map(str::to_owned));
    let expanded = names.last().and_then(|name| expand(&name, project.variables, &mut BTreeSet::new()).ok());
    let folder = project.directory.rsplit('/').next().unwrap_or_default();
    let name = expanded.filter(|name| !name.is_empty()).unwrap_or_else(|| folder.to_lowercase());
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(*c);
    name.chars().filter(allowed).collect::<String>().trim_start_matches(['_', '-']).to_owned()
}

/// The number of values in a node, including itself.
fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(_) => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(map) => 1 + map.entries.iter().map(|entry| size(&entry.node)).sum::<usize>(),
    }
}

/// The path of a file in messages, relative to the project's directory.
fn shown(path: &str, directory: &str) -> String {
    path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')).unwrap_or(path).to_owned()
}

/// Replaces names without values by the variables' values; names of unset variables stay.
fn inherit(file: &mut Node, variables: &BTreeMap<String, String>) {
    let Some(services) = file.get_mut("services").and_then(Node::as_map_mut) else { return };
    let give = |map: Option<&mut Map>| {
        for entry in map.into_iter().flat_map(|map| &mut map.entries).filter(|entry| entry.node.is_null()) {
            if let Some(value) = variables.get(&entry.key) {
                entry.node = Node::text(value, entry.node.place.clone());
            }
        }
    };
    for service in &mut services.entries {
        give(service.node.get_mut("environment").and_then(Node::as_map_mut));
        give(service.node.get_mut("build").and_then(|build| build.get_mut("args")).and_then(Node::as_map_mut));
        for step in service.node.get_mut("pre_start").and_then(Node::as_list_mut).into_iter().flatten() {
            give(step.get_mut("environment").and_then(Node::as_map_mut));
        }
    }
}
