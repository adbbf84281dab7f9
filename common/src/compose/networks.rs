//! Networks: those that are external are other environments, which a service joins.

use std::collections::{BTreeMap, BTreeSet};

use super::{convert::name_of, node::Node};
use crate::name::Name;

/// The networks that a file names, and the environments that they stand for; none for one of the stack's own.
pub(super) type Networks = BTreeMap<String, Option<Name>>;

/// The network that every service has, whether or not a file names it.
const DEFAULT: &str = "default";

/// Reads the file's networks.
pub(super) fn declared(root: &Node<'_>) -> Networks {
    let mut found = Networks::new();
    let Some(networks) = root.get("networks") else { return found };
    for (key, node) in networks.entries() {
        let external = node.is_mapping().then(|| node.get("external")).flatten();
        if !external.and_then(|external| external.boolean()).unwrap_or(false) {
            if key != DEFAULT {
                node.warn("it keeps nothing apart: all services of an environment share one network");
            }
            found.insert(key, None);
            continue;
        }
        node.warn_unknown(&["external", "name"]);
        let name = node.get("name").and_then(|name| name.text()).unwrap_or_else(|| key.clone());
        let environment = name_of(&name, &node);
        found.insert(key, environment);
    }
    found
}

/// The environments that a service joins.
pub(super) fn joined(service: &Node<'_>, declared: &Networks) -> BTreeSet<Name> {
    let mut joined = BTreeSet::new();
    for (key, node) in service.get("networks").map(|networks| networks.entries()).unwrap_or_default() {
        if node.is_mapping() {
            node.warn_unknown(&[]);
        }
        match declared.get(&key) {
            Some(environment) => joined.extend(environment.clone()),
            None if key == DEFAULT => {}
            None => node.problem(format!("there is no network {key} in this file")),
        }
    }
    joined
}
