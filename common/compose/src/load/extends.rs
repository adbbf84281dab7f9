//! `extends`: a service based on another one, of the same or another file.

use std::sync::Arc;

use super::{Loader, Surroundings, size};
use crate::{
    MAX_NODES,
    merge::{self, Tags},
    node::{Map, Node},
    paths, yaml,
};

/// The maximum number of services that extend one another in a chain.
const MAX_CHAIN: usize = 32;

/// The services that are being extended, as (file, name), to find cycles.
type Chain = Vec<(String, String)>;

impl Loader<'_> {
    /// Merges each service of a file onto the service that it extends.
    pub(super) fn extend(&self, file: &mut Node, name: &str, around: &Surroundings) {
        let Some(services) = file.get_mut("services").and_then(Node::as_map_mut) else { return };
        if services.entries.iter().all(|entry| entry.node.get("extends").is_none()) {
            return;
        }
        let before = services.clone();
        for entry in &mut services.entries {
            if entry.node.get("extends").is_some()
                && let Some(node) = self.extended(&before, &entry.key, name, around, &mut Vec::new())
            {
                entry.node = node;
            }
        }
    }

    /// A service merged onto all that it extends; `None` if the file has no such service.
    fn extended(
        &self,
        services: &Map,
        name: &str,
        file: &str,
        around: &Surroundings,
        chain: &mut Chain,
    ) -> Option<Node> {
        let mut service = services.get(name)?.clone();
        let removed = service.as_map_mut().and_then(|map| map.remove("extends"));
        let Some(extends) = removed.filter(|node| !node.is_null()) else { return Some(service) };
        let path = format!("services.{name}.extends");
        let refuse = |reason: String| self.findings.problem(Some(&extends.place), &path, reason);
        let Some(of) = extends.get("service").and_then(Node::as_text) else {
            refuse("service is missing: the name of the service to extend".to_owned());
            return Some(service);
        };
        let here = (file.to_owned(), name.to_owned());
        if chain.contains(&here) || chain.len() >= MAX_CHAIN {
            refuse(format!("{name} extends itself, through {of}"));
            return Some(service);
        }
        chain.push(here);
        let base = match extends.get("file").and_then(Node::as_text) {
            None => self.extended(services, of, file, around, chain),
            Some(other) => self.of_file(other, of, around, chain, &refuse),
        };
        chain.pop();
        let Some(base) = base else {
            if extends.get("file").is_none() {
                refuse(format!("there is no service {of} in {file}"));
            }
            return Some(service);
        };
        self.nodes.set(self.nodes.get().saturating_add(size(&base)));
        if self.nodes.get() > MAX_NODES {
            refuse(format!("the files have more than {MAX_NODES} values with what services extend"));
            return Some(service);
        }
        let mut merged = base;
        merge::merge(&mut merged, service, &["services", name], Tags::Kept, self.findings);
        Some(merged)
    }

    /// A service of another file. Its relative paths start from that file's folder.
    fn of_file(
        &self,
        file: &str,
        of: &str,
        around: &Surroundings,
        chain: &mut Chain,
        refuse: &dyn Fn(String),
    ) -> Option<Node> {
        let path = match paths::to_read(file, &around.directory, &around.variables) {
            Ok(path) => path,
            Err(reason) => {
                refuse(format!("{file}: {reason}"));
                return None;
            }
        };
        let known = self.bases.borrow().get(&path).cloned();
        let services = match known {
            Some(services) => services,
            None => {
                let read = self.base(&path, around).map_err(|reason| refuse(format!("{file}: {reason}"))).ok();
                self.bases.borrow_mut().insert(path.clone(), read.clone());
                read
            }
        }?;
        if services.get(of).is_none() {
            refuse(format!("there is no service {of} in {file}"));
            return None;
        }
        let there = Surroundings { directory: paths::folder(&path).to_owned(), ..around.clone() };
        self.extended(&services, of, &path, &there, chain)
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
