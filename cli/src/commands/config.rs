//! `wharf config` without a subcommand: prints compose files as wharf reads them. It needs no cluster.

use std::collections::BTreeSet;

use common::{error::Problem, explain::count};
use compose::{Document, Node, keys::Does};

use super::project::{ProjectFiles, refused};
use crate::{
    args::{Files, Format, Shown},
    output::{self, Rows},
};

/// Prints the merged files, or the requested part of them. If all is printed, problems that would prevent a deployment
/// go to stderr and the exit code is 2.
pub fn config(files: &Files, shown: Shown, format: Format) -> Result<u8, Problem> {
    let project = ProjectFiles::read(files)?;
    let document = project.load()?;
    match shown {
        Shown { services: true, .. } => services(&document).for_each(|(name, _)| output::line(name)),
        Shown { images: true, .. } => sorted(services(&document).filter_map(|(_, service)| text(service, "image"))),
        Shown { profile_names: true, .. } => sorted(document.off().values().flatten().cloned().chain(on(&document))),
        Shown { variables: true, .. } => variables(&project, format)?,
        Shown { keys: true, .. } => keys(&document, format),
        _ => return whole(&project, &document, format),
    }
    Ok(0)
}

fn whole(project: &ProjectFiles, document: &Document, format: Format) -> Result<u8, Problem> {
    let stack = project.stack(document.name().and_then(|name| name.parse().ok()).as_ref())?;
    let canonical = document.canonical(&project.project(), stack.as_str());
    match format {
        Format::Json => output::value(format, &canonical),
        _ => output::line(compose::to_yaml(&canonical).trim_end()),
    }
    let composed = document.convert(&project.project()).map_err(|error| refused(&error))?;
    composed.warnings.iter().for_each(|warning| output::note(format!("! {warning}")));
    Ok(0)
}

fn services(document: &Document) -> impl Iterator<Item = (&str, &Node)> {
    let services = document.root().get("services").and_then(Node::as_map);
    services.into_iter().flat_map(|map| map.entries()).map(|entry| (entry.key.as_str(), &entry.node))
}

fn text(node: &Node, key: &str) -> Option<String> {
    node.get(key).and_then(Node::as_text).map(str::to_owned)
}

/// The profiles that services name.
fn on(document: &Document) -> impl Iterator<Item = String> {
    let lists = services(document).filter_map(|(_, service)| service.get("profiles").and_then(Node::as_list));
    lists.flatten().filter_map(|profile| profile.as_text().map(str::to_owned))
}

/// Prints the names sorted, each one once.
fn sorted(names: impl Iterator<Item = String>) {
    names.collect::<BTreeSet<String>>().iter().for_each(|name| output::line(name));
}

/// Prints the variables that the files use, and their defaults.
fn variables(project: &ProjectFiles, format: Format) -> Result<(), Problem> {
    let found = project.used()?;
    let row = |(name, used): (&String, &compose::VariableUse)| {
        let required = if used.required { "yes" } else { "" };
        vec![name.clone(), required.to_owned(), used.default.clone().unwrap_or_default()]
    };
    let rows = found.iter().map(row).collect();
    output::list(format, &found, Rows { head: &["NAME", "REQUIRED", "DEFAULT"], narrow: 3, rows });
    Ok(())
}

/// Prints what wharf does with each key in the files.
fn keys(document: &Document, format: Format) {
    let uses = document.uses();
    let row = |used: &compose::keys::Use| {
        let (word, why) = told(used.does);
        vec![used.path.clone(), word.to_owned(), why.to_owned(), used.place.to_string()]
    };
    let rows: Vec<Vec<String>> = uses.iter().map(row).collect();
    let value = |row: &Vec<String>| serde_json::json!({"key": row[0], "wharf": row[1], "why": row[2], "place": row[3]});
    let data: Vec<serde_json::Value> = rows.iter().map(value).collect();
    let refused = uses.iter().filter(|used| matches!(used.does, Does::Refused(_))).count();
    output::list(format, &data, Rows { head: &["KEY", "WHARF", "WHY", "PLACE"], narrow: 4, rows });
    output::note(format!("{}, {refused} refused", count(uses.len() as u64, "key")));
}

/// The word for what wharf does with a key, and the reason.
fn told(does: Does) -> (&'static str, &'static str) {
    match does {
        Does::Done => ("done", ""),
        Does::Partly(how) => ("done", how),
        Does::Refused(why) => ("refused", why),
        Does::Warned(why) => ("left out", why),
        Does::Ignored(why) => ("left out", why),
    }
}
