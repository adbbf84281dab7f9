//! The messages when instances cannot run: crashing programs, ports in use, unsuitable hosts. On real hosts, with the
//! commands that people use.

use std::time::Duration;

use anyhow::ensure;
use common::api::{List, StackView};
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(40);

/// The messages of `wharf ls` about a stack's services.
fn notes(lab: &Lab, stack: &str) -> anyhow::Result<Vec<String>> {
    let stacks: List<StackView> = lab.wharf("h1", &["ls"])?;
    let ours = stacks.items.into_iter().filter(|view| view.id.stack.as_str() == stack);
    Ok(ours.flat_map(|view| view.services).flat_map(|service| service.blocked).collect())
}

/// Deploys a stack that cannot run; returns exit code and messages.
fn deploy(lab: &Lab, name: &str, compose: &str) -> (i32, String) {
    let file = lab.put_file("h1", &format!("{name}.yaml"), compose);
    let (code, _, said) = lab.try_exec("h1", &["wharf", "deploy", "-f", &file, "-n", name, "-y", "--wait", "30s"]);
    (code, said)
}

/// Each host in the lab has two cards, as configured in its Docker.
fn devices_are_given_to_one_instance_each(lab: &Lab) {
    let cards = |replicas: u32| {
        format!(
            "
services:
  web:
    image: lab/web:1
    deploy:
      replicas: {replicas}
      resources: {{reservations: {{generic_resources: [{{discrete_resource_spec: {{kind: card, value: 1}}}}]}}}}
"
        )
    };
    lab.deploy("cards", &cards(4));
    let same = lab.put_file("h1", "same.yaml", &cards(4));
    let again = ["wharf", "deploy", "-f", &same, "-n", "cards", "-y", "--wait", "100ms"];
    lab.exec("h1", &again).expect("what runs already has not to be waited for");
    let mut given: Vec<String> = Vec::new();
    for instance in
        lab.instances("h1").expect("they are listed").iter().filter(|i| i.id.stack().stack.as_str() == "cards")
    {
        let host = instance.host_name.clone().expect("its host is known");
        let seen = ["exec", &instance.id.container_name(), "/bin/busybox", "sh", "-c", "echo $DOCKER_RESOURCE_CARD"];
        given.push(format!("{host} {}", lab.docker(host.as_str(), &seen).expect("it has one").trim()));
    }
    given.sort();
    assert_eq!(given, ["h1 a", "h1 b", "h2 a", "h2 b"]);
    let (code, said) = deploy(lab, "cards", &cards(5));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("2 hosts lack card devices: it needs 1, and the most free are 0 on h"), "{said}");
    lab.exec("h1", &["wharf", "rm", "cards", "-y"]).expect("it goes");
}

/// A failing health check is shown with its output, also while the program restarts repeatedly.
fn a_failing_check_is_shown_with_its_output(lab: &Lab) {
    let flapping = "
services:
  web:
    image: lab/web:1
    restart: always
    stop_grace_period: 1s
    healthcheck: {test: [CMD-SHELL, 'echo no luck today; exit 1'], interval: 300ms, retries: 2}
    deploy: {replicas: 2}
";
    let file = lab.put_file("h1", "flap.yaml", flapping);
    let (code, _, said) = lab.try_exec("h1", &["wharf", "deploy", "-f", &file, "-n", "flap", "-y", "--wait", "4s"]);
    assert_eq!(code, 11, "it goes on: {said}");
    let mut restarts = 0;
    for round in 0..3 {
        restarts = until(SOON, "it is started again", || {
            let instances = lab.instances("h1")?;
            let ours = instances.iter().filter(|i| i.id.stack().stack.as_str() == "flap");
            let now: u32 = ours.map(|instance| instance.observed.restart).sum();
            ensure!(now > restarts, "{now} restarts, as before");
            anyhow::Ok(now)
        });
        let shown = lab.exec("h1", &["wharf", "ls"]).expect("it answers");
        assert!(shown.contains("health check fails") || shown.contains("unhealthy"), "{round}: {shown}");
        assert!(shown.contains("no luck today"), "{round}: {shown}");
    }
    lab.exec("h1", &["wharf", "rm", "flap", "-y"]).expect("it goes");
}

#[test]
fn what_cannot_run_says_why_and_what_to_do() {
    let lab = Lab::up(2);

    // A crashing program is retried up to its limit, over all hosts, and has then failed.
    let crashing = "
services:
  web:
    image: lab/web:1
    command: [/bin/busybox, sh, -c, 'exit 3']
    deploy: {restart_policy: {condition: any, delay: 200ms, max_attempts: 1}}
";
    let (code, said) = deploy(&lab, "crash", crashing);
    assert_eq!(code, 4, "{said}");
    for part in ["it ended with exit code 3", "retried 1 times, which is the limit", "wharf retry crash/web"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let shown = lab.exec("h1", &["wharf", "ps", "crash"]).expect("it answers");
    assert!(shown.contains("failed"), "{shown}");
    let incarnation = || anyhow::Ok(lab.instances("h1")?.iter().map(|i| i.id.incarnation).max().unwrap_or(0));
    assert_eq!(incarnation().expect("it answers"), 1, "it is not tried elsewhere by itself");
    lab.exec("h1", &["wharf", "retry", "crash/web"]).expect("it is tried at once");
    until(SOON, "it has failed from the beginning", || {
        let found = incarnation()?;
        let shown = lab.exec("h1", &["wharf", "ls"])?;
        ensure!(found == 2 && shown.contains("0/1 failed"), "{found}: {shown}");
        anyhow::Ok(())
    });
    lab.exec("h1", &["wharf", "rm", "crash", "-y"]).expect("it goes");

    // The message for a port names the process that uses it, or says that another instance has it.
    lab.exec("h1", &["sh", "-c", "busybox httpd -p 8080 -h /var"]).expect("somebody else serves");
    let on_h1 = |port: u16| {
        format!(
            "
services:
  web:
    image: lab/web:1
    ports: ['{port}:80']
    deploy: {{replicas: 1, placement: {{constraints: [node.hostname == h1]}}}}
"
        )
    };
    let (code, said) = deploy(&lab, "held", &on_h1(8080));
    assert_eq!(code, 3, "{said}");
    let held = until(SOON, "the port is named", || {
        let notes = notes(&lab, "held")?.join("\n");
        ensure!(notes.contains("port 8080 is held by"), "{notes}");
        anyhow::Ok(notes)
    });
    assert!(held.contains("httpd") || held.contains("busybox"), "with the process: {held}");
    lab.deploy("first", &on_h1(8081));
    let (code, said) = deploy(&lab, "second", &on_h1(8081));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("host h1 has port 8081/tcp booked by another instance"), "{said}");
    assert!(said.contains("host h2 does not match node.hostname == h1"), "{said}");

    devices_are_given_to_one_instance_each(&lab);
    a_failing_check_is_shown_with_its_output(&lab);

    // Services that fit nowhere: the message counts the hosts for each reason, also before the deployment.
    let too_large = "
services:
  web:
    image: lab/web:1
    deploy: {resources: {reservations: {memory: 900G}}}
";
    let file = lab.put_file("h1", "large.yaml", too_large);
    let (code, plan, _) = lab.try_exec("h1", &["wharf", "diff", "-f", &file, "-n", "large"]);
    assert_eq!(code, 1, "{plan}");
    assert!(plan.contains("2 hosts lack memory: it needs 900.0 GiB, and the most free is"), "{plan}");
}
