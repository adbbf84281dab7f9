//! Converts the merged document to a spec. Every value is read together with its place.

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

/// The data that the conversion needs besides the document.
pub(crate) struct Context<'a> {
    /// The variables; those from included files have lower precedence.
    pub(crate) variables: &'a BTreeMap<String, String>,
    /// The absolute path of the project's directory.
    pub(crate) directory: &'a str,
    /// Reads files that the document refers to.
    pub(crate) read: &'a dyn Fn(&str) -> Result<Vec<u8>, ReadError>,
    /// The services whose profiles are not enabled, with these profiles.
    pub(crate) off: &'a BTreeMap<String, Vec<String>>,
}

impl Context<'_> {
    /// Reads a file that the document refers to.
    pub(crate) fn file(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        let path = paths::to_read(path, self.directory, self.variables).map_err(ReadError::Failed)?;
        (self.read)(&path)
    }

    /// The path of a file in messages, relative to the project's directory.
    pub(crate) fn shown<'p>(&self, path: &'p str) -> &'p str {
        path.strip_prefix(self.directory).and_then(|rest| rest.strip_prefix('/')).unwrap_or(path)
    }
}

/// The declarations that services can refer to.
pub(crate) struct Declared {
    files: files::Files,
    networks: networks::Networks,
}

/// The result of a conversion.
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
            root.problem("services: it is missing, and a stack needs at least one service");
            BTreeMap::new()
        }
    };
    Converted { spec: StackSpec { services, volumes }, files: contents, defaults }
}

/// A name that must be a DNS label. Compose allows more: see [`adapted`].
fn name_of(text: &str, field: &Field<'_>) -> Option<Name> {
    Name::parse(text)
        .map_err(|error| field.problem(format!("{error}; rename it, for example to {:?}", hyphened(text))))
        .ok()
}

/// A name that the file itself defines. Where compose allows `my_db`, it becomes `my-db`.
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
                    other.problem("an external volume already exists: remove this key, or external");
                }
            }
        } else if !field.node.is_null() {
            field.expected("a mapping");
        }
        volumes.insert(name, volume);
    }
    volumes
}
