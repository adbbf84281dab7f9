//! Profiles: a service with profiles is deployed only if one of them is enabled.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Project,
    node::{Node, Value},
    place::Findings,
};

/// Removes the services that are not enabled, and returns them with their profiles.
pub(crate) fn apply(root: &mut Node, project: &Project<'_>, findings: &Findings) -> BTreeMap<String, Vec<String>> {
    let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) else { return BTreeMap::new() };
    let mut on: BTreeSet<String> = project.profiles.iter().cloned().collect();
    for name in project.wanted {
        match services.get(name) {
            // As in compose, naming a service enables its profiles.
            Some(service) => on.extend(profiles(service)),
            None => findings.problem(None, "services", format!("there is no service {name} in these files")),
        }
    }
    let mut off = BTreeMap::new();
    let is_on = |service: &Node| {
        let own = profiles(service);
        own.is_empty() || on.contains("*") || own.iter().any(|profile| on.contains(profile))
    };
    for entry in std::mem::take(&mut services.entries) {
        check(&entry.node, &entry.key, findings);
        if is_on(&entry.node) {
            services.entries.push(entry);
        } else {
            off.insert(entry.key, profiles(&entry.node));
        }
    }
    off
}

fn profiles(service: &Node) -> Vec<String> {
    let items = service.get("profiles").and_then(Node::as_list).into_iter().flatten();
    items.filter_map(|item| item.as_text().map(str::to_owned)).collect()
}

/// Unreadable profiles would leave a service enabled.
fn check(service: &Node, name: &str, findings: &Findings) {
    let Some(profiles) = service.get("profiles").filter(|profiles| !profiles.is_null()) else { return };
    let path = format!("services.{name}.profiles");
    let Value::List(items) = &profiles.value else {
        return findings.problem(Some(&profiles.place), &path, format!("expected a list, found {}", profiles.kind()));
    };
    for (index, item) in items.iter().enumerate().filter(|(_, item)| item.as_text().is_none()) {
        findings.problem(
            Some(&item.place),
            &format!("{path}[{index}]"),
            format!("expected text, found {}", item.kind()),
        );
    }
}
