//! Finds compose files on disk, with their variables and profiles, and reads them.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use common::{
    error::{Code, Problem},
    name::Name,
};
use compose::{
    ComposeError, Composed, Document, Project, ReadError, Source, VariableUse,
    env_file::{self, Format},
};

use crate::{args::Files, output};

const DEFAULT_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
/// The override files that are read with a default file in the same folder.
const OVERRIDES: [&str; 4] =
    ["compose.override.yaml", "compose.override.yml", "docker-compose.override.yaml", "docker-compose.override.yml"];

/// The compose files of a project, with the variables, profiles and folder to read them with.
pub struct ProjectFiles {
    /// The paths as the user gave them, separated by commas.
    pub shown: String,
    sources: Vec<Source>,
    directory: String,
    variables: BTreeMap<String, String>,
    profiles: Vec<String>,
    wanted: Vec<String>,
    /// The stack's name from `--name` or `COMPOSE_PROJECT_NAME`.
    name: Option<Name>,
}

impl ProjectFiles {
    /// Reads the files from the command line, else from the environment, else from this folder or its parents.
    pub fn read(files: &Files) -> Result<ProjectFiles, Problem> {
        let shell = shell();
        let paths = chosen(files, &shell)?;
        let directory = directory_of(&paths)?;
        let variables = variables(&directory, files, shell)?;
        let sources = paths.iter().map(|path| source(path)).collect::<Result<Vec<_>, Problem>>()?;
        let given = variables.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
        let profiles = files.profiles.iter().map(String::as_str).chain(given.split(','));
        let profiles = profiles.map(str::trim).filter(|profile| !profile.is_empty()).map(str::to_owned).collect();
        let name = match (&files.name, variables.get("COMPOSE_PROJECT_NAME").filter(|name| !name.is_empty())) {
            (Some(name), _) => Some(name.clone()),
            (None, Some(text)) => Some(name_of(text)?),
            (None, None) => None,
        };
        let shown = sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
        let directory = directory.display().to_string();
        let mut project =
            ProjectFiles { shown, sources, directory, variables, profiles, wanted: files.with.clone(), name };
        if let Some(name) = &project.name {
            project.variables.insert("COMPOSE_PROJECT_NAME".to_owned(), name.to_string());
        }
        Ok(project)
    }

    /// The project in the form that the compose parser expects.
    pub fn project(&self) -> Project<'_> {
        Project {
            variables: &self.variables,
            directory: &self.directory,
            profiles: &self.profiles,
            wanted: &self.wanted,
            read: &read_file,
        }
    }

    /// Merges all files into one document.
    pub fn load(&self) -> Result<Document, Problem> {
        compose::load(&self.sources, &self.project()).map_err(|error| refused(&error))
    }

    /// The variables that the files themselves use; those of included files are not counted.
    pub fn used(&self) -> Result<BTreeMap<String, VariableUse>, Problem> {
        compose::variables(&self.sources).map_err(|error| refused(&error))
    }

    /// Converts the files to a stack, and prints the warnings.
    pub fn compose(&self) -> Result<Composed, Problem> {
        let composed = self.load()?.convert(&self.project()).map_err(|error| refused(&error))?;
        composed.warnings.iter().for_each(|warning| output::note(format!("! {warning}")));
        Ok(composed)
    }

    /// The stack's name: the given one, else the file's own, else the folder's.
    pub fn stack(&self, own: Option<&Name>) -> Result<Name, Problem> {
        let folder = || Path::new(&self.directory).file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.name.clone().or_else(|| own.cloned()).map_or_else(|| name_of(&folder()), Ok)
    }
}

/// The problem for files that cannot be deployed. Prints their warnings first.
pub fn refused(error: &ComposeError) -> Problem {
    error.warnings().iter().for_each(|warning| output::note(format!("! {warning}")));
    let problem = Problem::new(Code::ComposeInvalid, "The compose file cannot be deployed");
    let text = error.to_string();
    let problem = text.lines().fold(problem, |problem, line| problem.why(line));
    problem.fix("Fix the file and run the command again. Nothing was changed")
}

fn invalid(what: impl Into<String>, why: impl std::fmt::Display) -> Problem {
    Problem::new(Code::ComposeInvalid, what).why(why.to_string())
}

