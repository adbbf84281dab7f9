//! Reads the mounts of a service: volumes, host paths, tmpfs.

use std::collections::BTreeMap;

use common::spec::{MountSource, MountSpec, Propagation, TmpfsOptions, VolumeName};

use super::Context;
use crate::field::Field;

const PROPAGATIONS: [(&str, Propagation); 6] = [
    ("private", Propagation::Private),
    ("rprivate", Propagation::Rprivate),
    ("shared", Propagation::Shared),
    ("rshared", Propagation::Rshared),
    ("slave", Propagation::Slave),
    ("rslave", Propagation::Rslave),
];

/// Reads the key `volumes`.
pub(super) fn mounts(service: &Field<'_>, context: &Context<'_>) -> Vec<MountSpec> {
    service.items_of("volumes").iter().filter_map(|item| mount(item, context)).collect()
}

fn mount(item: &Field<'_>, context: &Context<'_>) -> Option<MountSpec> {
    if !item.is_mapping() {
        item.expected("text or a mapping");
        return None;
    }
    let Some(target) = item.text_of("target") else {
        item.problem("target is missing: the path in the container");
        return None;
    };
    let source = source(item, context)?;
    let bind = item.get("bind");
    let volume = item.get("volume");
    let is_bind = matches!(source, MountSource::Bind(_));
    let mut mount = MountSpec::of(source, &target);
    mount.read_only = item.is("read_only");
    mount.propagation =
        bind.as_ref().and_then(|bind| bind.get("propagation")).and_then(|text| text.word(&PROPAGATIONS));
    let made = bind.as_ref().and_then(|bind| bind.get("create_host_path")).and_then(|made| made.boolean());
    mount.create_host_path = is_bind && made.unwrap_or(true);
    mount.nocopy = volume.as_ref().is_some_and(|volume| volume.is("nocopy"));
    mount.subpath = volume.as_ref().and_then(|volume| volume.text_of("subpath"));
    Some(mount)
}

/// What is mounted.
fn source(item: &Field<'_>, context: &Context<'_>) -> Option<MountSource> {
    let kind = item.text_of("type").unwrap_or_else(|| "volume".to_owned());
    let source = item.get("source");
    Some(match (kind.as_str(), &source) {
        ("bind", Some(source)) => MountSource::Bind(host_path(source, context)?),
        ("volume", Some(source)) => {
            MountSource::Volume(VolumeName::parse(&source.text()?).map_err(|error| source.problem(error)).ok()?)
        }
        ("volume", None) => MountSource::Anonymous,
        ("tmpfs", None) => MountSource::Tmpfs(memory(item)),
        ("bind", None) => {
            item.problem("source is missing: the path on the host");
            return None;
        }
        ("tmpfs", Some(source)) => {
            source.problem("a tmpfs has no source: remove it");
            return None;
        }
        (other, _) => {
            item.problem(format!("mounts of type {other:?} are not supported: use bind, volume or tmpfs"));
            return None;
        }
    })
}

/// A path on the hosts.
fn host_path(source: &Field<'_>, context: &Context<'_>) -> Option<String> {
    let path = source.text()?;
    if path.starts_with('~') {
        source.problem("'~' differs between hosts: write the full path");
        return None;
    }
    if path == "/var/run/docker.sock" || path == "/run/docker.sock" {
        source.warn("access to Docker's socket amounts to root access on the host");
    }
    let below = path.strip_prefix(context.directory).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    if below.is_some() {
        source.note(format!("{path} must exist on every host that runs it: wharf does not copy it there"));
    }
    Some(path)
}

fn memory(item: &Field<'_>) -> TmpfsOptions {
    let options = item.get("tmpfs");
    let size = options.as_ref().and_then(|options| options.parse_of("size"));
    let mode = options.as_ref().and_then(|options| options.get("mode")).and_then(|mode| permissions(&mode, 0o7777));
    TmpfsOptions { size, mode }
}

/// Permission bits. `0440`, which YAML reads as a number, and `"0440"` are octal digits; `0o440` is an octal number.
pub(super) fn permissions(field: &Field<'_>, most: u32) -> Option<u32> {
    let text = field.text()?;
    let digits = text.strip_prefix("0o").or_else(|| text.strip_prefix('0').filter(|rest| !rest.is_empty()));
    let mode = match digits {
        Some(digits) => u32::from_str_radix(digits, 8).ok(),
        // A YAML number without a leading zero is a plain number; text is octal digits.
        None if field.is_number() => text.parse().ok(),
        None => u32::from_str_radix(&text, 8).ok(),
    };
    let mode = mode.filter(|mode| *mode <= most);
    if mode.is_none() {
        field.problem("these are not permission bits such as 0440");
    }
    mode
}

/// Reads `tmpfs`: paths and their mount options.
pub(super) fn tmpfs(service: &Field<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for item in service.items_of("tmpfs") {
        let Some(text) = item.text() else { continue };
        let (path, options) = text.split_once(':').unwrap_or((&text, ""));
        found.insert(path.to_owned(), options.to_owned());
    }
    found
}
