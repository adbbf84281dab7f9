//! Compose files of any content, with variables and an env file: reading them does not panic, and takes bounded time
//! and memory.
//!
//! The parts of an input are divided by zero bytes: the compose file, the env file, and the content of every other file
//! that it names.
#![no_main]

use std::collections::BTreeMap;

use compose::{Project, ReadError, Source, env_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut parts = text.splitn(3, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (file, env, other) = (part(), part(), part());
    let surroundings = BTreeMap::from([("TAG".to_owned(), "1.2".to_owned()), ("EMPTY".to_owned(), String::new())]);
    let _ = env_file::parse(env, env_file::Format::Raw, &surroundings);
    let mut variables = surroundings.clone();
    if let Ok(read) = env_file::parse(env, env_file::Format::Compose, &surroundings) {
        variables.extend(read.values.into_iter().filter_map(|(name, value)| Some((name, value?))));
    }
    let read = |path: &str| match path {
        _ if path.contains("env") => Ok(env.as_bytes().to_vec()),
        _ if other.is_empty() => Err(ReadError::Missing),
        _ => Ok(other.as_bytes().to_vec()),
    };
    let sources = [Source { name: "compose.yaml".to_owned(), text: file.to_owned() }];
    let _ = compose::variables(&sources);
    for profiles in [[].as_slice(), &["*".to_owned()]] {
        let project = Project { variables: &variables, directory: "/srv/shop", profiles, wanted: &[], read: &read };
        let Ok(document) = compose::load(&sources, &project) else { continue };
        document.uses();
        compose::to_yaml(&document.canonical(&project, "shop"));
        if let Ok(composed) = document.convert(&project) {
            assert!(composed.spec.validate().is_empty(), "what is converted keeps the rules of specs");
        }
    }
});
