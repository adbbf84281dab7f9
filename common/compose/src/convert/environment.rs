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
    let mut files = Files { context, surroundings, found: BTreeMap::new() };
    for file in service.items_of("env_file") {
        files.read(&file);
    }
    let mut variables = files.found;
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
    let mut files = Files { context, surroundings: context.variables.clone(), found: BTreeMap::new() };
    for file in service.items_of("label_file") {
        let Some(path) = file.text() else { continue };
        files.add(&file, &path, Format::Compose, true);
    }
    let mut labels = files.found;
    labels.extend(texts(service, "labels"));
    labels
}

/// A mapping whose values are texts.
pub(super) fn texts(of: &Field<'_>, key: &str) -> BTreeMap<String, String> {
    let text = |(key, value): (&str, Field<'_>)| value.text().map(|text| (key.to_owned(), text));
    of.entries_of(key).into_iter().filter_map(text).collect()
}

/// Env files that are read one after the other.
struct Files<'a> {
    context: &'a Context<'a>,
    /// What their variables are looked up in first.
    surroundings: BTreeMap<String, String>,
    /// What they have set.
    found: BTreeMap<String, String>,
}

impl Files<'_> {
    fn read(&mut self, file: &Field<'_>) {
        let Some(path) = file.text_of("path") else { return file.problem("path is missing") };
        let format = match file.get("format") {
            None => Format::Compose,
            Some(format) => match format.word(&[("raw", Format::Raw)]) {
                Some(format) => format,
                None => return,
            },
        };
        let is_required = file.get("required").and_then(|required| required.boolean()).unwrap_or(true);
        self.add(file, &path, format, is_required);
    }

    fn add(&mut self, file: &Field<'_>, path: &str, format: Format, is_required: bool) {
        let shown = self.context.shown(path);
        let bytes = match self.context.file(path) {
            Ok(bytes) => bytes,
            Err(ReadError::Missing) if !is_required => return,
            Err(error) => return file.problem(format!("{shown}: {error}")),
        };
        let Ok(text) = String::from_utf8(bytes) else { return file.problem(format!("{shown}: it is not UTF-8")) };
        let parsed = match env_file::parse_after(&text, format, &self.surroundings, &self.found) {
            Ok(parsed) => parsed,
            Err(error) => return file.problem(format!("{shown}: {error}")),
        };
        for (variable, line) in parsed.unset {
            let place = Place { file: shown.into(), line: u32::try_from(line).unwrap_or(u32::MAX), column: 1 };
            file.warn_at(&place, not_set(&variable));
        }
        let given = parsed.values.into_iter().filter_map(|(key, value)| Some((key, value?)));
        self.found.extend(given);
    }
}
