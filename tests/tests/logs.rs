//! Program output: it is kept and shown after failures, and followed across restarts and replacements.

use std::time::Duration;

use anyhow::ensure;
use common::instance::Want;
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(40);

fn web(script: &str) -> String {
    format!(
        "
services:
  web:
    image: lab/web:1
    command: [/bin/sh, -c, '{script}']
    stop_grace_period: 1s
    deploy: {{replicas: 2}}
"
    )
}

const TICKS: &str = "while /bin/sleep 0.3; do echo tick; done";

/// The commands that a message suggests: the text after `wharf` up to a separator or the end of the line.
fn proposed(said: &str) -> Vec<Vec<String>> {
    let commands =
        said.split("wharf ").skip(1).map(|rest| rest.split([';', ',', '\n', ':']).next().unwrap_or_default());
    commands.map(|command| command.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn what_failed_is_shown_and_what_replaces_it_is_followed() {
    let lab = Lab::up(2);
    lab.deploy("shop", &web(TICKS));

    // A failed revision: its last lines are shown at once, and later as well.
    let broken = lab.put_file("h1", "broken.yaml", &web("echo FATAL; exit 7"));
    let (code, _, said) = lab.try_exec("h1", &["wharf", "deploy", "-f", &broken, "-n", "shop", "-y", "--wait", "60s"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("it ended with exit code 7") && said.contains("│ FATAL"), "{said}");
    let commands = proposed(said.split("Fix:").nth(1).expect("something is proposed"));
    assert!(commands.len() >= 2, "{commands:?} of {said}");
    for command in commands {
        let words: Vec<&str> = ["wharf"].into_iter().chain(command.iter().map(String::as_str)).collect();
        let shown = lab.exec("h1", &words).expect("what is proposed works");
        assert!(!shown.is_empty(), "{command:?} shows something");
    }
    lab.wait_for_running(SOON, 2);
    let shown = lab.exec("h1", &["wharf", "events", "shop/web"]).expect("they are shown");
    assert!(shown.contains("│ FATAL"), "its output outlives its container: {shown}");
    // The current revision equals the last one that served.
    let (code, _, said) = lab.try_exec("h1", &["wharf", "rollback", "shop", "-y"]);
    assert!(code == 0 && said.contains("is what it was at revision 1"), "{code}: {said}");

    follow(&lab);
}

/// Output is followed through an update, a restart and a removal.
fn follow(lab: &Lab) {
    let output = lab.put_file("h1", "followed", "");
    let following = format!("(setsid sh -c 'wharf logs -f shop/web; echo \"exit $?\"' >{output} 2>&1 </dev/null &)");
    lab.exec("h1", &["sh", "-c", &following]).expect("it is begun");
    let wait_for = |what: &str, words: &[&str]| {
        until(SOON, what, || {
            let said = lab.exec("h1", &["cat", &output])?;
            let missing = words.iter().find(|word| !said.contains(**word));
            ensure!(missing.is_none(), "{missing:?} is not in the last of {}", &said[said.len().saturating_sub(600)..]);
            anyhow::Ok(())
        });
    };
    wait_for("both are read", &["shop/web/1.", "shop/web/2."]);
    lab.deploy("shop", &web(&TICKS.replace("tick", "tock")));
    let mut instances = lab.instances("h1").expect("they are listed");
    // The last line of the old instances may still be under way.
    instances.retain(|instance| instance.desired.want == Want::Run);
    let new: Vec<String> = instances.iter().map(|i| format!("web/{}.{}", i.id.slot.slot, i.id.incarnation)).collect();
    for name in &new {
        wait_for(
            "what replaces them is followed",
            &[&format!("! now following shop/{name} on "), &format!("shop/{name} | tock")],
        );
    }
    let first = &instances[0];
    let host = first.host_name.as_ref().expect("its host is there").as_str();
    lab.docker(host, &["restart", &first.id.container_name()]).expect("it is started again");
    wait_for("a restart is said", &[&format!("! shop/{} on {host} was started again", new[0])]);
    lab.exec("h1", &["wharf", "rm", "shop", "-y"]).expect("it goes");
    wait_for("it ends with the service", &["! shop/web was removed", "exit 0"]);
}
