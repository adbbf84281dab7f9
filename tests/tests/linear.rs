//! Five clients and three coordinators, each a process, under kills, pauses and cuts in one direction and in both: what
//! the clients saw could have happened one operation after the other. `scripts/linear` runs many rounds. Needs root.

use std::{
    path::Path,
    process::{Command, Output},
};

use tests::load;

fn history(keep: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(load::load().with_file_name("history"));
    command.arg("run").arg("--wharf").arg(load::load().with_file_name("wharf")).arg("--keep").arg(keep);
    command.args(words).output().expect("it can be run")
}

/// Rounds in which nothing is wrong; what they left is kept and named if something is.
fn all_is_explained(words: &[&str]) {
    let keep = tempfile::tempdir().expect("a folder").keep();
    let output = history(&keep, words);
    let (lines, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "histories and logs are in {}:\n{lines}{errors}", keep.display());
    println!("{errors}");
    std::fs::remove_dir_all(keep).expect("it is ours");
}

#[test]
fn what_clients_see_under_faults_has_an_order() {
    all_is_explained(&["--rounds", "1", "--seed", "18"]);
    all_is_explained(&["--rounds", "1"]);
}

#[test]
fn reads_that_may_be_old_are_found_to_be_wrong() {
    let keep = tempfile::tempdir().expect("a folder");
    let output = history(keep.path(), &["--rounds", "3", "--seed", "18", "--reads", "stale"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("no order explains"), "{errors}");
}