/// The environment variables. Those that are not UTF-8 are left out: compose files cannot contain them either.
fn shell() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// The files to read: those named, else those of `COMPOSE_FILE`, else the default ones here or in the nearest parent.
fn chosen(files: &Files, shell: &BTreeMap<String, String>) -> Result<Vec<PathBuf>, Problem> {
    if !files.files.is_empty() {
        return Ok(files.files.clone());
    }
    // A `.env` file here may set `COMPOSE_FILE` as well.
    let here = variables(Path::new("."), files, shell.clone())?;
    if let Some(named) = here.get("COMPOSE_FILE").filter(|named| !named.is_empty()) {
        let separator = here.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
        return Ok(named.split(separator).filter(|path| !path.is_empty()).map(PathBuf::from).collect());
    }
    let here = std::env::current_dir().map_err(|error| invalid("The current folder cannot be read", error))?;
    let found = here.ancestors().find_map(|folder| {
        let first = |names: &[&str]| names.iter().map(|name| folder.join(name)).find(|path| path.exists());
        Some((first(&DEFAULT_FILES)?, first(&OVERRIDES)))
    });
    let (file, more) = found.ok_or_else(|| {
        invalid(
            "There is no compose file here",
            "wharf looked for compose.yaml and docker-compose.yaml here and in all parent folders",
        )
        .fix("Name one: wharf deploy -f FILE")
    })?;
    let near = |path: PathBuf| path.strip_prefix(&here).map(Path::to_path_buf).unwrap_or(path);
    Ok(std::iter::once(file).chain(more).map(near).collect())
}

/// The base of relative paths: the folder of the first file.
fn directory_of(paths: &[PathBuf]) -> Result<PathBuf, Problem> {
    let first = paths.first().filter(|path| path.as_os_str() != "-");
    let folder = first.and_then(|path| path.parent()).filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    folder.canonicalize().map_err(|error| invalid(format!("{} cannot be used", folder.display()), error))
}

/// The variables for interpolation: from the named env files or `.env`, overridden by the environment.
fn variables(
    directory: &Path,
    files: &Files,
    shell: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Problem> {
    let usual = directory.join(".env");
    let named = match files.env_files.is_empty() {
        true => usual.exists().then_some(usual).into_iter().collect(),
        false => files.env_files.clone(),
    };
    let mut variables = BTreeMap::new();
    for path in named {
        let refuse = |why: String| invalid(format!("{} cannot be read", path.display()), why);
        let text = text_of(&path).map_err(refuse)?;
        let mut known: BTreeMap<String, String> = variables.clone();
        known.extend(shell.clone());
        let found = env_file::parse(&text, Format::Compose, &known).map_err(|error| refuse(error.to_string()))?;
        for (name, line) in found.unset {
            output::note(format!("! {}:{line}: the variable {name} is not set, so it is empty here", path.display()));
        }
        variables.extend(found.values.into_iter().filter_map(|(key, value)| Some((key, value?))));
    }
    variables.extend(shell);
    Ok(variables)
}

/// Reads a file named on the command line; `-` is standard input.
fn source(path: &Path) -> Result<Source, Problem> {
    let refuse = |why: String| invalid(format!("{} cannot be read", path.display()), why);
    if path.as_os_str() != "-" {
        return Ok(Source { name: path.display().to_string(), text: text_of(path).map_err(refuse)? });
    }
    let mut text = String::new();
    let most = compose::MAX_FILE as u64 + 1;
    std::io::stdin().take(most).read_to_string(&mut text).map_err(|error| refuse(error.to_string()))?;
    Ok(Source { name: "stdin".to_owned(), text })
}

fn text_of(path: &Path) -> Result<String, String> {
    let bytes = read_limited(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// Reads a file that a compose file refers to.
fn read_file(path: &str) -> Result<Vec<u8>, ReadError> {
    read_limited(Path::new(path))
}

/// Reads a regular file up to the size limit for compose files.
fn read_limited(path: &Path) -> Result<Vec<u8>, ReadError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => ReadError::Missing,
        _ => ReadError::Failed(error.to_string()),
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(ReadError::Failed("it is not a regular file".to_owned()));
    }
    if metadata.len() > compose::MAX_FILE as u64 {
        let reason = format!("it has {} bytes, and at most {} are allowed", metadata.len(), compose::MAX_FILE);
        return Err(ReadError::Failed(reason));
    }
    std::fs::read(path).map_err(failed)
}

/// Turns any text into a stack name, if possible.
fn name_of(text: &str) -> Result<Name, Problem> {
    let lower = text.to_lowercase();
    let allowed: String = lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Name::parse(allowed.trim_matches('-'))
        .map_err(|error| invalid("The stack's name cannot be derived", error).fix("Set it: wharf deploy --name NAME"))
}
