//! Every way in which a host can be refused, with its code, and joins that must succeed.

use std::time::Duration;

use anyhow::ensure;
use common::{
    api::{HostView, JoinTokenCreated},
    secret::Secret,
    token::JoinToken,
};
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(20);
const FIRST: &str = "10.97.0.1:7443";

/// h1 is a cluster of its own; h2 and h3 have only Docker.
fn lab() -> Lab {
    let lab = Lab::bare(3);
    lab.run(&["up", "1"]).expect("the first host starts");
    lab
}

fn token(lab: &Lab, arguments: &[&str]) -> JoinTokenCreated {
    // On a slow machine, a leader that has just been elected may not answer yet.
    until(SOON, "a token is made", || lab.wharf("h1", &[&["host", "add"], arguments].concat()))
}

/// Tries to join from a host; returns exit code and output.
fn try_join(lab: &Lab, host: &str, token: &str, arguments: &[&str]) -> (i32, String) {
    let binary = lab.binary();
    let command =
        [&[binary.as_str(), "agent", "install", "--coordinator", FIRST, "--token", token], arguments].concat();
    // The same flag twice would be an error, so tests with their own coordinator omit ours.
    let command = if arguments.contains(&"--coordinator") {
        [&[binary.as_str(), "agent", "install", "--token", token], arguments].concat()
    } else {
        command
    };
    let (code, _, stderr) = lab.try_exec(host, &command);
    (code, stderr)
}

