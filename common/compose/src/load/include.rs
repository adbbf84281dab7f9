//! `include`: other projects whose services, networks, volumes, configs and secrets belong to this one too.

use std::collections::BTreeMap;

use super::{Loader, Surroundings, shown};
use crate::{
    ComposeError, ReadError,
    env_file::{self, Format},
    interpolate::not_set,
    node::{Map, Node, Value},
    paths,
    place::Place,
};

/// The maximum nesting depth of includes.
const MAX_DEPTH: usize = 16;
const SECTIONS: [&str; 6] = ["services", "networks", "volumes", "configs", "secrets", "models"];

impl Loader<'_> {
    /// Adds the included projects to a file.
    pub(super) fn include(&self, file: &mut Node, around: &Surroundings) -> Result<(), ComposeError> {
        let Some(include) = file.as_map_mut().and_then(|map| map.remove("include")) else { return Ok(()) };
        let Some(items) = include.as_list() else {
            if !include.is_null() {
                self.findings.problem(
                    Some(&include.place),
                    "include",
                    format!("expected a list, found {}", include.kind()),
                );
            }
            return Ok(());
        };
        for (index, item) in items.iter().enumerate() {
            let path = format!("include[{index}]");
            match self.included(item, around) {
                Ok(model) => self.import(file, model?),
                Err(reason) => self.findings.problem(Some(&item.place), &path, reason),
            }
        }
        Ok(())
    }

    /// Loads one item of `include`, or says why it cannot.
    fn included(&self, item: &Node, around: &Surroundings) -> Result<Result<Node, ComposeError>, String> {
        let known = ["path", "project_directory", "env_file"];
        if let Some(other) =
            item.as_map().and_then(|map| map.entries.iter().find(|entry| !known.contains(&entry.key.as_str())))
        {
            return Err(format!("{:?} is not a key of include: use path, project_directory or env_file", other.key));
        }
        let named: Vec<&str> = texts(item.get("path"));
        let Some(first) = named.first() else { return Err("path is missing: the file to include".to_owned()) };
        let absolute = |path: &str| {
            paths::to_read(path, &around.directory, &around.variables).map_err(|reason| format!("{path}: {reason}"))
        };
        let main = absolute(first)?;
        if around.within.contains(&main) || around.within.len() >= MAX_DEPTH {
            return Err(format!("{first} includes itself"));
        }
        let directory = match item.get("project_directory").and_then(Node::as_text) {
            Some(directory) => absolute(directory)?,
            None => paths::folder(&main).to_owned(),
        };
        let mut sources = Vec::new();
        for path in &named {
            sources.push(self.source(&absolute(path)?, around).map_err(|reason| format!("{path}: {reason}"))?);
        }
        let variables = self.variables(item, around, &directory)?;
        let within = [around.within.as_slice(), &[main]].concat();
        Ok(self.model(&sources, &Surroundings { directory, variables, within }))
    }

    /// The variables of an included project: the current ones, extended by its env files.
    fn variables(
        &self,
        item: &Node,
        around: &Surroundings,
        directory: &str,
    ) -> Result<BTreeMap<String, String>, String> {
        let named = texts(item.get("env_file"));
        let usual = format!("{}/.env", directory.trim_end_matches('/'));
        let files: Vec<(String, bool)> = match named.is_empty() {
            true => vec![(usual, false)],
            false => {
                let path = |name: &&str| paths::to_read(name, &around.directory, &around.variables);
                let read: Result<Vec<_>, String> = named.iter().map(|name| Ok((path(name)?, true))).collect();
                read?
            }
        };
        let mut variables = around.variables.clone();
        for (path, is_required) in files {
            let name = shown(&path, &around.directory);
            let bytes = match self.bytes(&path) {
                Ok(bytes) => bytes,
                Err(ReadError::Missing) if !is_required => continue,
                Err(error) => return Err(format!("{name}: {error}")),
            };
            let text = String::from_utf8(bytes).map_err(|_| format!("{name}: it is not UTF-8"))?;
            let found =
                env_file::parse(&text, Format::Compose, &variables).map_err(|error| format!("{name}: {error}"))?;
            for (variable, line) in found.unset {
                let place =
                    Place { file: name.as_str().into(), line: u32::try_from(line).unwrap_or(u32::MAX), column: 1 };
                self.findings.warn(Some(&place), "", not_set(&variable));
            }
            for (key, value) in found.values {
                let Some(value) = value else { continue };
                self.from_included.borrow_mut().entry(key.clone()).or_insert_with(|| value.clone());
                variables.entry(key).or_insert(value);
            }
        }
        Ok(variables)
    }

    /// Adds the sections of another model. Different values for the same name are a conflict.
    fn import(&self, file: &mut Node, mut model: Node) {
        for section in SECTIONS {
            let Some(Value::Map(theirs)) =
                model.as_map_mut().and_then(|map| map.remove(section)).map(|node| node.value)
            else {
                continue;
            };
            let Some(map) = file.as_map_mut() else { return };
            if map.get(section).is_none_or(Node::is_null) {
                let place = model.place.clone();
                map.set(section, Node::new(Value::Map(Map::default()), place));
            }
            let Some(ours) = map.get_mut(section).and_then(Node::as_map_mut) else { continue };
            for entry in theirs.entries {
                match ours.get(&entry.key) {
                    None => ours.entries.push(entry),
                    Some(there) if there.same(&entry.node) => {}
                    Some(_) => {
                        let reason = format!(
                            "{} defines it differently; to change an included definition, list both files in one \
                             item under path, or use a further file with -f",
                            entry.place.file
                        );
                        let place = ours.entries.iter().find(|own| own.key == entry.key).map(|own| &own.place);
                        self.findings.problem(place, &format!("{section}.{}", entry.key), reason);
                    }
                }
            }
        }
    }
}

fn texts(node: Option<&Node>) -> Vec<&str> {
    node.and_then(Node::as_list).into_iter().flatten().filter_map(Node::as_text).collect()
}
