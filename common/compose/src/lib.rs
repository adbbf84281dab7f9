//! Parses compose files into a [`StackSpec`]: reads, interpolates, extends, includes, merges and converts them.
//!
//! The format is only for input: the client reads it and sends the spec. [`load`] merges all files into one
//! [`Document`], in which every value still has its place; [`Document::convert`] turns it into a spec. [`keys`] lists
//! every key of the compose specification with its treatment, so that no key is dropped silently.
//!
//! The crate does not read files itself: the caller passes a function for that.

mod canonical;
mod convert;
pub mod env_file;
mod field;
mod interpolate;
pub mod keys;
mod load;
mod merge;
mod node;
mod normal;
mod paths;
mod place;
mod profiles;
mod render;
mod short;
mod yaml;

use std::{collections::BTreeMap, fmt};

use common::{
    api::PutFile,
    name::Name,
    spec::{StackSpec, Violation},
};

pub use convert::{DifferentDefault, default_lines};
pub use interpolate::VariableUse;
pub use node::{Entry, Form, Map, Node, Scalar, Value};
pub use place::{Finding, Place};

use crate::{
    convert::Context,
    field::Field,
    load::{Loader, Surroundings},
    place::Findings,
};

/// The maximum size of a file, in bytes.
pub const MAX_FILE: usize = 1 << 20;
/// The maximum number of values in a file, counted after expanding aliases, and in all files together.
pub const MAX_NODES: usize = 200_000;
/// Most bytes of text in a file after aliases are expanded, in all files after variables are replaced, and in the
/// variables of an env file.
pub const MAX_TEXT: usize = 16 << 20;
/// Most keys of a mapping.
pub const MAX_KEYS: usize = 10_000;
/// Longest key, in bytes: paths of values are made of keys.
pub const MAX_KEY: usize = 4 << 10;
/// Deepest nesting of values.
pub const MAX_DEPTH: usize = 64;
/// The maximum number of files that compose files can refer to.
pub const MAX_FILES: usize = 200;

/// The variable with the project's name, available in every file.
const PROJECT_NAME: &str = "COMPOSE_PROJECT_NAME";

/// A compose file before parsing.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file's name in messages.
    pub name: String,
    /// The content of the file.
    pub text: String,
}

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The file does not exist.
    #[error("there is no such file")]
    Missing,
    /// Another error, as a sentence.
    #[error("{0}")]
    Failed(String),
}

/// The environment of the files: variables, directory, profiles, and a function that reads further files.
#[derive(Clone, Copy)]
pub struct Project<'a> {
    /// The variables: those in `.env`, overridden by the environment.
    pub variables: &'a BTreeMap<String, String>,
    /// The absolute base directory of relative paths.
    pub directory: &'a str,
    /// The enabled profiles; `*` enables all.
    pub profiles: &'a [String],
    /// Services to deploy regardless of their profiles.
    pub wanted: &'a [String],
    /// Reads a file by its absolute path.
    pub read: &'a dyn Fn(&str) -> Result<Vec<u8>, ReadError>,
}

impl fmt::Debug for Project<'_> {
    /// Variables may be secrets, so only their names are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Project").field("directory", &self.directory).field("profiles", &self.profiles).finish()
    }
}

/// The content of the compose files, ready for deployment.
#[derive(Debug, Clone)]
pub struct Composed {
    /// The top-level `name`, if there is one.
    pub name: Option<Name>,
    /// The spec of the stack.
    pub spec: StackSpec,
    /// The contents of the stack's own configs and secrets.
    pub files: Vec<PutFile>,
    /// Ignored settings and likely mistakes, each with its place.
    pub warnings: Vec<Finding>,
    /// Remarks that need no change in the files.
    pub notes: Vec<Finding>,
    /// Omitted settings whose default in wharf differs from compose or Swarm.
    pub defaults: Vec<DifferentDefault>,
}

/// Why the files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// A file is too large.
    #[error("{file}: the file has {size} bytes, and at most {MAX_FILE} are allowed")]
    TooLarge {
        /// The name of the file.
        file: String,
        /// Its size in bytes.
        size: usize,
    },
    /// A file has too many values, or is nested too deeply.
    #[error("{place}: {reason}")]
    TooComplex {
        /// The place where the limit is exceeded.
        place: Place,
        /// The exceeded limit, as a sentence.
        reason: String,
    },
    /// A file is not valid YAML, or is not a compose file.
    #[error("{place}: {reason}")]
    Syntax {
        /// The place of the error.
        place: Place,
        /// The parser's message.
        reason: String,
    },
    /// Some values are invalid. All problems are listed, and the warnings as well.
    #[error("{}", lines(problems))]
    Invalid {
        /// The reasons why the files are refused.
        problems: Vec<Finding>,
        /// The warnings, which alone would not refuse the files.
        warnings: Vec<Finding>,
    },
}

