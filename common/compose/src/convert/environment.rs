//! The variables of a container: those from env files, overridden by its own.

use std::collections::BTreeMap;

use super::Context;
use crate::{
    ReadError,
    env_file::{self, Format},
    field::Field,
    interpolate::not_set,
    place::Place,
};

/// The variables of a service or of one of its steps.
pub(crate) fn of_service(service: &Field<'_>, context: &Context<'_>) -> BTreeMap<String, String> {
    let own = service.entries_of("environment");
    let mut surroundings = context.variables.clone();
    for (key, value) in own.iter().filter(|(_, value)| !value.node.is_null()) {
        if let Some(text) = value.node.as_text() {
            surroundings.entry((*key).to_owned()).or_insert_with(|| text.to_owned());
        }
    }
    let mut variables = BTreeMap::new();
    for file in service.items_of("env_file") {
        read(&file, context, &surroundings, &mut variables);
    }
    for (key, value) in own {
        if value.node.is_null() {
            // The variable takes its value from the environment, which has none.
            variables.remove(key);
        } else if let Some(text) = value.text() {
            variables.insert(key.to_owned(), text);
        }
    }
    variables
}

/// The labels of a container: those from label files, overridden by its own.
pub(super) fn labels(service: &Field<'_>, context: &Context<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let surroundings = context.variables.clone();
    for file in service.items_of("label_file") {
        let Some(path) = file.text() else { continue };
        add(&file, &path, Format::Compose, true, context, &surroundings, &mut labels);
    }
    labels.extend(texts(service, "labels"));
    labels
}

/// A mapping whose values are texts.
pub(super) fn texts(of: &Field<'_>, key: &str) -> BTreeMap<String, String> {
    let text = |(key, value): (&str, Field<'_>)| value.text().map(|text| (key.to_owned(), text));
    of.entries_of(key).into_iter().filter_map(text).collect()
}

fn read(
    file: &Field<'_>,
    context: &Context<'_>,
    surroundings: &BTreeMap<String, String>,
    variables: &mut BTreeMap<String, String>,
) {
    let Some(path) = file.text_of("path") else { return file.problem("path is missing") };
    let format = match file.get("format") {
        None => Format::Compose,
        Some(format) => match format.word(&[("raw", Format::Raw)]) {
            Some(format) => format,
            None => return,
        },
    };
    let is_required = file.get("required").and_then(|required| required.boolean()).unwrap_or(true);
    add(file, &path, format, is_required, context, surroundings, variables);
}

fn add(
    file: &Field<'_>,
    path: &str,
    format: Format,
    is_required: bool,
    context: &Context<'_>,
    surroundings: &BTreeMap<String, String>,
    found: &mut BTreeMap<String, String>,
) {
    let shown = context.shown(path);
    let bytes = match context.file(path) {
        Ok(bytes) => bytes,
        Err(ReadError::Missing) if !is_required => return,
        Err(error) => return file.problem(format!("{shown}: {error}")),
    };
    let Ok(text) = String::from_utf8(bytes) else { return file.problem(format!("{shown}: it is not UTF-8")) };
    let parsed = match env_file::parse_after(&text, format, surroundings, found) {
        Ok(parsed) => parsed,
        Err(error) => return file.problem(format!("{shown}: {error}")),
    };
    for (variable, line) in parsed.unset {
        let place = Place { file: shown.into(), line: u32::try_from(line).unwrap_or(u32::MAX), column: 1 };
        file.warn_at(&place, not_set(&variable));
    }
    for (key, value) in parsed.values {
        let Some(value) = value else { continue };
        found.insert(key, value);
    }
}
