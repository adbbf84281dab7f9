//! How the command line finds compose files and their variables, seen through `wharf config`, which needs no cluster.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

const COMPOSE: &str = "
services:
  app:
    image: app:${TAG:-none}
  debug:
    image: debug:1
    profiles: [tools]
  wipe:
    image: wipe:1
    profiles: [danger]
";

/// A folder with a project in it.
fn project() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        ("compose.yaml", COMPOSE),
        ("compose.override.yaml", "services: {app: {environment: {FROM: override}}}"),
        ("other.yaml", "services: {other: {image: 'other:${TAG:-none}'}}"),
        (".env", "TAG=env-file\n"),
        ("more.env", "TAG=more\n"),
        ("unset.yaml", "services: {app: {image: 'app:1', environment: {PW: '${NOT_SET}'}}}"),
        ("refused.yaml", "services:\n  app:\n    build: .\n"),
    ] {
        fs::write(folder.path().join(name), text).expect("it can be written");
    }
    fs::create_dir_all(folder.path().join("deep/inside")).expect("it can be made");
    folder
}

/// Runs `wharf config` in a folder, with these variables and no others.
fn config(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.arg("config").args(arguments).current_dir(folder).env_clear().env("HOME", folder);
    command.envs(variables.iter().copied()).output().expect("it can be run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[test]
fn files_profiles_and_variables_are_found_as_compose_finds_them() {
    let folder = project();
    for (what, variables, arguments, expected) in [
        ("services without profiles", vec![], vec!["--services"], "app"),
        ("a profile", vec![], vec!["--services", "--profile", "tools"], "app\ndebug"),
        ("all of them", vec![], vec!["--services", "--profile", "*"], "app\ndebug\nwipe"),
        ("COMPOSE_PROFILES", vec![("COMPOSE_PROFILES", "tools,danger")], vec!["--services"], "app\ndebug\nwipe"),
        ("a service by its name", vec![], vec!["--services", "--with", "wipe"], "app\nwipe"),
        ("a named file", vec![], vec!["--services", "-f", "other.yaml"], "other"),
        ("two of them", vec![], vec!["--services", "-f", "compose.yaml", "-f", "other.yaml"], "app\nother"),
        ("COMPOSE_FILE", vec![("COMPOSE_FILE", "compose.yaml:other.yaml")], vec!["--services"], "app\nother"),
        ("the .env beside it", vec![], vec!["--images"], "app:env-file"),
        ("another env file", vec![], vec!["--images", "--env-file", "more.env"], "app:more"),
        ("the environment goes first", vec![("TAG", "shell")], vec!["--images"], "app:shell"),
    ] {
        let output = config(folder.path(), &variables, &arguments);
        assert_eq!(text(&output.stdout), expected, "{what}: {}", text(&output.stderr));
        assert!(output.status.success(), "{what}");
    }
    let whole = text(&config(&folder.path().join("deep/inside"), &[], &[]).stdout);
    assert!(whole.contains("FROM: override") && whole.contains("image: app:env-file"), "from a folder below: {whole}");
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let folder = project();
    for (arguments, code, words) in [
        (vec!["-f", "unset.yaml"], 0, vec!["unset.yaml:1:", "NOT_SET", "not set"]),
        (vec!["-f", "refused.yaml"], 2, vec!["refused.yaml:3:", "build"]),
        (vec!["-f", "missing.yaml"], 2, vec!["missing.yaml"]),
        (vec!["--env-file", "missing.env"], 2, vec!["missing.env"]),
        (vec!["--with", "nothing"], 2, vec!["nothing"]),
    ] {
        let output = config(folder.path(), &[], &arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} in {said}");
    }
}
