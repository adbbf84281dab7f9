//! Swarm templates such as `{{.Service.Name}}`, `{{.Task.Slot}}` and `{{.Node.Hostname}}`. The agent fills them in,
//! because it knows slot and host. Other constructs of Go templates are refused by name.

use std::{borrow::Cow, collections::BTreeMap};

use super::{ContainerSpec, MountSource, ServiceSpec, VolumeName, VolumeSpec};
use crate::id::InstanceId;

/// The host of an instance, as templates see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The host's id.
    pub id: String,
    /// The operating system's hostname.
    pub hostname: String,
    /// Its operating system, such as `linux`.
    pub os: String,
    /// Its architecture, such as `x86_64`.
    pub arch: String,
}

/// The values for templates.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The instance's id.
    pub instance: &'a InstanceId,
    /// The labels of its main container.
    pub labels: &'a BTreeMap<String, String>,
    /// The instance's host.
    pub node: &'a Node,
}

/// A template's value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    ServiceId,
    ServiceName,
    ServiceLabels,
    ServiceLabel(String),
    TaskId,
    TaskName,
    TaskSlot,
    NodeId,
    NodeHostname,
    NodeOs,
    NodeArch,
    Text(String),
}

/// The supported fields, for error messages.
const KNOWN: &str = ".Service.ID, .Service.Name, .Service.Labels, .Task.ID, .Task.Name, .Task.Slot, .Node.ID, \
                     .Node.Hostname, .Node.Platform.OS and .Node.Platform.Architecture";

/// Fills in the templates in a text. The error names the template that cannot be filled in.
pub fn fill<'a>(text: &'a str, from: Surroundings<'_>) -> Result<Cow<'a, str>, String> {
    resolve(text, |field| value(&field, from))
}

/// The text with its templates removed. The error names the first template that is not supported.
pub fn without_templates(text: &str) -> Result<Cow<'_, str>, String> {
    resolve(text, |field| if let Field::Text(text) = field { text } else { String::new() })
}

fn resolve(text: &str, value: impl Fn(Field) -> String) -> Result<Cow<'_, str>, String> {
    if !text.contains("{{") {
        return Ok(text.into());
    }
    let (mut filled, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, after) = ends_at(after).ok_or("a template is not closed: '{{' without '}}'")?;
        filled.push_str(before);
        filled.push_str(&value(field(inside.trim())?));
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled.into())
}

/// Splits a text into the inside of a template and the rest. Braces within quotes do not end it.
fn ends_at(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match quote {
            Some(open) if open == c => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some((&text[..at], &text[at + 2..])),
            None => {}
        }
    }
    None
}

