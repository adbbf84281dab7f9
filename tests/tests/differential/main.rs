//! wharf reads compose files as Docker Compose does: the same names, values and merge results, for the corpus of
//! published files and for generated ones.
//!
//! Needs root and, the first time, Debian's package archive: the other side is Docker Compose itself, which
//! `scripts/docker-compose` fetches once. Without it this test fails. [`decided`] lists the intended differences and
//! their reasons.
//!
//! To run one seed and see both results: `WHARF_SEED=17 cargo test -p tests --test differential -- --nocapture`.

mod decided;
mod generate;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use compose::{Form, Node, ReadError, Source, Value as Composed, env_file};
use generate::Project;
use serde_json::{Map, Number, Value};

/// The number of generated projects.
const SEEDS: u64 = 200;
/// The home of the deploying user.
const HOME: &str = "/home/ann";
/// How many of them Docker Compose must accept, so that there is enough to compare.
const ACCEPTED: usize = 180;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_path_buf()
}

/// The path of Docker Compose, which is fetched if it is missing.
fn docker_compose() -> PathBuf {
    let fetched = Command::new(root().join("scripts/docker-compose")).output().expect("the script can be started");
    let said = String::from_utf8_lossy(&fetched.stderr);
    assert!(fetched.status.success(), "Docker Compose cannot be fetched, and nothing can be compared: {said}");
    PathBuf::from(String::from_utf8(fetched.stdout).expect("a path").trim())
}

/// Docker Compose's reading of a project.
fn theirs(program: &Path, folder: &Path, project: &Project) -> Result<Value, String> {
    let mut command = Command::new(program);
    command.current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", HOME);
    command.envs(&project.variables);
    for file in &project.given {
        command.args(["-f", file]);
    }
    for profile in &project.profiles {
        command.args(["--profile", profile]);
    }
    let output = command.args(["config", "--format", "json"]).output().expect("it can be started");
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().last().unwrap_or_default().to_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).expect("it prints JSON"))
}

/// wharf's reading of a project.
struct Ours {
    /// In the format of Docker Compose.
    canonical: Value,
    /// Why it cannot be deployed.
    refusal: Option<String>,
}

fn ours(folder: &Path, project: &Project) -> Result<Ours, String> {
    let directory = folder.display().to_string();
    let mut shell = project.variables.clone();
    shell.insert("HOME".to_owned(), HOME.to_owned());
    shell.insert("PATH".to_owned(), "/usr/bin:/bin".to_owned());
    let mut variables = BTreeMap::new();
    if let Ok(text) = fs::read_to_string(folder.join(".env")) {
        let read =
            env_file::parse(&text, env_file::Format::Compose, &shell).map_err(|error| format!(".env: {error}"))?;
        variables.extend(read.values.into_iter().filter_map(|(key, value)| Some((key, value?))));
    }
    variables.extend(shell);
    let read = |path: &str| {
        fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ReadError::Missing,
            _ => ReadError::Failed(error.to_string()),
        })
    };
    let source = |name: &String| Source {
        name: name.clone(),
        text: fs::read_to_string(folder.join(name)).expect("it can be read"),
    };
    let sources: Vec<Source> = project.given.iter().map(source).collect();
    let around = compose::Project {
        variables: &variables,
        directory: &directory,
        profiles: &project.profiles,
        wanted: &[],
        read: &read,
    };
    let document = compose::load(&sources, &around).map_err(|error| error.to_string())?;
    let (problems, _) = document.findings();
    if let Some(problem) = problems.first() {
        return Err(problem.to_string());
    }
    let folder_name = folder.file_name().expect("a name").to_string_lossy().to_lowercase();
    let name = document.name().filter(|name| !name.is_empty()).unwrap_or(&folder_name).to_owned();
    let canonical = json(&document.canonical(&around, &name));
    Ok(Ours { canonical, refusal: document.convert(&around).err().map(|error| error.to_string()) })
}

