//! Updates, ways back and emptied hosts on real hosts, under calls that must not fail.

use std::time::{Duration, Instant};

use anyhow::ensure;
use common::{
    api::{List, StackView},
    rollout::RolloutState,
};
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(90);

/// Ten instances that say when they are ready, replaced two at a time.
fn web(version: &str, image: &str) -> String {
    format!(
        "
services:
  web:
    image: {image}
    environment: [VERSION={version}]
    ports: ['80']
    stop_grace_period: 1s
    healthcheck: {{test: [CMD, /bin/busybox, wget, -qO-, 'http://127.0.0.1/'], interval: 500ms, timeout: 2s}}
    deploy:
      replicas: 10
      update_config: {{parallelism: 2, monitor: 1s}}
"
    )
}

fn stack(lab: &Lab) -> anyhow::Result<StackView> {
    let stacks: List<StackView> = lab.wharf("h1", &["ls"])?;
    stacks.items.into_iter().next().ok_or_else(|| anyhow::anyhow!("there is no stack"))
}

fn wait_for_revision(lab: &Lab, revision: u64) {
    until(LONG, "the rollout is done", || {
        let service = stack(lab)?.services.remove(0);
        ensure!(service.revision == revision && service.rollout.state == RolloutState::Done, "{service:?}");
        let instances = lab.instances("h1")?;
        let others = instances.iter().filter(|instance| instance.revision != revision).count();
        ensure!(instances.len() == 10 && others == 0, "{} instances, {others} of others", instances.len());
        anyhow::Ok(())
    });
}

#[test]
fn updates_and_emptied_hosts_fail_no_call() {
    let lab = Lab::up(3);
    lab.deploy("shop", &web("1", "lab/web:1"));
    wait_for_revision(&lab, 1);
    let caller = lab.caller("h1", "shop/web");

    // A new revision, and the leader dies in the middle.
    let began = Instant::now();
    let path = lab.put_file("h1", "two.yaml", &web("2", "lab/web:1"));
    lab.exec("h1", &["wharf", "deploy", "-f", &path, "-n", "shop", "-y", "--detach"]).expect("it is accepted");
    until(SOON, "the first are replaced", || {
        let replaced = lab.instances("h1")?.iter().filter(|i| i.revision == 2 && i.state == "healthy").count();
        ensure!(replaced >= 3, "{replaced}");
        anyhow::Ok(())
    });
    let leader = until(SOON, "there is a leader", || lab.leader());
    lab.run(&["stop-wharf", &leader]).expect("it is killed");
    lab.run(&["start-wharf", &leader]).expect("it starts");
    wait_for_revision(&lab, 2);
    println!("ten instances replaced within {:.1} s, the leader killed meanwhile", began.elapsed().as_secs_f64());

    // An image that is nowhere: the deployment says so, and what served goes on.
    let before = lab.all_running();
    let path =
        lab.put_file("h1", "bad.yaml", &web("3", "lab/nowhere:1").replace("ports:", "pull_policy: never\n    ports:"));
    let (code, _, said) = lab.try_exec("h1", &["wharf", "deploy", "-f", &path, "-n", "shop", "-y", "--wait", "60s"]);
    assert_eq!(code, 4, "{said}");
    for words in ["E0311", "lab/nowhere:1", "went back to what it was at revision 2"] {
        assert!(said.contains(words), "{words:?} is missing in {said}");
    }
    until(SOON, "it is back", || {
        let running = lab.all_running();
        ensure!(running == before, "{running:?}");
        anyhow::Ok(())
    });
    let history = lab.exec("h1", &["wharf", "history", "shop"]).expect("it has one");
    assert!(history.contains("lab/nowhere:1 → lab/web:1") && history.contains("deployed from"), "{history}");

    // A host is emptied; it gets nothing until it is opened again.
    let began = Instant::now();
    let said = lab.exec("h1", &["wharf", "host", "drain", "h3", "-y", "--within", "60s"]);
    println!("h3 emptied in {:.1} s", began.elapsed().as_secs_f64());
    said.expect("it becomes empty");
    assert_eq!(lab.running("h3").expect("Docker answers"), [], "nothing runs there");
    assert_eq!(lab.all_running().iter().map(|(_, containers)| containers.len()).sum::<usize>(), 10);
    lab.exec("h1", &["wharf", "scale", "shop/web=12"]).expect("it is accepted");
    lab.wait_for_running(SOON, 12);
    assert_eq!(lab.running("h3").expect("Docker answers"), []);
    lab.exec("h1", &["wharf", "host", "uncordon", "h3"]).expect("it is opened");

    let (calls, failed) = caller.stop();
    println!("{calls} calls, {} failed", failed.len());
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(calls > 1000, "only {calls} calls were made");
}