impl ComposeError {
    /// The warnings, for every kind of error.
    pub fn warnings(&self) -> &[Finding] {
        match self {
            ComposeError::Invalid { warnings, .. } => warnings,
            _ => &[],
        }
    }
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// All files merged into one, with variables replaced, before the conversion to a spec.
pub struct Document {
    root: Node,
    /// The services whose profiles are not enabled, with these profiles.
    off: BTreeMap<String, Vec<String>>,
    /// The variables; those from included files have lower precedence.
    variables: BTreeMap<String, String>,
    findings: Findings,
}

impl fmt::Debug for Document {
    /// Values may be secrets, so they are not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("off", &self.off).finish_non_exhaustive()
    }
}

/// Reads and merges compose files; later files override earlier ones. Problems that do not prevent a document are
/// reported later, by [`Document::convert`].
pub fn load(sources: &[Source], project: &Project<'_>) -> Result<Document, ComposeError> {
    let findings = Findings::default();
    let loader = Loader::new(project.read, &findings);
    let mut variables = project.variables.clone();
    variables.entry(PROJECT_NAME.to_owned()).or_insert_with(|| load::project_name(sources, project));
    let around = Surroundings { directory: project.directory.to_owned(), variables, within: Vec::new() };
    let mut root = loader.model(sources, &around)?;
    let mut variables = loader.from_included.into_inner();
    variables.extend(around.variables);
    keys::check_names(&Field::root(&root, &findings));
    let off = profiles::apply(&mut root, project, &findings);
    Ok(Document { root, off, variables, findings })
}

impl Document {
    /// The document: every value in its long form, with its place. It does not contain services whose profiles are not
    /// enabled.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// The services whose profiles are not enabled, with these profiles.
    pub fn off(&self) -> &BTreeMap<String, Vec<String>> {
        &self.off
    }

    /// The top-level `name`, as written.
    pub fn name(&self) -> Option<&str> {
        self.root.get("name").and_then(Node::as_text)
    }

    /// The problems found so far, which refuse the files, and the warnings.
    pub fn findings(&self) -> (Vec<Finding>, Vec<Finding>) {
        let (problems, warnings, _) = self.findings.taken();
        (problems, warnings)
    }

    /// The treatment of each key in the files.
    pub fn uses(&self) -> Vec<keys::Use> {
        keys::uses(&Field::root(&self.root, &self.findings))
    }

    /// The document in the format of `docker compose config`, for a project with this name.
    pub fn canonical(&self, project: &Project<'_>, name: &str) -> Node {
        let quiet = Findings::default();
        let context = self.context(project);
        canonical::canonical(&self.root, name, &context, &quiet)
    }

    /// Converts the document to a spec, or refuses it.
    pub fn convert(&self, project: &Project<'_>) -> Result<Composed, ComposeError> {
        let root = Field::root(&self.root, &self.findings);
        keys::check_uses(&root);
        let converted = convert::convert(&root, &self.context(project));
        // Compose allows more characters in names than DNS.
        let name = root.get("name").and_then(|name| convert::adapted(&name.text()?, &name));
        if !self.findings.is_refused() {
            converted.spec.validate().iter().for_each(|violation| self.violation(violation));
        }
        let (problems, warnings, notes) = self.findings.taken();
        if !problems.is_empty() {
            return Err(ComposeError::Invalid { problems, warnings });
        }
        let convert::Converted { spec, files, defaults } = converted;
        Ok(Composed { name, spec, files, warnings, notes, defaults })
    }

    fn context<'a>(&'a self, project: &Project<'a>) -> Context<'a> {
        Context { variables: &self.variables, directory: project.directory, read: project.read, off: &self.off }
    }

    /// Reports a rule of specs that the document breaks, at its place.
    fn violation(&self, violation: &Violation) {
        let (_, place) = self.root.nearest(&violation.path);
        self.findings.problem(Some(place), &violation.path, &violation.reason);
    }
}

/// Reads compose files and converts them to a spec; later files override earlier ones.
pub fn compose(sources: &[Source], project: &Project<'_>) -> Result<Composed, ComposeError> {
    load(sources, project)?.convert(project)
}

/// The defaults that differ from compose or Swarm, as rows of a Markdown table.
pub fn defaults() -> String {
    convert::different_defaults()
}

/// The variables that these files use, without those of included or extended files.
pub fn variables(sources: &[Source]) -> Result<BTreeMap<String, VariableUse>, ComposeError> {
    let mut found = BTreeMap::new();
    for source in sources {
        for document in yaml::documents(&source.name.as_str().into(), &source.text)? {
            interpolate::used(&document, &mut found);
        }
    }
    Ok(found)
}

/// Renders a value as YAML.
pub fn to_yaml(node: &Node) -> String {
    render::yaml(node)
}

#[cfg(test)]
mod tests;
