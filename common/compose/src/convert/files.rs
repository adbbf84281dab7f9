//! Reads `configs` and `secrets`: the top-level declarations, and the files that services ask for.

use std::collections::BTreeMap;

use common::{
    api::PutFile,
    file::{FileKind, FileSpec, MAX_CONTENT, Upload},
    name::Name,
    secret::Secret,
};

use super::{Context, adapted, mounts::permissions, name_of};
use crate::field::Field;

/// A config or secret from the top level.
pub(super) struct Declared {
    /// Its name in wharf; for an external one, the name in the environment.
    name: Name,
    is_external: bool,
}

/// The top-level declarations, by kind and by the key as written.
pub(super) type Files = BTreeMap<(FileKind, String), Declared>;

fn word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Config => "configs",
        FileKind::Secret => "secrets",
    }
}

/// Reads the top-level declarations and the contents that they include.
pub(super) fn declared(root: &Field<'_>, context: &Context<'_>, contents: &mut Vec<PutFile>) -> Files {
    let mut files = Files::new();
    for kind in [FileKind::Config, FileKind::Secret] {
        for (key, field) in root.entries_of(word(kind)) {
            if !field.is_mapping() {
                field.expected("a mapping");
                continue;
            }
            let is_external = field.is("external");
            let name = match is_external {
                true => field.get("name").map_or_else(|| name_of(key, &field), |name| name_of(&name.text()?, &name)),
                false => adapted(key, &field),
            };
            let Some(name) = name else { continue };
            let is_twin = |put: &PutFile| put.kind == kind && put.name == name;
            if !is_external && contents.iter().any(is_twin) {
                field.problem(format!("two {} have the name {name} in wharf: rename one of them", word(kind)));
                continue;
            }
            if !is_external && let Some(content) = content(&field, context) {
                contents.push(PutFile { kind, name: name.clone(), content: Upload(Secret::new(content)) });
            }
            files.insert((kind, key.to_owned()), Declared { name, is_external });
        }
    }
    files
}

fn content(field: &Field<'_>, context: &Context<'_>) -> Option<Vec<u8>> {
    let content = if let Some(file) = field.get("file") {
        let path = file.text()?;
        let read = context.file(&path);
        read.map_err(|reason| file.problem(format!("{}: {reason}", context.shown(&path)))).ok()?
    } else if let Some(variable) = field.get("environment") {
        let name = variable.text()?;
        let Some(value) = context.variables.get(&name) else {
            variable.problem(format!("the variable {name} is not set"));
            return None;
        };
        value.clone().into_bytes()
    } else if let Some(content) = field.get("content") {
        content.text()?.into_bytes()
    } else {
        field.problem("it needs file, environment or content, or external: true if the cluster already has it");
        return None;
    };
    if content.len() > MAX_CONTENT {
        field.problem(format!("it has {} bytes, and at most {MAX_CONTENT} are allowed", content.len()));
        return None;
    }
    Some(content)
}

/// The configs and secrets that a service gets.
pub(super) fn of_service(service: &Field<'_>, files: &Files) -> Vec<FileSpec> {
    let of_kind = |kind: FileKind| {
        let items = service.items_of(word(kind));
        items.into_iter().filter_map(move |item| grant(kind, &item, files)).collect::<Vec<_>>()
    };
    [FileKind::Config, FileKind::Secret].into_iter().flat_map(of_kind).collect()
}

fn grant(kind: FileKind, item: &Field<'_>, files: &Files) -> Option<FileSpec> {
    if !item.is_mapping() {
        item.expected("text or a mapping");
        return None;
    }
    let Some(source) = item.text_of("source") else {
        item.problem(format!("source is missing: one of the top-level {}", word(kind)));
        return None;
    };
    let Some(declared) = files.get(&(kind, source.clone())) else {
        item.problem(format!("{kind} {source} is not declared under the top-level {}", word(kind)));
        return None;
    };
    let mut spec = FileSpec::of(kind, declared.name.clone());
    spec.external = declared.is_external;
    spec.target = FileSpec::usual_target(kind, &source);
    if let Some(target) = item.text_of("target") {
        spec.target = if target.starts_with('/') { target } else { FileSpec::usual_target(kind, &target) };
    }
    spec.uid = item.number_of("uid").unwrap_or(0);
    spec.gid = item.number_of("gid").unwrap_or(0);
    if let Some(mode) = item.get("mode") {
        spec.mode = permissions(&mode, 0o777)?;
    }
    Some(spec)
}