fn field(inside: &str) -> Result<Field, String> {
    let unknown = || {
        let shown: String = inside.chars().take(80).collect();
        format!(
            "{{{{{shown}}}}} is not a supported template; those are {KNOWN}; write '{{{{\"{{{{\"}}}}' for a literal '{{{{'"
        )
    };
    let quoted = |text: &str| {
        let inner = ['"', '`'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
        inner.filter(|inner| !inner.contains(['"', '`', '\\'])).map(str::to_owned)
    };
    Ok(match inside {
        ".Service.ID" => Field::ServiceId,
        ".Service.Name" => Field::ServiceName,
        ".Service.Labels" => Field::ServiceLabels,
        ".Task.ID" => Field::TaskId,
        ".Task.Name" => Field::TaskName,
        ".Task.Slot" => Field::TaskSlot,
        ".Node.ID" => Field::NodeId,
        ".Node.Hostname" => Field::NodeHostname,
        ".Node.Platform.OS" => Field::NodeOs,
        ".Node.Platform.Architecture" => Field::NodeArch,
        other => {
            let is_word =
                |label: &&str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let index =
                other.strip_prefix("index").map(str::trim_start).and_then(|rest| rest.strip_prefix(".Service.Labels "));
            if let Some(label) = other.strip_prefix(".Service.Labels.").filter(is_word) {
                Field::ServiceLabel(label.to_owned())
            } else if let Some(label) = index.and_then(|rest| quoted(rest.trim())) {
                Field::ServiceLabel(label)
            } else {
                Field::Text(quoted(other).ok_or_else(unknown)?)
            }
        }
    })
}

fn value(field: &Field, from: Surroundings<'_>) -> String {
    let (id, node) = (from.instance, from.node);
    let service = &id.service().service;
    match field {
        Field::ServiceId => format!("{}.{}.{service}", id.stack().environment, id.stack().stack),
        Field::ServiceName => service.to_string(),
        Field::ServiceLabels => {
            let labels: Vec<String> = from.labels.iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("map[{}]", labels.join(" "))
        }
        Field::ServiceLabel(label) => from.labels.get(label).cloned().unwrap_or_default(),
        Field::TaskId => {
            format!("{}.{}.{service}.{}.{}", id.stack().environment, id.stack().stack, id.slot.slot, id.incarnation)
        }
        Field::TaskName => format!("{service}.{}.{}", id.slot.slot, id.incarnation),
        Field::TaskSlot => id.slot.slot.to_string(),
        Field::NodeId => node.id.clone(),
        Field::NodeHostname => node.hostname.clone(),
        Field::NodeOs => node.os.clone(),
        Field::NodeArch => node.arch.clone(),
        Field::Text(text) => text.clone(),
    }
}

impl ServiceSpec {
    /// Whether any of its texts contains a template.
    pub fn has_templates(&self) -> bool {
        let texts = self.containers().flat_map(|(_, container)| container.templated());
        let volumes = self.volumes.iter().flat_map(|(name, volume)| {
            let named = std::iter::once(name).chain(&volume.name).map(VolumeName::as_str);
            named.chain(volume.driver_opts.values().chain(volume.labels.values()).map(String::as_str))
        });
        texts.chain(volumes).any(|text| text.contains("{{"))
    }

    /// The spec of one instance with all templates filled in. The error names the template that cannot be filled in.
    pub fn filled(&self, instance: &InstanceId, node: &Node) -> Result<ServiceSpec, String> {
        let mut filled = self.clone();
        // Templates see the labels of the main container as those of the service.
        let labels = &self.container.labels;
        let from = Surroundings { instance, labels, node };
        for container in filled.containers_mut() {
            container.fill(from)?;
        }
        let volume =
            |(name, volume): (&VolumeName, &VolumeSpec)| Ok((name_of(name, from)?, filled_volume(volume, from)?));
        filled.volumes = self.volumes.iter().map(volume).collect::<Result<_, String>>()?;
        Ok(filled)
    }
}

impl ContainerSpec {
    /// All texts in which templates are filled in.
    pub(super) fn templated(&self) -> impl Iterator<Item = &str> {
        let maps = self.environment.values().chain(self.labels.values());
        let names = self.hostname.iter().chain(&self.domainname);
        let mounts = self.mounts.iter().flat_map(|mount| {
            let source = match &mount.source {
                MountSource::Bind(path) => Some(path.as_str()),
                MountSource::Volume(name) => Some(name.as_str()),
                MountSource::Anonymous | MountSource::Tmpfs(_) => None,
            };
            source.into_iter().chain([mount.target.as_str()]).chain(mount.subpath.as_deref())
        });
        maps.chain(names).map(String::as_str).chain(mounts)
    }

    fn fill(&mut self, from: Surroundings<'_>) -> Result<(), String> {
        let put = |text: &mut String| -> Result<(), String> {
            if let Cow::Owned(filled) = fill(text, from)? {
                *text = filled;
            }
            Ok(())
        };
        let maps = self.environment.values_mut().chain(self.labels.values_mut());
        maps.chain(&mut self.hostname).chain(&mut self.domainname).try_for_each(put)?;
        for mount in &mut self.mounts {
            put(&mut mount.target)?;
            mount.subpath.iter_mut().try_for_each(put)?;
            match &mut mount.source {
                MountSource::Bind(path) => put(path)?,
                MountSource::Volume(name) => *name = name_of(name, from)?,
                MountSource::Anonymous | MountSource::Tmpfs(_) => {}
            }
        }
        Ok(())
    }
}

fn name_of(name: &VolumeName, from: Surroundings<'_>) -> Result<VolumeName, String> {
    VolumeName::parse(&fill(name.as_str(), from)?).map_err(|error| error.to_string())
}

fn filled_volume(volume: &VolumeSpec, from: Surroundings<'_>) -> Result<VolumeSpec, String> {
    let map = |map: &BTreeMap<String, String>| -> Result<BTreeMap<String, String>, String> {
        map.iter().map(|(key, value)| Ok((key.clone(), fill(value, from)?.into_owned()))).collect()
    };
    Ok(VolumeSpec {
        driver_opts: map(&volume.driver_opts)?,
        labels: map(&volume.labels)?,
        name: volume.name.as_ref().map(|name| name_of(name, from)).transpose()?,
        ..volume.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in_or_refused_by_name() {
        let instance: InstanceId = "default/shop/web/2.3".parse().expect("an id");
        let labels = BTreeMap::from([("tier".to_owned(), "front".to_owned()), ("a.b".to_owned(), "c".to_owned())]);
        let node = Node { id: "n1".into(), hostname: "box".into(), os: "linux".into(), arch: "x86_64".into() };
        let from = Surroundings { instance: &instance, labels: &labels, node: &node };
        let cases = [
            ("plain", "plain"),
            ("{{.Service.Name}}-{{.Task.Slot}}", "web-2"),
            ("a{{ .Service.ID }}b", "adefault.shop.webb"),
            ("{{.Task.ID}} {{.Task.Name}}", "default.shop.web.2.3 web.2.3"),
            (
                "{{.Node.ID}}.{{.Node.Hostname}}.{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}",
                "n1.box.linux/x86_64",
            ),
            ("{{.Service.Labels.tier}}{{.Service.Labels.none}}{{index .Service.Labels \"a.b\"}}", "frontc"),
            ("{{.Service.Labels}}", "map[a.b:c tier:front]"),
            ("{{\"{{\"}}.Name{{`}}`}}", "{{.Name}}"),
            ("} } }}", "} } }}"),
        ];
        for (text, expected) in cases {
            assert_eq!(fill(text, from).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["{{.Name}}", "{{env \"X\"}}", "{{.Task.Slot | printf}}", "{{", "{{.Task.Slot}", "{{}}", "{{\"a}}"] {
            assert!(fill(bad, from).is_err() && without_templates(bad).is_err(), "{bad}");
        }
        let refused = without_templates("{{secret \"x\"}}").expect_err("it is refused");
        assert!(refused.starts_with("{{secret \"x\"}} is not a supported template"), "{refused}");
    }
}
