//! The merged document becomes a spec; every value is read with its place at hand.

mod container;
mod defaults;
mod deploy;
mod devices;
mod environment;
mod files;
mod isolation;
mod mounts;
mod networks;
mod services;
mod tuning;
mod unit;

use std::collections::BTreeMap;

use common::{
    api::PutFile,
    name::Name,
    spec::{StackSpec, VolumeName, VolumeSpec},
};

pub(crate) use defaults::rows as different_defaults;
pub use defaults::{DifferentDefault, default_lines};
pub(crate) use environment::of_service as environment;

use crate::{ReadError, field::Field, paths};

/// What surrounds the document.
pub(crate) struct Context<'a> {
    /// The variables, with those of what is included below them.
    pub(crate) variables: &'a BTreeMap<String, String>,
    /// The project's directory.
    pub(crate) directory: &'a str,
    /// How files are read.
    pub(crate) read: &'a dyn Fn(&str) -> Result<Vec<u8>, ReadError>,
    /// Services whose profiles are off, with these.
    pub(crate) off: &'a BTreeMap<String, Vec<String>>,
}

impl Context<'_> {
    /// Reads a file that the document names.
    pub(crate) fn file(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        let path = paths::to_read(path, self.directory, self.variables).map_err(ReadError::Failed)?;
        (self.read)(&path)
    }

    /// How problems call a file: as it is seen from the project's directory.
    pub(crate) fn shown<'p>(&self, path: &'p str) -> &'p str {
        path.strip_prefix(self.directory).and_then(|rest| rest.strip_prefix('/')).unwrap_or(path)
    }
}

/// What a file declares for its services to use.
pub(crate) struct Declared {
    files: files::Files,
    networks: networks::Networks,
}

/// What became of a document.
pub(crate) struct Converted {
    pub(crate) spec: StackSpec,
    pub(crate) files: Vec<PutFile>,
    pub(crate) defaults: Vec<DifferentDefault>,
}

pub(crate) fn convert(root: &Field<'_>, context: &Context<'_>) -> Converted {
    let networks = networks::declared(root);
    let mut contents = Vec::new();
    let files = files::declared(root, context, &mut contents);
    let volumes = volumes(root);
    let mut defaults = Vec::new();
    let services = match root.get("services") {
        Some(field) => services::services(&field, context, &Declared { files, networks }, &mut defaults),
        None => {
            root.problem("services: it is missing; a stack needs at least one service");
            BTreeMap::new()
        }
    };
    Converted { spec: StackSpec { services, volumes }, files: contents, defaults }
}

/// The name of something, which must be a DNS label. Compose allows more: see [`adapted`].
fn name_of(text: &str, field: &Field<'_>) -> Option<Name> {
    Name::parse(text)
        .map_err(|error| field.problem(format!("{error}; rename it, for example to {:?}", hyphened(text))))
        .ok()
}

/// The name of something of the file's own: where compose allows `my_db`, it is `my-db` here.
pub(crate) fn adapted(text: &str, field: &Field<'_>) -> Option<Name> {
    Name::parse(text).or_else(|_| Name::parse(&hyphened(text))).map_err(|error| field.problem(error)).ok()
}

fn hyphened(text: &str) -> String {
    text.to_lowercase().replace(['_', '.'], "-").trim_matches('-').to_owned()
}

fn volumes(root: &Field<'_>) -> BTreeMap<VolumeName, VolumeSpec> {
    let mut volumes = BTreeMap::new();
    for (key, field) in root.entries_of("volumes") {
        let Some(name) = VolumeName::parse(key).map_err(|error| field.problem(error)).ok() else { continue };
        let mut volume = VolumeSpec::default();
        if field.is_mapping() {
            volume.driver = field.text_of("driver");
            volume.driver_opts = environment::texts(&field, "driver_opts");
            volume.labels = environment::texts(&field, "labels");
            volume.name = field.parse_of("name");
            volume.external = field.is("external");
            for other in ["driver", "driver_opts", "labels"] {
                if let Some(other) = field.get(other).filter(|_| volume.external) {
                    other
                        .problem("an external volume is there already, and is what it is: take this away, or external");
                }
            }
        } else if !field.node.is_null() {
            field.expected("a mapping");
        }
        volumes.insert(name, volume);
    }
    volumes
}
