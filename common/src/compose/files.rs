//! `configs` and `secrets`: the top-level ones are read here, the services name what they get.

use std::collections::BTreeMap;

use super::{Project, convert::name_of, node::Node};
use crate::{
    api::PutFile,
    file::{FileKind, FileSpec, MAX_CONTENT, Upload},
    name::Name,
    secret::Secret,
};

/// A file that the top level declares.
pub(super) struct Declared {
    /// Its name in the environment, if it is the environment's.
    external: Option<Name>,
}

/// What the top level declares, by kind and name.
pub(super) type Files = BTreeMap<(FileKind, Name), Declared>;

fn word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Config => "configs",
        FileKind::Secret => "secrets",
    }
}

/// Reads what the top level declares, and the contents that come with it.
pub(super) fn declared<R>(root: &Node<'_>, project: &Project<'_, R>, contents: &mut Vec<PutFile>) -> Files
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
    let mut files = Files::new();
    for kind in [FileKind::Config, FileKind::Secret] {
        for (key, node) in root.get(word(kind)).map(|node| node.entries()).unwrap_or_default() {
            let Some(name) = name_of(&key, &node) else { continue };
            node.warn_unknown(&["file", "environment", "content", "external", "name"]);
            let external = match node.get("external").and_then(|n| n.boolean()) {
                Some(true) => {
                    let own = node.get("name").and_then(|n| name_of(&n.text()?, &n));
                    Some(own.unwrap_or_else(|| name.clone()))
                }
                _ => None,
            };
            if external.is_none()
                && let Some(content) = content(&node, project)
            {
                contents.push(PutFile { kind, name: name.clone(), content: Upload(Secret::new(content)) });
            }
            files.insert((kind, name), Declared { external });
        }
    }
    files
}

fn content<R>(node: &Node<'_>, project: &Project<'_, R>) -> Option<Vec<u8>>
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
    let content = if let Some(file) = node.get("file") {
        let path = file.text()?;
        (project.read)(&path).map_err(|reason| file.problem(format!("{path}: {reason}"))).ok()?
    } else if let Some(variable) = node.get("environment") {
        let name = variable.text()?;
        let Some(value) = project.variables.get(&name) else {
            variable.problem(format!("the variable {name} is not set"));
            return None;
        };
        value.clone().into_bytes()
    } else if let Some(content) = node.get("content") {
        content.text()?.into_bytes()
    } else {
        node.problem("it needs file, environment or content; or external: true, if the cluster has it already");
        return None;
    };
    if content.len() > MAX_CONTENT {
        node.problem(format!("{} bytes are more than the {MAX_CONTENT} allowed", content.len()));
        return None;
    }
    Some(content)
}

/// What a service gets of them.
pub(super) fn of_service(node: &Node<'_>, files: &Files) -> Vec<FileSpec> {
    let of_kind = |kind: FileKind| {
        let items = node.get(word(kind)).map(|node| node.items()).unwrap_or_default();
        items.into_iter().filter_map(move |item| grant(kind, &item, files)).collect::<Vec<_>>()
    };
    [FileKind::Config, FileKind::Secret].into_iter().flat_map(of_kind).collect()
}

fn grant(kind: FileKind, node: &Node<'_>, files: &Files) -> Option<FileSpec> {
    let is_long = node.is_mapping();
    let source = if is_long {
        node.warn_unknown(&["source", "target", "uid", "gid", "mode"]);
        node.get("source")?.text()?
    } else {
        node.text()?
    };
    let key = name_of(&source, node)?;
    let Some(declared) = files.get(&(kind, key.clone())) else {
        node.problem(format!("{kind} {key} is not declared under the top-level {}", word(kind)));
        return None;
    };
    let mut spec = FileSpec::of(kind, declared.external.clone().unwrap_or_else(|| key.clone()));
    spec.external = declared.external.is_some();
    spec.target = FileSpec::usual_target(kind, key.as_str());
    if !is_long {
        return Some(spec);
    }
    if let Some(target) = node.get("target").and_then(|n| n.text()) {
        spec.target = if target.starts_with('/') { target } else { FileSpec::usual_target(kind, &target) };
    }
    spec.uid = node.get("uid").and_then(|n| n.number()).unwrap_or(0);
    spec.gid = node.get("gid").and_then(|n| n.number()).unwrap_or(0);
    if let Some(mode) = node.get("mode") {
        spec.mode = permissions(&mode)?;
    }
    Some(spec)
}

/// `0440` is text in YAML 1.2 and its digits are meant; a number, such as `0o440`, is what it is.
fn permissions(node: &Node<'_>) -> Option<u32> {
    let mode = match node.value.as_u64() {
        Some(number) => u32::try_from(number).ok(),
        None => u32::from_str_radix(node.text()?.trim_start_matches("0o"), 8).ok(),
    };
    let mode = mode.filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        node.problem("these are not permission bits, which look like 0440");
    }
    mode
}
