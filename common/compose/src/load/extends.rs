//! `extends`: a service based on another one, of the same or another file.

use std::sync::Arc;

use super::{Loader, Surroundings, size};
use crate::{
    MAX_NODES,
    merge::{Merge, Tags},
    node::{Map, Node},
    paths, yaml,
};

/// The maximum number of services that extend one another in a chain.
const MAX_CHAIN: usize = 32;

/// The services that are being extended, as (file, name), to find cycles.
type Chain = Vec<(String, String)>;

/// Where a service is looked for.
struct Within<'a> {
    services: &'a Map,
    /// The file that they are of.
    file: &'a str,
    around: &'a Surroundings,
}

impl Loader<'_> {
    /// Merges each service of a file onto the service that it extends.
    pub(super) fn extend(&self, file: &mut Node, name: &str, around: &Surroundings) {
        let Some(services) = file.get_mut("services").and_then(Node::as_map_mut) else { return };
        if services.entries.iter().all(|entry| entry.node.get("extends").is_none()) {
            return;
        }
        let before = services.clone();
        let within = Within { services: &before, file: name, around };
        for entry in &mut services.entries {
            if entry.node.get("extends").is_some()
                && let Some(node) = self.extended(&within, &entry.key, &mut Vec::new())
            {
                entry.node = node;
            }
        }
    }

    /// A service with all that it extends below it; nothing if the file has no such service.
    fn extended(&self, within: &Within<'_>, name: &str, chain: &mut Chain) -> Option<Node> {
        let mut service = within.services.get(name)?.clone();
        let removed = service.as_map_mut().and_then(|map| map.remove("extends"));
        let Some(extends) = removed.filter(|node| !node.is_null()) else { return Some(service) };
        let path = format!("services.{name}.extends");
        let refuse = |reason: String| self.findings.problem(Some(&extends.place), &path, reason);
        let Some(of) = extends.get("service").and_then(Node::as_text) else {
            refuse("service is missing: the name of the service to extend".to_owned());
            return Some(service);
        };
        let here = (within.file.to_owned(), name.to_owned());
        if chain.contains(&here) || chain.len() >= MAX_CHAIN {
            refuse(format!("{name} extends itself, through {of}"));
            return Some(service);
        }
        chain.push(here);
        let base = self.below(&extends, of, within, chain);
        chain.pop();
        let mut merged = match base {
            Ok(Some(base)) => base,
            Ok(None) => return Some(service),
            Err(reason) => {
                refuse(reason);
                return Some(service);
            }
        };
        self.nodes.set(self.nodes.get().saturating_add(size(&merged)));
        if self.nodes.get() > MAX_NODES {
            refuse(format!("the files have more than {MAX_NODES} values with what services extend"));
            return Some(service);
        }
        Merge { tags: Tags::Kept, findings: self.findings }.lay(&mut merged, service, &["services", name]);
        Some(merged)
    }

    /// The service that another one extends; nothing if its file has been refused before.
    fn below(&self, extends: &Node, of: &str, within: &Within<'_>, chain: &mut Chain) -> Result<Option<Node>, String> {
        let absent = |file: &str| format!("there is no service {of} in {file}");
        let Some(other) = extends.get("file").and_then(Node::as_text) else {
            let base = self.extended(within, of, chain);
            return base.map(Some).ok_or_else(|| absent(within.file));
        };
        let Some((path, services)) = self.services_of(other, within.around)? else { return Ok(None) };
        if services.get(of).is_none() {
            return Err(absent(other));
        }
        // Relative paths start from where that file lies.
        let directory = paths::folder(&path).to_owned();
        let there = Surroundings { directory, ..within.around.clone() };
        Ok(self.extended(&Within { services: &services, file: &path, around: &there }, of, chain))
    }

    /// The path and the services of another file. The reader reports once why it cannot read the file.
    fn services_of(&self, file: &str, around: &Surroundings) -> Result<Option<(String, Map)>, String> {
        let refuse = |reason: String| format!("{file}: {reason}");
        let path = paths::to_read(file, &around.directory, &around.variables).map_err(refuse)?;
        let known = self.bases.borrow().get(&path).cloned();
        let services = match known {
            Some(services) => services,
            None => {
                let read = self.base(&path, around);
                self.bases.borrow_mut().insert(path.clone(), read.as_ref().ok().cloned());
                Some(read.map_err(refuse)?)
            }
        };
        Ok(services.map(|services| (path, services)))
    }

    fn base(&self, path: &str, around: &Surroundings) -> Result<Map, String> {
        let source = self.source(path, around)?;
        let name: Arc<str> = source.name.as_str().into();
        let documents = yaml::documents(&name, &source.text).map_err(|error| error.to_string())?;
        let mut services = Map::default();
        for document in documents {
            let mut file =
                self.prepared(document, paths::folder(path), &around.variables).map_err(|error| error.to_string())?;
            let found = file.as_map_mut().and_then(|map| map.remove("services"));
            for entry in found.iter().filter_map(Node::as_map).flat_map(|map| &map.entries) {
                services.set(&entry.key, entry.node.clone());
            }
        }
        Ok(services)
    }
}