fn json(node: &Node) -> Value {
    match &node.value {
        Composed::Scalar(scalar) => match scalar.form {
            Form::Null => Value::Null,
            Form::Bool => Value::Bool(scalar.text == "true"),
            Form::Int | Form::Float => {
                scalar.text.parse::<Number>().map_or_else(|_| scalar.text.clone().into(), Value::Number)
            }
            Form::Text => Value::String(scalar.text.clone()),
        },
        Composed::List(items) => Value::Array(items.iter().map(json).collect()),
        Composed::Map(map) => Value::Object(
            map.entries().iter().map(|entry| (entry.key.clone(), json(&entry.node))).collect::<Map<_, _>>(),
        ),
    }
}

/// The differences between two values, one line per place.
fn differences(path: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(&at, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, found);
            }
        }
        _ if theirs == ours => {}
        _ => found.push(format!("{path}: Docker Compose {theirs}, wharf {ours}")),
    }
}

/// Compares one project; returns the unintended differences.
fn compare(program: &Path, folder: &Path, project: &Project) -> (bool, Vec<String>) {
    match (theirs(program, folder, project), ours(folder, project)) {
        (Ok(mut theirs), Ok(mut ours)) => {
            decided::even_out(&mut theirs, &mut ours.canonical, HOME);
            let mut found = Vec::new();
            differences("", &theirs, &ours.canonical, &mut found);
            (true, found)
        }
        (Err(_), Err(_)) => (false, Vec::new()),
        (Err(why), Ok(ours)) if ours.refusal.is_some() || decided::may_accept(&why) => (false, Vec::new()),
        (Err(why), Ok(_)) => (false, vec![format!("Docker Compose refuses it, and wharf does not: {why}")]),
        (Ok(_), Err(why)) => (true, vec![format!("wharf refuses it, and Docker Compose does not: {why}")]),
    }
}

#[track_caller]
fn none(found: Vec<String>) {
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn generated_projects_are_read_as_by_docker_compose() {
    let program = docker_compose();
    let only: Option<u64> = std::env::var("WHARF_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = only.map_or(0..SEEDS, |seed| seed..seed + 1);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (mut accepted, mut found) = (0, Vec::new());
    for seed in seeds {
        let project = generate::project(seed);
        let folder = folder.path().join(format!("p{seed}"));
        for (name, text) in &project.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("it can be made");
            fs::write(path, text).expect("it can be written");
        }
        if only.is_some() {
            project.given.iter().for_each(|name| println!("--- {name}\n{}", project.files[name]));
        }
        let (was_accepted, of_seed) = compare(&program, &folder, &project);
        accepted += usize::from(was_accepted);
        found.extend(of_seed.into_iter().map(|line| format!("seed {seed}: {line}")));
    }
    none(found);
    assert!(only.is_some() || accepted >= ACCEPTED, "Docker Compose takes {accepted} projects");
}

#[test]
fn published_files_are_read_as_by_docker_compose() {
    let program = docker_compose();
    let corpus = root().join("tests/corpus/awesome-compose");
    let (mut count, mut found) = (0, Vec::new());
    for entry in fs::read_dir(corpus).expect("the corpus is there") {
        let folder = entry.expect("an entry").path();
        let given = ["compose.yaml", "compose.yml"].into_iter().find(|name| folder.join(name).exists());
        let Some(given) = given else { continue };
        let project = Project { given: vec![given.to_owned()], ..Project::default() };
        let (was_accepted, of_file) = compare(&program, &folder, &project);
        count += usize::from(was_accepted);
        found.extend(of_file.into_iter().map(|line| format!("{}: {line}", folder.display())));
    }
    none(found);
    assert_eq!(count, 39, "Docker Compose takes all of them");
}

#[test]
fn what_differs_is_seen() {
    let mut found = Vec::new();
    let (a, b) =
        (serde_json::json!({"a": [1, {"b": 2}], "c": null}), serde_json::json!({"a": [1, {"b": "2"}], "d": 1}));
    differences("", &a, &b, &mut found);
    assert_eq!(found, ["a[1].b: Docker Compose 2, wharf \"2\"", "d: Docker Compose null, wharf 1"]);
}
