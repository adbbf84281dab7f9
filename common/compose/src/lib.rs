//! Compose files become a [`StackSpec`]: read, interpolated, extended, included, merged, converted.
//!
//! This is the input format only: it is read by the client, and the spec is what travels. [`load`] makes one
//! [`Document`] of all files, in which every value still knows its place; [`Document::convert`] makes a spec of it.
//! [`keys`] has every key of compose's specification with what is done about it: nothing is dropped in silence.
//!
//! The crate reads no file itself: whoever calls it passes a function that does.

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

/// Largest file, in bytes.
pub const MAX_FILE: usize = 1 << 20;
/// Most values in a file, after aliases are expanded, and in all files together.
pub const MAX_NODES: usize = 200_000;
/// Most keys of a mapping.
pub const MAX_KEYS: usize = 10_000;
/// Deepest nesting of values.
pub const MAX_DEPTH: usize = 64;
/// Most files that others name.
pub const MAX_FILES: usize = 200;

/// The variable that holds the project's name, in every file.
const PROJECT_NAME: &str = "COMPOSE_PROJECT_NAME";

/// A file as it was read.
#[derive(Debug, Clone)]
pub struct Source {
    /// How problems call it.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is not there.
    #[error("there is no such file")]
    Missing,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What surrounds the files: variables, the directory, profiles, and a way to read the files that they name.
#[derive(Clone, Copy)]
pub struct Project<'a> {
    /// The variables: those of `.env`, and the environment's above them.
    pub variables: &'a BTreeMap<String, String>,
    /// The absolute directory that relative paths start from.
    pub directory: &'a str,
    /// The profiles that are on; `*` is all of them.
    pub profiles: &'a [String],
    /// Services that are wanted whatever their profiles are.
    pub wanted: &'a [String],
    /// Reads a file by its absolute path.
    pub read: &'a dyn Fn(&str) -> Result<Vec<u8>, ReadError>,
}

impl fmt::Debug for Project<'_> {
    /// Variables may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Project").field("directory", &self.directory).field("profiles", &self.profiles).finish()
    }
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
    /// What was asked for and is not done, or may not be meant, each with its place.
    pub warnings: Vec<Finding>,
    /// What is worth knowing and is no reason to change anything.
    pub notes: Vec<Finding>,
    /// Where the files leave open what wharf does in another way than compose or Swarm.
    pub defaults: Vec<DifferentDefault>,
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
    #[error("{place}: {reason}")]
    TooComplex {
        /// Where the limit is passed.
        place: Place,
        /// Which limit.
        reason: String,
    },
    /// A file is not YAML, or not YAML of a compose file.
    #[error("{place}: {reason}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser says.
        reason: String,
    },
    /// Values that cannot be used; all that were found, and the warnings beside them.
    #[error("{}", lines(problems))]
    Invalid {
        /// What refuses the files.
        problems: Vec<Finding>,
        /// What else there is to say.
        warnings: Vec<Finding>,
    },
}

impl ComposeError {
    /// What else there is to say of the files.
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

/// All files as one, with the variables replaced: what they say, before anything is made of it.
pub struct Document {
    root: Node,
    /// Services whose profiles are off, with these.
    off: BTreeMap<String, Vec<String>>,
    /// The variables, with those of what is included below them.
    variables: BTreeMap<String, String>,
    findings: Findings,
}

impl fmt::Debug for Document {
    /// Values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("off", &self.off).finish_non_exhaustive()
    }
}

/// Reads compose files and makes one of them; later ones override earlier ones. What can be said with the document at
/// hand does not fail here, but in [`Document::convert`].
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
    /// The document: every value in its long spelling, with its place. Services whose profiles are off are not in it.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// The services whose profiles are off, with these.
    pub fn off(&self) -> &BTreeMap<String, Vec<String>> {
        &self.off
    }

    /// The top-level `name`, as it is written.
    pub fn name(&self) -> Option<&str> {
        self.root.get("name").and_then(Node::as_text)
    }

    /// What was found so far that refuses the files, and what there is to say beside that.
    pub fn findings(&self) -> (Vec<Finding>, Vec<Finding>) {
        let (problems, warnings, _) = self.findings.taken();
        (problems, warnings)
    }

    /// What is done with each key.
    pub fn uses(&self) -> Vec<keys::Use> {
        keys::uses(&Field::root(&self.root, &self.findings))
    }

    /// The document in the form that `docker compose config` prints, for a project of that name.
    pub fn canonical(&self, project: &Project<'_>, name: &str) -> Node {
        let quiet = Findings::default();
        let context = self.context(project);
        canonical::canonical(&self.root, name, &context, &quiet)
    }

    /// Makes a spec of it, and refuses what cannot be done.
    pub fn convert(&self, project: &Project<'_>) -> Result<Composed, ComposeError> {
        let root = Field::root(&self.root, &self.findings);
        keys::check_uses(&root);
        let converted = convert::convert(&root, &self.context(project));
        // Compose allows more in a name than DNS does.
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

    /// A rule of specs that is broken, with the place of what broke it.
    fn violation(&self, violation: &Violation) {
        let (_, place) = self.root.nearest(&violation.path);
        self.findings.problem(Some(place), &violation.path, &violation.reason);
    }
}

/// Reads compose files and makes a spec of them; later ones override earlier ones.
pub fn compose(sources: &[Source], project: &Project<'_>) -> Result<Composed, ComposeError> {
    load(sources, project)?.convert(project)
}

/// What wharf does in another way than compose or Swarm when a file says nothing, as rows of a table.
pub fn defaults() -> String {
    convert::different_defaults()
}

/// The variables that these files use, without what they include or extend.
pub fn variables(sources: &[Source]) -> Result<BTreeMap<String, VariableUse>, ComposeError> {
    let mut found = BTreeMap::new();
    for source in sources {
        for document in yaml::documents(&source.name.as_str().into(), &source.text)? {
            interpolate::used(&document, &mut found);
        }
    }
    Ok(found)
}

/// A value as YAML.
pub fn to_yaml(node: &Node) -> String {
    render::yaml(node)
}

#[cfg(test)]
mod tests;
