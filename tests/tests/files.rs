//! Configs and secrets in real containers: their content, that no disk holds secrets, and what waits for them.

use std::time::Duration;

use anyhow::ensure;
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(20);
/// Values that must not appear on any disk or in any answer.
const SECRETS: [&str; 2] = ["correct-horse-battery", "staple-and-another"];

const KEYED: &str = "
services:
  web:
    image: lab/web:1
    stop_grace_period: 1s
    secrets: [key, {source: given, target: /tmp/given, uid: '7', mode: 0400}]
    configs: [{source: app, target: /etc/app.conf}]
    deploy: {replicas: 3, update_config: {monitor: 1s}}
secrets:
  key: {file: key.txt}
  given: {external: true}
configs:
  app: {content: 'port=80'}
";

#[test]
fn real_containers_get_their_files_and_wait_for_secrets_after_a_boot() {
    let lab = Lab::up(3);
    lab.put_file("h1", "key.txt", SECRETS[0]);
    let given = lab.put_file("h1", "given.txt", SECRETS[1]);
    lab.exec("h1", &["wharf", "secret", "set", "given", &given]).expect("it is set");
    lab.deploy("shop", KEYED);
    let running = lab.wait_for_running(SOON, 3);
    for (host, containers) in &running {
        let (_, id) = &containers[0];
        let inside = |command: &[&str]| {
            lab.docker(host, &[&["exec", id.as_str()], command].concat()).expect("it runs").trim().to_owned()
        };
        assert_eq!(inside(&["/bin/busybox", "cat", "/run/secrets/key"]), SECRETS[0]);
        assert_eq!(inside(&["/bin/busybox", "cat", "/tmp/given"]), SECRETS[1]);
        assert_eq!(inside(&["/bin/busybox", "cat", "/etc/app.conf"]), "port=80");
        assert_eq!(inside(&["/bin/busybox", "stat", "-c", "%a %u", "/tmp/given"]), "400 7");
        let inspected = lab.docker(host, &["inspect", id.as_str()]).expect("Docker answers");
        assert!(SECRETS.iter().all(|secret| !inspected.contains(secret)), "{inspected}");
        let file_system = lab.exec(host, &["stat", "-f", "-c", "%T", "/run/wharf/secrets"]).expect("it is there");
        assert_eq!(file_system.trim(), "tmpfs");
        for secret in SECRETS {
            let (found, places, _) = lab.try_exec(host, &["grep", "-rla", secret, "/var/lib/wharf", "/var/lib/docker"]);
            assert_eq!((found, places.as_str()), (1, ""), "no disk holds it");
        }
    }

    // Without a coordinator that can answer, services with secrets wait.
    lab.run(&["kill", "h1", "h2", "h3"]).expect("the power is cut");
    lab.run(&["start", "h1"]).expect("one host boots");
    lab.wait_for_log("h1", SOON, "it waits for its configs and secrets");
    assert_eq!(lab.running("h1").expect("Docker answers"), []);
    lab.run(&["start", "h2", "h3"]).expect("the others boot");
    let after = lab.wait_for_running(SOON, 3);
    for (host, containers) in &after {
        let read = lab.docker(host, &["exec", &containers[0].1, "/bin/busybox", "cat", "/run/secrets/key"]);
        assert_eq!(read.expect("it runs").trim(), SECRETS[0]);
    }

    // The plan shows a new value of the stack's own secret only by its version.
    lab.put_file("h1", "key.txt", "a-third-value");
    let file = lab.put_file("h1", "shop.yaml", KEYED);
    let (code, plan, _) = lab.try_exec("h1", &["wharf", "diff", "-f", &file, "-n", "shop"]);
    assert_eq!(code, 1, "{plan}");
    assert!(plan.contains("secret key version 1 → version 2") && !plan.contains("a-third-value"), "{plan}");
    lab.deploy("shop", KEYED);
    until(SOON, "every container has the third value", || {
        for (host, containers) in lab.wait_for_running(SOON, 3) {
            let read = lab.docker(&host, &["exec", &containers[0].1, "/bin/busybox", "cat", "/run/secrets/key"])?;
            ensure!(read.trim() == "a-third-value", "{read}");
        }
        anyhow::Ok(())
    });

    // A deployment is compared with the version in use, not with the last one set.
    lab.exec("h1", &["wharf", "rollback", "shop", "-y"]).expect("the value before is in use");
    let differs = |value: &str| {
        lab.put_file("h1", "key.txt", value);
        let (code, plan, _) = lab.try_exec("h1", &["wharf", "diff", "-f", &file, "-n", "shop"]);
        (code, plan)
    };
    let (code, plan) = differs(SECRETS[0]);
    assert_eq!(code, 0, "{plan}");
    let (code, plan) = differs("a-third-value");
    assert_eq!(code, 1, "{plan}");
}