#[track_caller]
fn refused(said: (i32, String), code: &str, words: &[&str]) {
    let (exit, text) = said;
    assert_ne!(exit, 0, "{text}");
    for word in [&[code], words].concat() {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

fn host_named(lab: &Lab, name: &str) -> anyhow::Result<HostView> {
    lab.wharf("h1", &["host", "inspect", name])
}

#[test]
fn a_token_that_does_not_fit_is_refused_by_its_own_code() {
    let lab = lab();
    let good = token(&lab, &[]);

    // Nothing is sent if the text cannot be a token.
    refused(
        try_join(&lab, "h2", &good.token[..87], &["--docker", "/nowhere"]),
        "E0101",
        &["87 of 100", "nothing was sent"],
    );
    let mistyped = format!("{}{}", &good.token[..99], if good.token.ends_with('0') { '1' } else { '0' });
    refused(try_join(&lab, "h2", &mistyped, &[]), "E0101", &["nothing was sent"]);
    refused(try_join(&lab, "h2", &good.token.repeat(2), &[]), "E0101", &["too long"]);

    let parsed: JoinToken = good.token.parse().expect("it is a token");
    let guessed = JoinToken { secret: Secret::new([7; 16]), ..parsed.clone() };
    refused(try_join(&lab, "h2", &guessed.reveal(), &[]), "E0103", &["wharf host add"]);

    let short = token(&lab, &["--ttl", "1s"]);
    until(SOON, "its time is over", || {
        ensure!(link::clock::now() >= short.view.expires_at, "it is still good");
        Ok(())
    });
    refused(try_join(&lab, "h2", &short.token, &[]), "E0104", &["expired at"]);

    let revoked = token(&lab, &[]);
    lab.exec("h1", &["wharf", "host", "revoke", &revoked.view.id.to_string()]).expect("it is revoked");
    refused(try_join(&lab, "h2", &revoked.token, &[]), "E0105", &["revoked"]);

    let elsewhere = token(&lab, &["--cidr", "10.99.0.0/16"]);
    refused(try_join(&lab, "h2", &elsewhere.token, &[]), "E0108", &["10.97.0.2", "10.99.0.0/16"]);

    refused(
        try_join(&lab, "h2", &good.token, &["--docker", "/nowhere.sock"]),
        "E0113",
        &["/nowhere.sock", "docker.io"],
    );
    refused(try_join(&lab, "h2", &good.token, &["--coordinator", "10.97.0.1:1"]), "E0114", &["10.97.0.1:1"]);
    let binary = lab.binary();
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        &binary,
        "agent",
        "install",
        "--coordinator",
        FIRST,
        "--token",
        &good.token,
    ];
    let (code, _, stderr) = lab.try_exec("h2", &nobody);
    refused((code, stderr), "E0115", &["sudo"]);

    // After all that the token is still unused: refusals do not consume it.
    let (code, text) = try_join(&lab, "h2", &good.token, &[]);
    assert_eq!(code, 0, "{text}");
    refused(try_join(&lab, "h3", &good.token, &[]), "E0107", &["1 of 1", "h2", "wharf host rm"]);
    // The same host again: nothing to do, and no use of the token.
    let (code, text) = try_join(&lab, "h2", &good.token, &[]);
    assert!(code == 0 && text.contains("already joined as h2"), "{text}");
}

#[test]
fn a_host_that_is_not_what_it_says_is_refused() {
    let lab = lab();
    // Another cluster on h3: its coordinator cannot prove that it belongs to the token's cluster.
    let binary = lab.binary();
    lab.exec("h3", &["cp", &binary, "/usr/local/bin/wharf"]).expect("copied");
    lab.exec("h3", &["wharf", "up", "--detach", "--advertise", "10.97.0.3:7443"]).expect("a second cluster");
    let good = token(&lab, &[]);
    refused(try_join(&lab, "h2", &good.token, &["--coordinator", "10.97.0.3:7443"]), "E0102", &["no secret was sent"]);

    // A host of another cluster learns which one it belongs to.
    refused(try_join(&lab, "h3", &good.token, &[]), "E0111", &["--leave-first"]);

    // The message for a taken port names the process, before and after the join.
    let (code, text) = try_join_with_port_taken(&lab);
    refused((code, text), "E0116", &["7443", "busybox"]);
    lab.exec("h2", &["pkill", "-x", "busybox"]).expect("the port is free");
    let again = token(&lab, &["--coordinator"]);
    let (code, text) = try_join(&lab, "h2", &again.token, &[]);
    assert!(code == 0 && text.contains("already joined"), "the same host goes on where it stopped: {text}");
    until(SOON, "h2 is ready", || {
        let host = host_named(&lab, "h2")?;
        ensure!(host.liveness.word() == "ready", "{host:?}");
        anyhow::Ok(())
    });

    // A copy of h2's disk: the copy is refused, and the original keeps working.
    lab.exec("h3", &["sh", "-c", "kill -9 $(pidof wharf); rm -rf /var/lib/wharf/*"]).expect("emptied");
    lab.copy_state("h2", "h3");
    lab.run(&["start-wharf", "h3"]).expect("the copy starts");
    let log = lab.wait_for_log("h3", SOON, "E0121");
    assert!(log.contains("cloned from h2") && log.contains("reset-identity"), "{log}");
    assert_eq!(host_named(&lab, "h2").expect("it is known").liveness.word(), "ready");
    lab.run(&["stop-wharf", "h3"]).expect("it stops");
    lab.exec("h3", &["wharf", "agent", "reset-identity", "-y"]).expect("it gets a new key");
    let (code, text) = try_join(&lab, "h3", &token(&lab, &[]).token, &[]);
    assert_eq!(code, 0, "{text}");

    // The key of a removed host is refused for good.
    until(SOON, "h3 is ready", || {
        let host = host_named(&lab, "h3")?;
        ensure!(host.liveness.word() == "ready", "{host:?}");
        anyhow::Ok(())
    });
    lab.exec("h1", &["wharf", "host", "rm", "h3", "-y"]).expect("it is removed");
    let log = lab.wait_for_log("h3", SOON, "E0117");
    assert!(log.contains("removed"), "{log}");
}

fn try_join_with_port_taken(lab: &Lab) -> (i32, String) {
    lab.exec("h2", &["sh", "-c", "busybox nc -l -p 7443 >/dev/null 2>&1 </dev/null &"]).expect("the port is taken");
    until(SOON, "the port is taken", || {
        lab.exec("h2", &["sh", "-c", "grep -qi ':1d13 .* 0A ' /proc/net/tcp /proc/net/tcp6"])
    });
    try_join(lab, "h2", &token(lab, &["--coordinator"]).token, &[])
}

#[test]
fn requests_that_no_script_of_ours_makes_are_refused() {
    let lab = lab();
    let good = token(&lab, &[]);
    let post = |change: &str| {
        let clock = lab.exec("h1", &["date", "-u", "+%Y-%m-%dT%H:%M:%S.000Z"]).expect("a clock");
        let clock = if change == "clock" { "2001-01-01T00:00:00.000Z" } else { clock.trim() };
        let body = format!(
            r#"{{"token":"{}","csr":"00ff","nonce":"n","proof":"00","name":"x","clock":"{clock}","address":"10.97.0.2:7443"}}"#,
            good.view.id
        );
        let cluster: common::api::ClusterView = lab.wharf("h1", &["status"]).expect("it answers");
        let name = format!("coordinator.{}.wharf", cluster.id);
        let url = format!("https://{name}:7443/api/v1/join");
        let (_, stdout, _) = lab.try_exec(
            "h2",
            &[
                "curl",
                "-sSk",
                "--resolve",
                &format!("{name}:7443:10.97.0.1"),
                "-H",
                "content-type: application/json",
                "-d",
                &body,
                &url,
            ],
        );
        (1, stdout)
    };
    refused(post("clock"), "E0112", &["clock"]);
    refused(post("csr"), "E0110", &[]);
}

#[test]
fn the_script_does_nothing_until_it_is_whole_and_pinned() {
    let lab = lab();
    let good = token(&lab, &[]);
    let pin = good.line.split('\'').nth(1).expect("the line has a pin").to_owned();
    let script =
        lab.exec("h2", &["curl", "-fsSk", "--pinnedpubkey", &pin, "https://10.97.0.1:7443/join"]).expect("fetched");

    // Another pin: nothing is downloaded.
    let other = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let (code, stdout, _) =
        lab.try_exec("h2", &["curl", "-fsSk", "--pinnedpubkey", other, "https://10.97.0.1:7443/join"]);
    assert_eq!((code, stdout.as_str()), (90, ""));

    // A script cut anywhere does nothing.
    for length in [100, 400, 900, 1500, script.len() - 12] {
        let path = lab.put_file("h2", "cut.sh", &script[..length]);
        lab.try_exec("h2", &["sh", &path, &good.token]);
        assert_eq!(lab.exec("h2", &["sh", "-c", "ls -A /var/lib/wharf"]).expect("ls").trim(), "", "cut at {length}");
    }
    let run = |script: &str, token: &str, environment: &str| {
        let path = lab.put_file("h2", "join.sh", script);
        let (code, _, stderr) = lab.try_exec("h2", &["env", environment, "sh", &path, token]);
        (code, stderr)
    };
    refused(run(&script, "", "A=b"), "E0101", &["whole line"]);
    let sum = script.split("echo \"").nth(1).and_then(|rest| rest.split(' ').next()).expect("a sum").to_owned();
    refused(run(&script.replace(&sum, &"0".repeat(64)), &good.token, "A=b"), "E0119", &["damaged"]);
    refused(run(&script.replace("7443/dl", "7444/dl"), &good.token, "A=b"), "E0114", &["wharf host add"]);
    lab.exec("h2", &["sh", "-c", "mkdir -p /run/noexec && mount -t tmpfs -o noexec tmpfs /run/noexec"])
        .expect("mounted");
    refused(run(&script, &good.token, "TMPDIR=/run/noexec"), "E0119", &["noexec"]);
    let (code, text) = run(&script, &good.token, "A=b");
    assert_eq!(code, 0, "{text}");
}
