//! Merges several files by the rules of the compose specification.
//!
//! Both sides are in their long form. Mappings merge, lists are appended, list items of which there can be only one are
//! replaced by the later one, and other values are replaced. `!override` always replaces, and `!reset` removes.

use std::collections::BTreeMap;

use crate::{
    node::{Entry, Map, Node, Tag, Value},
    place::Findings,
};

/// The fate of the tags on the overriding side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tags {
    /// They are removed after the merge.
    Spent,
    /// They stay, because they also apply to earlier files: those of a service that extends another one.
    Kept,
}

/// Takes the tags away, and what is to be reset with them.
pub(crate) fn without_tags(mut node: Node) -> Node {
    node.tag = Tag::None;
    node.value = match node.value {
        Value::Scalar(scalar) => Value::Scalar(scalar),
        Value::List(items) => {
            Value::List(items.into_iter().filter(|item| item.tag != Tag::Reset).map(without_tags).collect())
        }
        Value::Map(map) => {
            let kept = map.entries.into_iter().filter(|entry| entry.node.tag != Tag::Reset);
            let entries = kept.map(|entry| Entry { node: without_tags(entry.node), ..entry }).collect();
            Value::Map(Map { entries })
        }
    };
    node
}

/// How files are merged.
pub(crate) struct Merge<'a> {
    pub(crate) tags: Tags,
    pub(crate) findings: &'a Findings,
}

impl Merge<'_> {
    fn kept(&self, node: Node) -> Node {
        if self.tags == Tags::Kept { node } else { without_tags(node) }
    }

    /// Lays `over` upon `base`, at `path`.
    pub(crate) fn lay(&self, base: &mut Node, over: Node, path: &[&str]) {
        if over.tag == Tag::Override || base.tag == Tag::Reset {
            *base = self.kept(over);
            return;
        }
        if over.is_null() && !may_be_nothing(path) {
            // As in compose, a null value does not replace another one.
            return;
        }
        if base.is_null() || is_replaced(path, base, &over) {
            *base = self.kept(over);
            return;
        }
        match (&mut base.value, over.value) {
            (Value::Map(base), Value::Map(over)) => self.maps(base, over, path),
            (Value::List(base), Value::List(over)) => {
                let over = over.into_iter().filter(|item| self.tags == Tags::Kept || item.tag != Tag::Reset);
                base.extend(over.map(|item| self.kept(item)));
            }
            (Value::Scalar(_), value @ Value::Scalar(_)) => *base = Node { value, ..over },
            (_, value) => {
                let over = Node { value, ..over };
                if path.last().is_some_and(|key| key.starts_with("x-")) {
                    *base = self.kept(over);
                    return;
                }
                let reason = format!(
                    "{} cannot be merged into {} of {}; to replace that, write !override before it",
                    over.kind(),
                    base.kind(),
                    base.place
                );
                self.findings.problem(Some(&over.place), &path.join("."), reason);
            }
        }
    }

    fn maps(&self, base: &mut Map, over: Map, path: &[&str]) {
        for entry in over.entries {
            let is_reset = entry.node.tag == Tag::Reset;
            if is_reset && self.tags == Tags::Spent {
                base.remove(&entry.key);
                continue;
            }
            match base.get_mut(&entry.key) {
                Some(there) if is_reset => *there = entry.node,
                Some(there) => self.lay(there, entry.node, &[path, &[entry.key.as_str()]].concat()),
                None => base.entries.push(Entry { node: self.kept(entry.node), ..entry }),
            }
        }
    }
}

/// Where null is a value: it restores the image's own command, and lets a variable inherit its value from the
/// environment.
fn may_be_nothing(path: &[&str]) -> bool {
    matches!(
        path,
        ["services", _, "command" | "entrypoint"]
            | ["services", _, "environment", _]
            | ["services", _, "build", "args", _]
    )
}

/// Whether a later file replaces the value as a whole.
fn is_replaced(path: &[&str], base: &Node, over: &Node) -> bool {
    match path {
        ["services", _, "command" | "entrypoint"] | ["services", _, "healthcheck", "test"] => true,
        // Options belong to their driver, so another driver replaces them.
        ["services", _, "logging"] => match (base.get("driver"), over.get("driver")) {
            (Some(base), Some(over)) => !base.same(over),
            _ => false,
        },
        // One number, or a mapping with two.
        ["services", _, "ulimits", _] => base.as_map().is_none() || over.as_map().is_none(),
        // One number, or a mapping.
        ["services", _, key] if key.starts_with("x-") => base.as_map().is_none() || over.as_map().is_none(),
        _ => false,
    }
}

