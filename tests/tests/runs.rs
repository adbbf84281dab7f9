//! Tasks that end by design, on a real host: once for each revision or run, before the services that wait for them, and
//! no more often than their retries allow.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use common::{
    api::{Event, List, ServiceView, StackView},
    rollout::RolloutState,
};
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(40);
/// Runs are due at full minutes.
const NEXT_RUN: Duration = Duration::from_secs(90);

/// One host, and a folder on it that all programs write to.
struct Stage {
    lab: Lab,
    folder: PathBuf,
}

impl Stage {
    fn up() -> Stage {
        let lab = Lab::up(1);
        let folder = PathBuf::from(lab.put_file("h1", "seen", "")).with_file_name("");
        Stage { lab, folder }
    }

    /// A service whose program runs a shell script; `keys` adds more settings.
    fn service(&self, name: &str, script: &str, keys: &str) -> String {
        let folder = self.folder.display();
        let command = format!("command: [/bin/busybox, sh, -c, '{script}']");
        format!("  {name}: {{image: 'lab/web:1', volumes: ['{folder}:/d'], {command}, {keys}}}\n")
    }

    /// Deploys services as a stack; returns exit code and messages.
    fn deploy(&self, stack: &str, services: &[String]) -> (i32, String) {
        let file = self.lab.put_file("h1", &format!("{stack}.yaml"), &format!("services:\n{}", services.concat()));
        let arguments = ["wharf", "deploy", "-f", &file, "-n", stack, "-y", "--wait", "60s"];
        let (code, _, said) = self.lab.try_exec("h1", &arguments);
        (code, said)
    }

