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

/// A function as it is written.
#[derive(Debug, PartialEq)]
struct Function {
    /// Where it begins, from 1.
    line: usize,
    /// From its first line to its closing brace.
    lines: usize,
    /// How many parameters it has, without `self`.
    parameters: usize,
}

/// The functions with a body of a formatted file.
fn functions(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(signature) = signature(line) else { continue };
        let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let closes = |(number, line): (usize, &&str)| {
            let is_short = number == start && line.ends_with('}');
            let is_declaration = line.ends_with(';') && !line.starts_with(&format!("{} ", &end[..end.len() - 1]));
            (is_short || is_declaration || **line == end).then_some((number, is_declaration))
        };
        let Some((last, false)) = lines.iter().enumerate().skip(start).find_map(closes) else { continue };
        let rest = [&[signature], &lines[start + 1..=last]].concat().join(" ");
        found.push(Function { line: start + 1, lines: last - start + 1, parameters: parameters(&rest) });
    }
    found
}

/// What follows `fn` in a line that begins a function.
fn signature(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if let Some((_, after)) = rest.strip_prefix("pub(").and_then(|within| within.split_once(") ")) {
        rest = after;
    }
    for word in ["pub ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.strip_prefix("fn ")
}

/// How many parameters stand in the first parentheses, which generic parameters may precede.
fn parameters(signature: &str) -> usize {
    let (mut angles, mut depth, mut before) = (0, 0, ' ');
    let mut found = vec![String::new()];
    for character in signature.chars() {
        let is_inside = depth > 0;
        match character {
            '<' => angles += 1,
            '>' if before != '-' => angles -= 1,
            '(' | '[' if is_inside || angles == 0 => depth += 1,
            ')' | ']' if depth == 1 => break,
            ')' | ']' if is_inside => depth -= 1,
            ',' if depth == 1 && angles == 0 => found.push(String::new()),
            _ => {}
        }
        if is_inside && character != ',' {
            found.last_mut().expect("there is always one").push(character);
        }
        before = character;
    }
    let name =
        |text: &str| text.split(':').next().and_then(|name| name.split([' ', '&']).next_back()).map(str::to_owned);
    let is_self = |text: &str| name(text).as_deref() == Some("self");
    found.iter().map(|text| text.trim()).filter(|text| !text.is_empty() && !is_self(text)).count()
}

/// What of a file is the product: not its tests.
fn product<'a>(name: &str, text: &'a str) -> &'a str {
    let is_test = ["tests/", "fuzz/"].iter().any(|folder| name.starts_with(folder))
        || ["tests.rs", "testing.rs"].iter().any(|file| name.ends_with(file))
        || name.contains("/tests/");
    if is_test { "" } else { text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default() }
}

#[test]
fn functions_are_found_with_their_lines_and_parameters() {
    let text = "\
impl A {
    pub(in crate::a) async fn one<F: Fn(u8, u8) -> Vec<u8>>(&'a mut self, by: F, (a, b): (u8, u8)) -> u8 {
        by(a, b)
    }
    fn declared(&self, a: u8);
    fn short(self: Arc<Self>, found: &mut BTreeMap<u8, [u8; 2]>) {}
}
fn long(
    a: impl Fn(u8, u8) -> u8,
    b: &[(u8, u8)],
    c: u8,
) -> Result<(), (u8, u8)> {
    a(c, c);
}
";
    let expected = [(2, 3, 2), (6, 1, 1), (8, 7, 3)];
    let expected = expected.map(|(line, lines, parameters)| Function { line, lines, parameters });
    assert_eq!(functions(text), expected);
}

#[test]
fn files_and_functions_are_short_enough_to_live_in() {
    let mut found = Vec::new();
    for (name, text) in files(".rs") {
        let lines = text.lines().count();
        if lines > 600 {
            found.push(format!("{name} has {lines} lines"));
        }
        let long = functions(&text).into_iter().filter(|function| function.lines > 81);
        found.extend(long.map(|Function { line, lines, .. }| format!("{name}:{line} has a function of {lines} lines")));
    }
    none("too long", found);
}

/// A function of more lines than this is long.
const LONG: usize = 40;
/// How many of a thousand functions may be long: a match over all commands, routes or codes is.
const MOST_LONG_PER_MILLE: usize = 3;
/// A function with as many parameters should take a struct.
const MANY: usize = 5;
/// How many functions may have that many.
const MOST_WITH_MANY: usize = 5;

#[test]
fn few_functions_of_the_product_are_long_or_take_many_parameters() {
    let (mut count, mut long, mut many) = (0, Vec::new(), Vec::new());
    for (name, text) in files(".rs") {
        for Function { line, lines, parameters } in functions(product(&name, &text)) {
            count += 1;
            if lines > LONG {
                long.push(format!("{lines} lines: {name}:{line}"));
            }
            if parameters >= MANY {
                many.push(format!("{parameters} parameters: {name}:{line}"));
            }
        }
    }
    for list in [&mut long, &mut many] {
        list.sort_by_key(|line| {
            std::cmp::Reverse(line.split(' ').next().and_then(|number| number.parse::<u32>().ok()))
        });
    }
    println!("{count} functions, {} of them long, {} with many parameters", long.len(), many.len());
    println!("{}\n{}", long.join("\n"), many.join("\n"));
    let most = count * MOST_LONG_PER_MILLE / 1000;
    assert!(long.len() <= most, "{} of {count} are long, and {most} may be:\n{}", long.len(), long.join("\n"));
    let most = MOST_WITH_MANY;
    assert!(many.len() <= most, "{} take many, and {most} may:\n{}", many.len(), many.join("\n"));
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
