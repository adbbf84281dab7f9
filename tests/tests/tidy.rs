//! Checks of the tree that neither the compiler nor clippy makes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_path_buf()
}

/// Every file of ours that git tracks or would track.
fn files(ending: &str) -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    let listed = String::from_utf8(listed.stdout).expect("names are UTF-8");
    let wanted = listed.lines().filter(|name| name.ends_with(ending));
    let read = |name: &str| fs::read_to_string(root().join(name)).ok().map(|text| (name.to_owned(), text));
    let found: Vec<_> = wanted.filter_map(read).collect();
    assert!(!found.is_empty(), "there are files that end in {ending}");
    found
}

#[track_caller]
fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn files_and_functions_are_short_enough_to_live_in() {
    let mut found = Vec::new();
    for (name, text) in files(".rs") {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > 600 {
            found.push(format!("{name} has {} lines", lines.len()));
        }
        let mut begun: Option<(usize, usize)> = None;
        for (number, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let word = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(super) ");
            let word = word.trim_start_matches("pub(crate) ").trim_start_matches("async ");
            if word.starts_with("fn ") {
                begun = Some((number, indent));
            }
            if let Some((start, of)) = begun
                && line.trim_end() == format!("{}}}", " ".repeat(of))
            {
                if number - start > 80 {
                    found.push(format!("{name}:{} has a function of {} lines", start + 1, number - start));
                }
                begun = None;
            }
        }
    }
    none("too long", found);
}

#[test]
fn no_file_is_a_junk_drawer() {
    let drawers = ["util", "utils", "helper", "helpers", "misc", "manager", "handler", "common_stuff"];
    let named =
        |name: &str| Path::new(name).file_stem().is_some_and(|stem| drawers.iter().any(|drawer| stem == *drawer));
    none("named after nothing", files(".rs").into_iter().map(|(name, _)| name).filter(|name| named(name)).collect());
}

#[test]
fn nothing_pretends() {
    let this = "tests/tests/tidy.rs";
    let marks = ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX", "dbg!(", "#[allow(", "#![allow("];
    let mut found = Vec::new();
    for (name, text) in files(".rs").into_iter().filter(|(name, _)| name != this) {
        for (number, line) in text.lines().enumerate() {
            found.extend(
                marks.iter().filter(|mark| line.contains(**mark)).map(|mark| format!("{name}:{}: {mark}", number + 1)),
            );
        }
    }
    none("marks of what is not done", found);
}

#[test]
fn the_cores_depend_on_nothing_that_acts() {
    let forbidden = [
        "tokio",
        "quinn",
        "bollard",
        "axum",
        "hyper",
        "sled",
        "openraft",
        "rtnetlink",
        "hickory",
        "rand",
        "ring",
        "rustix",
        "sysinfo",
        "link",
        "coordinator",
        "agent",
    ];
    let mut found = Vec::new();
    for manifest in
        ["common/Cargo.toml", "common/compose/Cargo.toml", "coordinator/core/Cargo.toml", "agent/core/Cargo.toml"]
    {
        let text = fs::read_to_string(root().join(manifest)).expect("the manifest is there");
        let dependencies = text.split("[dependencies]").nth(1).expect("it has dependencies").split("\n[").next();
        for line in dependencies.unwrap_or_default().lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if forbidden.contains(&name) {
                found.push(format!("{manifest} names {name}"));
            }
        }
    }
    for folder in ["common/src", "common/compose/src", "coordinator/core/src", "agent/core/src"] {
        let files: Vec<_> = files(".rs").into_iter().filter(|(name, _)| name.starts_with(folder)).collect();
        assert!(!files.is_empty(), "{folder} has files");
        for (name, text) in files {
            for word in ["std::fs", "std::thread", "SystemTime", "Instant::now", "async fn", "std::process"] {
                if text.contains(word) {
                    found.push(format!("{name} says {word}"));
                }
            }
        }
    }
    none("a core that acts", found);
}

#[test]
fn agent_and_coordinator_never_see_each_other() {
    let text = |path: &str| fs::read_to_string(root().join(path)).expect("the manifest is there");
    assert!(!text("agent/Cargo.toml").contains("coordinator"));
    assert!(!text("coordinator/Cargo.toml").contains("agent"));
    assert!(!text("agent/core/Cargo.toml").contains("coordinator"));
}

#[test]
fn cryptography_comes_from_one_place() {
    let tree = |package: &str| {
        let words = ["tree", "--offline", "--locked", "-i", package];
        let output = Command::new(env!("CARGO")).args(words).current_dir(root()).output().expect("cargo runs");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert!(tree("ring").0, "what is in the tree is found: {}", tree("ring").1);
    for unwanted in ["aws-lc-rs", "openssl-sys", "native-tls"] {
        let (found, said) = tree(unwanted);
        assert!(!found && said.contains("did not match any packages"), "{unwanted} is in the tree:\n{said}");
    }
}

#[test]
fn the_readme_can_be_read_in_one_sitting() {
    let readme = fs::read_to_string(root().join("README.md")).expect("it is there");
    assert!(readme.lines().count() <= 150, "{} lines", readme.lines().count());
    for command in ["./scripts/demo", "./scripts/test"] {
        assert!(readme.contains(command), "{command} is named");
    }
}

#[test]
fn the_documents_say_what_the_table_of_keys_says() {
    for (path, wanted) in tests::keys::documents().expect("they can be read") {
        let found = fs::read_to_string(&path).expect("it is there");
        assert!(found == wanted, "{}: run scripts/keys", path.display());
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut found = Vec::new();
    for (name, text) in files(".md") {
        let folder = root().join(&name).parent().expect("a file lies in a folder").to_path_buf();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                found.push(format!("{name} names {target}"));
            }
        }
    }
    none("dead links", found);
}

#[test]
fn every_error_code_is_used_and_explained_once() {
    let sources: Vec<(String, String)> =
        files(".rs").into_iter().filter(|(name, _)| !name.starts_with("tests/")).collect();
    let mut found = Vec::new();
    for code in common::error::Code::ALL {
        let name = format!("Code::{code:?}");
        let used = sources.iter().any(|(file, text)| {
            file != "coordinator/src/api/error.rs" && file != "cli/src/output.rs" && text.contains(&name)
        });
        if !used {
            found.push(format!("{name} {} is never given", code.as_str()));
        }
    }
    let mut texts: Vec<&str> = common::error::Code::ALL.iter().map(|code| code.as_str()).collect();
    texts.sort_unstable();
    let count = texts.len();
    texts.dedup();
    assert_eq!(texts.len(), count, "no two codes are the same");
    none("codes that nobody can see", found);
}