    /// The lines that programs have written to a file.
    fn written(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn view(&self, stack: &str, service: &str) -> anyhow::Result<ServiceView> {
        let stacks: List<StackView> = self.lab.wharf("h1", &["ls"])?;
        let services = stacks.items.into_iter().filter(|view| view.id.stack.as_str() == stack).flat_map(|v| v.services);
        services.into_iter().find(|view| view.id.service.as_str() == service).context("it is not listed")
    }

    /// The number of started runs of the schedule.
    fn begun(&self) -> anyhow::Result<usize> {
        let events: List<Event> = self.lab.wharf("h1", &["events", "default/nightly/backup"])?;
        Ok(events.items.iter().filter(|event| event.reason == "run-begun").count())
    }
}

#[test]
fn what_ends_by_design_is_done_once_and_in_order() {
    let stage = Stage::up();
    // The schedule's minutes pass while the other checks run.
    let backup = |end: &str| stage.service("backup", &format!("echo {end} >> /d/backup; {end}"), BACKUP);
    let (code, said) = stage.deploy("nightly", &[backup("exit 1")]);
    assert_eq!(code, 0, "{said}");
    a_dependant_changes_after_its_migration(&stage);
    going_back_does_nothing_again(&stage);
    retries_are_counted(&stage);
    a_failed_run_makes_room_for_the_next(&stage, &backup("exit 0"));
    // All of that took a while, and nothing ran again meanwhile.
    assert_eq!(stage.written("shop"), ["schema 1", "app 1", "schema 2", "app 2", "schema 3"]);
    assert_eq!(stage.written("plain"), ["once 1", "once 2"]);
    assert_eq!(stage.written("tries"), ["try"; 3]);
}

const BACKUP: &str = "x-cron: '* * * * *', deploy: {restart_policy: {condition: none}}";

/// The serving program waits for the migration of each deployment. If the migration fails, the old program keeps
/// serving.
fn a_dependant_changes_after_its_migration(stage: &Stage) {
    let deploy = |version: u32, end: &str| {
        let migrate = format!("/bin/busybox sleep 2; echo schema {version} >> /d/shop; {end}");
        let app = format!("echo app {version} >> /d/shop; exec /bin/busybox sleep 3600");
        let job = "deploy: {mode: replicated-job, restart_policy: {condition: none}}";
        let waits = "depends_on: {migrate: {condition: service_completed_successfully}}, stop_grace_period: 1s, \
                     deploy: {update_config: {monitor: 1s}}";
        stage.deploy("shop", &[stage.service("migrate", &migrate, job), stage.service("app", &app, waits)])
    };
    for version in [1, 2] {
        let (code, said) = deploy(version, "exit 0");
        assert_eq!(code, 0, "{version}: {said}");
    }
    assert_eq!(stage.written("shop"), ["schema 1", "app 1", "schema 2", "app 2"]);
    let ours = || -> anyhow::Result<Vec<_>> {
        let running = stage.lab.running("h1")?;
        Ok(running.into_iter().filter(|(name, _)| name.starts_with("default.shop.app.")).collect())
    };
    let before = until(SOON, "the one before has ended", || {
        let ours = ours()?;
        ensure!(ours.len() == 1, "{ours:?}");
        anyhow::Ok(ours)
    });
    let (code, said) = deploy(3, "echo the table is locked; exit 1");
    assert_eq!(code, 4, "{said}");
    for words in ["E0311", "shop revision 3 failed in migrate", "exit code 1", "│ the table is locked"] {
        assert!(said.contains(words), "{words:?} is missing in {said}");
    }
    assert_eq!(ours().expect("Docker answers"), before, "what served serves");
}

/// A plain service that ends: when the next revision fails, the previous one does not run again.
fn going_back_does_nothing_again(stage: &Stage) {
    let deploy = |version: u32, end: &str| {
        let once = format!("echo once {version} >> /d/plain; {end}");
        stage.deploy("plain", &[stage.service("migrate", &once, "restart: 'no'")])
    };
    let (code, said) = deploy(1, "exit 0");
    assert_eq!(code, 0, "{said}");
    let (code, said) = deploy(2, "exit 1");
    assert_eq!(code, 4, "{said}");
    let state = stage.view("plain", "migrate").expect("it is listed").rollout.state;
    assert_eq!(state, RolloutState::Failed, "there is nothing to go back to");
}

/// A task that has used up its retries has failed, and does not affect later deployments of other services.
fn retries_are_counted(stage: &Stage) {
    let failing = stage.service("failing", "echo try >> /d/tries; exit 1", "restart: 'on-failure:2'");
    let (code, said) = stage.deploy("tries", std::slice::from_ref(&failing));
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("retried 2 times, which is the limit"), "{said}");
    let other = stage.service("other", "exec /bin/busybox sleep 3600", "stop_grace_period: 1s");
    let (code, said) = stage.deploy("tries", &[failing, other]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(stage.view("tries", "failing").expect("it is listed").failed.len(), 1);
}

/// A failed run is shown as failed, a person can have it retried, and the next run starts on time.
fn a_failed_run_makes_room_for_the_next(stage: &Stage, mended: &str) {
    until(NEXT_RUN, "a run has failed", || {
        let view = stage.view("nightly", "backup")?;
        ensure!(view.failed == ["slot 1: it ended with exit code 1"], "{:?}", view.failed);
        anyhow::Ok(())
    });
    until(NEXT_RUN, "it is tried again", || {
        // Not at a time when the next run, which also fails, would take its place.
        let next = stage.view("nightly", "backup")?.next_run.context("it has a schedule")?;
        let left = Duration::from_millis(next.0).saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH)?);
        ensure!(left > SOON / 2, "the next run is due in {left:?}");
        stage.lab.exec("h1", &["wharf", "retry", "nightly/backup"])
    });
    until(SOON, "it was done once oftener than it was due", || {
        let (begun, done) = (stage.begun()?, stage.written("backup").len());
        ensure!(done == begun + 1, "{begun} runs, done {done} times");
        anyhow::Ok(())
    });
    until(NEXT_RUN, "another run was begun", || {
        let begun = stage.begun()?;
        ensure!(begun >= 2, "{begun}");
        anyhow::Ok(())
    });
    let (code, said) = stage.deploy("nightly", &[mended.to_owned()]);
    assert_eq!(code, 0, "{said}");
    until(NEXT_RUN, "a run of the mended file has ended well", || {
        let view = stage.view("nightly", "backup")?;
        ensure!(view.completed == 1 && view.failed.is_empty(), "{view:?}");
        anyhow::Ok(())
    });
    assert_eq!(stage.written("backup").last().map(String::as_str), Some("exit 0"));
}
