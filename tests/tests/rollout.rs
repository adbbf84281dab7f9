//! Updates, rollbacks and drained hosts, on real hosts, under calls that must not fail; and schedules across leader
//! changes: `WHARF_ROUNDS` selects the long form of that.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::ensure;
use common::{
    api::{Event, List, StackView},
    rollout::RolloutState,
};
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(90);

/// Ten instances with a health check, replaced two at a time.
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

    // A missing image: the deployment reports it, and the old instances keep serving.
    let before = lab.all_running();
    let path =
        lab.put_file("h1", "bad.yaml", &web("3", "lab/nowhere:1").replace("ports:", "pull_policy: never\n    ports:"));
    let (code, _, said) = lab.try_exec("h1", &["wharf", "deploy", "-f", &path, "-n", "shop", "-y", "--wait", "60s"]);
    assert_eq!(code, 4, "{said}");
    for words in ["E0311", "lab/nowhere:1", "was rolled back to revision 2"] {
        assert!(said.contains(words), "{words:?} is missing in {said}");
    }
    until(SOON, "it is back", || {
        let running = lab.all_running();
        ensure!(running == before, "{running:?}");
        anyhow::Ok(())
    });
    let history = lab.exec("h1", &["wharf", "history", "shop"]).expect("it has one");
    assert!(history.contains("lab/nowhere:1 → lab/web:1") && history.contains("deployed from"), "{history}");

    // A drained host gets no instances until it is active again.
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
    gets_its_share(&lab);

    let (calls, failed) = caller.stop();
    println!("{calls} calls, {} failed", failed.len());
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(calls > 1000, "only {calls} calls were made");
}

/// The empty host gets its share of twelve instances on request.
fn gets_its_share(lab: &Lab) {
    let shown = |arguments: &[&str]| {
        let (code, _, said) = lab.try_exec("h1", &[&["wharf", "rebalance"], arguments].concat());
        assert_eq!(code, 0, "{said}");
        said
    };
    let plan = shown(&["--plan"]);
    assert_eq!(plan.lines().filter(|line| line.ends_with("→ h3")).count(), 4, "{plan}");
    shown(&["shop/web", "-y"]);
    until(LONG, "each host has its share", || {
        let counts: Vec<usize> = lab.all_running().iter().map(|(_, containers)| containers.len()).collect();
        ensure!(counts == [4, 4, 4], "{counts:?}");
        anyhow::Ok(())
    });
    assert!(shown(&["--plan"]).contains("No instance would be better off elsewhere"));
}

/// Sleeps until shortly before the next multiple of a period.
fn sleep_until_just_before(period: Duration) {
    const BEFORE: Duration = Duration::from_millis(300);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + BEFORE;
    let into = now.as_millis() % period.as_millis();
    std::thread::sleep(period - Duration::from_millis(into as u64));
}

#[test]
fn a_schedule_runs_once_for_each_time_whatever_leaders_do() {
    let lab = Lab::up(3);
    let rounds: u64 = std::env::var("WHARF_ROUNDS").map_or(1, |text| text.parse().expect("a number"));
    // A single kill must hit a due run; with many kills, some do.
    let period = Duration::from_secs(if rounds == 1 { 60 } else { 10 });
    lab.deploy(
        "nightly",
        "
services:
  job:
    image: lab/web:1
    command: [/bin/true]
    x-cron: '* * * * *'
",
    );
    for _ in 0..rounds {
        lab.wait_until_whole(SOON);
        let leader = until(SOON, "there is a leader", || lab.leader());
        sleep_until_just_before(period);
        lab.run(&["stop-wharf", &leader]).expect("it is killed");
        lab.run(&["start-wharf", &leader]).expect("it starts");
    }
    let begun = || -> anyhow::Result<Vec<String>> {
        let events: List<Event> = lab.wharf("h1", &["events", "default/nightly/job"])?;
        Ok(events.items.into_iter().filter(|event| event.reason == "run-begun").map(|event| event.message).collect())
    };
    let runs = until(LONG, "the last run has ended", || {
        let runs = begun()?;
        let service = stack(&lab)?.services.remove(0);
        ensure!(!runs.is_empty() && service.completed == 1, "{runs:?} {service:?}");
        Ok::<_, anyhow::Error>(runs)
    });
    let due: BTreeSet<&str> =
        runs.iter().filter_map(|message| message.split_once("due at ")).map(|(_, at)| at).collect();
    println!("{rounds} leaders killed, {} runs, each of a time of its own", runs.len());
    assert_eq!(due.len(), runs.len(), "{runs:?}");
    let incarnation = lab.instances("h1").expect("the API answers")[0].id.incarnation;
    assert_eq!(incarnation, runs.len() as u64, "one instance a run");
}

#[test]
fn a_canary_is_looked_at_before_the_rest_follows() {
    let lab = Lab::up(2);
    lab.deploy("shop", &web("1", "lab/web:1"));
    wait_for_revision(&lab, 1);
    let caller = lab.caller("h1", "shop/web");
    let canary = web("2", "lab/web:1").replace("    deploy:", "    x-canary: 2\n    deploy:");
    let path = lab.put_file("h1", "canary.yaml", &canary);
    let (code, _, said) = lab.try_exec("h1", &["wharf", "deploy", "-f", &path, "-n", "shop", "-y", "--wait", "60s"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("canary: 2 of 2 at revision 2; the rest waits: wharf rollout promote shop/web"), "{said}");
    let counts = || {
        let instances = lab.instances("h1")?;
        let of = |revision: u64| instances.iter().filter(|i| i.revision == revision && i.state == "healthy").count();
        anyhow::Ok((of(1), of(2)))
    };
    assert_eq!(counts().expect("they are told"), (8, 2));

    // A host is drained meanwhile: instances that serve stay available, and the canary does not grow.
    lab.exec("h1", &["wharf", "host", "drain", "h2", "-y", "--within", "60s"]).expect("it is emptied");
    until(SOON, "all is as before on the other host", || {
        let counts = counts()?;
        ensure!(counts == (8, 2), "{counts:?}");
        anyhow::Ok(())
    });
    lab.exec("h1", &["wharf", "host", "uncordon", "h2"]).expect("it is taken back");
    lab.exec("h1", &["wharf", "rollout", "promote", "shop/web"]).expect("the rest follows");
    wait_for_revision(&lab, 2);
    let (calls, failed) = caller.stop();
    assert!(failed.is_empty(), "{calls} calls, failed: {failed:?}");
    println!("a canary, an emptied host and the rest under {calls} calls, none failed");
    says_what_runs_nowhere(&lab);
}

/// Instances that cannot leave a host in time are stopped and named. A port is shown as it was bound.
fn says_what_runs_nowhere(lab: &Lab) {
    let tied = "services: {pinned: {image: 'lab/web:1', ports: ['127.0.0.1:18072:81/udp'], \
                deploy: {placement: {constraints: [node.hostname == h2]}}}}";
    lab.deploy("tied", tied);
    let shown = lab.exec("h1", &["wharf", "ps", "tied"]).expect("it is listed");
    assert!(shown.contains("127.0.0.1:18072→81/udp"), "{shown}");
    let (code, _, said) = lab.try_exec("h1", &["wharf", "host", "drain", "h2", "-y", "--within", "3s"]);
    assert_eq!(code, 3, "{said}");
    for words in ["1 instance of h2 was stopped and runs nowhere", "default/tied/pinned/1.1: ", "uncordon h2"] {
        assert!(said.contains(words), "{words:?} is missing in {said}");
    }
    assert!(said.contains("default/tied/pinned/1.1  until the deadline: slot 1 cannot leave"), "{said}");
}