/// In lists that allow one item of a kind, moves the last one to the place of the first.
pub(crate) fn unique(file: &mut Node, findings: &Findings) {
    for section in ["services", "networks"] {
        let Some(map) = file.get_mut(section).and_then(Node::as_map_mut) else { continue };
        for entry in &mut map.entries {
            let path = format!("{section}.{}", entry.key);
            match section {
                "services" => service(&mut entry.node, &path, findings),
                _ => subnets(&mut entry.node),
            }
        }
    }
}

/// Lists of a service that allow one item of a kind, with the function that gives the kind.
const UNIQUE: [(&str, fn(&Node) -> Option<String>); 18] = [
    ("ports", port),
    ("volumes", target),
    ("devices", target),
    ("configs", |item| granted(item, "")),
    ("secrets", |item| granted(item, "/run/secrets")),
    ("env_file", |item| text_of(item, "path")),
    ("label_file", own_text),
    ("cap_add", own_text),
    ("cap_drop", own_text),
    ("dns", own_text),
    ("dns_opt", name_of_option),
    ("dns_search", own_text),
    ("expose", own_text),
    ("links", own_text),
    ("profiles", own_text),
    ("tmpfs", own_text),
    ("group_add", own_text),
    ("security_opt", own_text),
];

fn service(node: &mut Node, path: &str, findings: &Findings) {
    for (key, identity) in UNIQUE {
        let Some(items) = node.get_mut(key).and_then(Node::as_list_mut) else { continue };
        let replaced = keep_last(items, identity);
        for (gone, by) in replaced {
            // Later files may do this; within one file it is likely a mistake.
            if gone.file == by.file && ["volumes", "devices", "configs", "secrets"].contains(&key) {
                let reason = format!("this replaces the entry in line {} with the same target", gone.line);
                findings.warn(Some(&by), &format!("{path}.{key}"), reason);
            }
        }
    }
    for network in node.get_mut("networks").and_then(Node::as_map_mut).into_iter().flat_map(|map| &mut map.entries) {
        for key in ["aliases", "link_local_ips"] {
            if let Some(items) = network.node.get_mut(key).and_then(Node::as_list_mut) {
                keep_last(items, own_text);
            }
        }
    }
    for addresses in node.get_mut("extra_hosts").and_then(Node::as_map_mut).into_iter().flat_map(|map| &mut map.entries)
    {
        if let Some(items) = addresses.node.as_list_mut() {
            keep_last(items, own_text);
        }
    }
}

fn subnets(network: &mut Node) {
    let config = network.get_mut("ipam").and_then(|ipam| ipam.get_mut("config")).and_then(Node::as_list_mut);
    if let Some(items) = config {
        keep_last(items, |item| text_of(item, "subnet"));
    }
}

/// Keeps the last item of each kind; returns the places of replaced items and of their replacements.
fn keep_last(
    items: &mut Vec<Node>,
    identity: fn(&Node) -> Option<String>,
) -> Vec<(crate::place::Place, crate::place::Place)> {
    let mut at = BTreeMap::new();
    let mut kept: Vec<Node> = Vec::with_capacity(items.len());
    let mut replaced = Vec::new();
    for item in std::mem::take(items) {
        match identity(&item).map(|identity| *at.entry(identity).or_insert(kept.len())) {
            Some(index) if index < kept.len() => {
                if !kept[index].same(&item) {
                    replaced.push((kept[index].place.clone(), item.place.clone()));
                }
                kept[index] = item;
            }
            _ => kept.push(item),
        }
    }
    *items = kept;
    replaced
}

fn own_text(item: &Node) -> Option<String> {
    item.as_text().map(str::to_owned)
}

fn name_of_option(item: &Node) -> Option<String> {
    item.as_text().map(|text| text.split(':').next().unwrap_or(text).to_owned())
}

fn text_of(item: &Node, key: &str) -> Option<String> {
    item.get(key)?.as_text().map(str::to_owned)
}

fn target(item: &Node) -> Option<String> {
    text_of(item, "target").or_else(|| text_of(item, "source"))
}

fn granted(item: &Node, folder: &str) -> Option<String> {
    let source = text_of(item, "source");
    match text_of(item, "target") {
        Some(target) if target.starts_with('/') => Some(target),
        Some(target) => Some(format!("{folder}/{target}")),
        None => source.map(|source| format!("{folder}/{source}")),
    }
}

fn port(item: &Node) -> Option<String> {
    let text = |key: &str, default: &str| text_of(item, key).unwrap_or_else(|| default.to_owned());
    let target = text_of(item, "target")?;
    Some(format!("{}:{}:{target}/{}", text("host_ip", "0.0.0.0"), text("published", ""), text("protocol", "tcp")))
}

#[cfg(test)]
mod tests;
