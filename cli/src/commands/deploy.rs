//! `wharf deploy` and `wharf diff`: turn a compose file into a stack.

use std::{collections::BTreeMap, io::IsTerminal, time::Duration};

use common::{
    api::{
        AfterFailure, CanaryView, ChangeKind, DeploymentStatus, FailureView, InstanceView, List, PutStack, ServiceView,
        StackPlan, StackView,
    },
    error::{Code, Problem},
    explain,
    name::Name,
    output::LastLines,
    spec::Mode,
    time::Span,
};
use compose::{Composed, DifferentDefault};
use hyper::Method;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::{Session, project::ProjectFiles};
use crate::{
    args::{Deploy, Files, Format},
    output,
};

const POLL: Duration = Duration::from_millis(300);
/// How long a deployment may stay unplaceable before the command gives up.
const PLACEMENT_PATIENCE: Duration = Duration::from_secs(6);

/// The content of the compose files.
struct Wanted {
    stack: Name,
    composed: Composed,
    shown: String,
}

/// Shows what a deployment would change; returns 1 if there are changes.
pub async fn diff(session: &Session, files: &Files) -> Result<u8, Problem> {
    let wanted = read(files)?;
    let plan = ask(session, &wanted, true, None).await?;
    show(session, &wanted, &plan);
    Ok(u8::from(plan.from_revision != plan.to_revision))
}

/// Shows the plan, asks, deploys, and follows the progress.
pub async fn deploy(session: &Session, args: Deploy) -> Result<u8, Problem> {
    let wanted = read(&args.files)?;
    let plan = ask(session, &wanted, true, None).await?;
    show(session, &wanted, &plan);
    let changes = plan.from_revision != plan.to_revision;
    if changes && !output::confirm("Apply?", session.yes)? {
        output::note("Nothing was changed.");
        return Ok(1);
    }
    let plan = if changes { ask(session, &wanted, false, Some(plan.from_revision)).await? } else { plan };
    if args.detach {
        output::note(format!(
            "✓ {} revision {} was accepted; to follow it: wharf ps {}",
            wanted.stack, plan.to_revision, wanted.stack
        ));
        return Ok(0);
    }
    follow(session, &wanted.stack, plan.to_revision, args.wait).await
}

async fn ask(
    session: &Session,
    wanted: &Wanted,
    dry_run: bool,
    expect_revision: Option<u64>,
) -> Result<StackPlan, Problem> {
    let what = Some(format!("deployed from {}", wanted.shown.chars().take(100).collect::<String>()));
    let Composed { spec, files, .. } = wanted.composed.clone();
    let put = PutStack { spec, files, expect_revision, dry_run, what, goes_back: false };
    session.client.send_json(Method::PUT, &session.in_environment(&format!("stacks/{}", wanted.stack)), &put).await
}

fn read(files: &Files) -> Result<Wanted, Problem> {
    let project = ProjectFiles::read(files)?;
    let composed = project.compose()?;
    let stack = project.stack(composed.name.as_ref())?;
    Ok(Wanted { stack, composed, shown: project.shown })
}

fn show(session: &Session, wanted: &Wanted, plan: &StackPlan) {
    let services = explain::count(wanted.composed.spec.services.len() as u64, "service");
    let title = format!("Plan for {} ({}, {services}) against {}", wanted.stack, wanted.shown, session.place());
    show_plan(session, &title, plan);
    if matches!(session.format, Format::Json | Format::Yaml) {
        return;
    }
    let is_new = |default: &&DifferentDefault| {
        plan.services
            .iter()
            .any(|plan| plan.change.service == default.service && plan.change.kind == ChangeKind::Create)
    };
    let defaults: Vec<DifferentDefault> = wanted.composed.defaults.iter().filter(is_new).cloned().collect();
    compose::default_lines(&defaults).iter().for_each(|line| output::line(&format!("  {line}")));
}

/// Prints a plan: what changes, which ports open, and what is unavailable meanwhile.
pub fn show_plan(session: &Session, title: &str, plan: &StackPlan) {
    if matches!(session.format, Format::Json | Format::Yaml) {
        return output::value(session.format, plan);
    }
    output::line(title);
    explain::plan_lines(plan).iter().for_each(|line| output::line(line));
}

/// Shows the progress until the cluster reports that the deployment is done, has failed or waits for a promotion, or
/// until the time is over.
pub async fn follow(session: &Session, stack: &Name, revision: u64, wait: Span) -> Result<u8, Problem> {
    let began = Instant::now();
    let mut progress = Progress::new();
    let mut blocked_since = None;
    let path = session.in_environment(&format!("stacks/{stack}"));
    loop {
        let status: DeploymentStatus = session.client.get(&format!("{path}/deployments/{revision}")).await?;
        let view: StackView = session.client.get(&path).await?;
        let instances: List<InstanceView> =
            session.client.get(&session.in_environment(&format!("instances?stack={stack}"))).await?;
        progress.update(&view, &instances.items);
        let is_blocked = matches!(status, DeploymentStatus::Blocked { .. });
        blocked_since = is_blocked.then(|| blocked_since.unwrap_or_else(Instant::now));
        let for_long = blocked_since.is_some_and(|since| since.elapsed() > PLACEMENT_PATIENCE);
        let deployment = Deployment { stack, revision, view: &view, after: began.elapsed(), for_long };
        if let Some(end) = deployment.ended(status) {
            progress.end();
            return end;
        }
        if began.elapsed() > wait.duration() {
            progress.end();
            return Err(unfinished(stack, &view, &instances.items, wait));
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = tokio::signal::ctrl_c() => {
                progress.end();
                output::note(format!("Detached: the deployment continues. To follow it: wharf ps {stack}   To undo it: wharf rollback {stack}"));
                return Ok(130);
            }
        }
    }
}

/// A deployment that is followed, and how it looks now.
struct Deployment<'a> {
    stack: &'a Name,
    revision: u64,
    view: &'a StackView,
    /// For how long it has been followed.
    after: Duration,
    /// It cannot be placed, and was waited for.
    for_long: bool,
}

impl Deployment<'_> {
    /// The end of following the deployment, once it has one: an exit code, or the problem to show.
    fn ended(&self, status: DeploymentStatus) -> Option<Result<u8, Problem>> {
        let Deployment { stack, revision, view, after, for_long } = self;
        match status {
            DeploymentStatus::Progressing => None,
            DeploymentStatus::Done => {
                output::note(format!("✓ {stack} revision {revision} runs, after {:.1} s", after.as_secs_f64()));
                Some(Ok(0))
            }
            DeploymentStatus::Superseded { by } => {
                output::note(format!("! {stack} was changed again and is now at revision {by}"));
                Some(Ok(6))
            }
            DeploymentStatus::WaitingForPromotion { service } => {
                let waits = view.services.iter().find(|view| view.id.service == service).and_then(canary);
                output::note(format!("✓ {stack} revision {revision} was accepted; {}", waits.unwrap_or_default()));
                output::note(format!("  To go back: wharf rollback {stack}"));
                Some(Ok(0))
            }
            DeploymentStatus::Failed { service, why, output, then } => {
                let what = if then == AfterFailure::Paused { "is paused" } else { "failed" };
                let what = format!("{stack} revision {revision} {what} in {service}");
                let problem = last_lines(&output).fold(Problem::new(Code::RolloutFailed, what).why(why), Problem::why);
                Some(Err(advice(problem, stack, &service, then)))
            }
            DeploymentStatus::Blocked { reasons } => for_long.then(|| {
                let what = format!("{stack} was accepted, but not all of its instances can be placed");
                let reasons = reasons.into_iter().map(|blocked| format!("{}: {}", blocked.service, blocked.reason));
                let failures = view.services.iter().flat_map(told_failure);
                let problem = reasons.chain(failures).fold(Problem::new(Code::NotPlaceable, what), Problem::why);
                Err(problem.fix("They start as soon as that changes; to check: wharf ls"))
            }),
        }
    }
}

/// What is to be said of a service's canary, if the rest does not follow it yet.
pub fn canary(service: &ServiceView) -> Option<String> {
    let canary = service.rollout.canary.as_ref()?;
    let follows = match canary.promote_at {
        Some(at) => format!("the rest follows at {at}"),
        None => format!("the rest waits: wharf rollout promote {}/{}", service.id.stack.stack, service.id.service),
    };
    let CanaryView { settled, wanted, .. } = canary;
    Some(format!("canary: {settled} of {wanted} at revision {}; {follows}", service.revision))
}

/// What became of a service whose change failed, and what to do.
fn advice(problem: Problem, stack: &Name, service: &Name, then: AfterFailure) -> Problem {
    let look = format!("See its output: wharf logs {stack}/{service}; and its events: wharf events {stack}/{service}");
    match then {
        AfterFailure::Paused => problem
            .why("no more instances are replaced; running instances stay")
            .fix(format!("Fix the file and deploy it again, or go back: wharf rollback {stack}"))
            .fix(format!("Or continue anyway: wharf rollout resume {stack}/{service}")),
        AfterFailure::WentBack { to } => problem.why(format!("{service} was rolled back to revision {to}")).fix(look),
        AfterFailure::Stays => problem
            .why(format!("wharf does not retry it, and services that wait for {service} were not changed"))
            .fix(look)
            .fix(format!("Fix the file and deploy it again, or retry: wharf retry {stack}/{service}")),
    }
}

/// The problem when the time is over: what each instance reports.
fn unfinished(stack: &Name, view: &StackView, instances: &[InstanceView], wait: Span) -> Problem {
    let problem = Problem::new(Code::ResultUnknown, format!("{stack} was not fully up within {wait}"));
    let notes = instances
        .iter()
        .filter(|instance| !instance.observed.message.is_empty())
        .map(|instance| format!("{}: {}", instance.id, instance.observed.message));
    let output = view.services.iter().flat_map(|service| service.failure.iter().flat_map(told_output));
    notes
        .chain(output)
        .fold(problem, Problem::why)
        .fix(format!("The deployment continues; to follow it: wharf ps {stack}"))
}

/// Describes a service's last failure, followed by the last output of the failed program.
fn told_failure(service: &ServiceView) -> Vec<String> {
    let Some(failure) = &service.failure else { return Vec::new() };
    let host = failure.host.as_ref().map_or_else(String::new, |host| format!(" on {host}"));
    let what = format!("{}{host}: {}", super::instances::short(&failure.instance), failure.why);
    std::iter::once(what).chain(told_output(failure)).collect()
}

fn told_output(failure: &FailureView) -> Vec<String> {
    last_lines(&failure.output).collect()
}

/// The last output lines, marked so that they cannot be taken for messages of wharf.
fn last_lines(output: &LastLines) -> impl Iterator<Item = String> {
    output.lines().iter().map(|line| format!("│ {line}"))
}

/// The number of a service's instances that are as wanted: they serve, or have ended well.
pub fn done(service: &ServiceView) -> u32 {
    match (&service.spec.cron, service.spec.mode) {
        // A scheduled job runs when it is due.
        (Some(_), _) => service.wanted.saturating_sub(service.failed.len() as u32),
        (None, Mode::Job) => service.completed,
        (None, Mode::Replicated | Mode::Global) => service.serving + service.completed,
    }
}

/// Progress bars on a terminal, otherwise a line per change.
struct Progress {
    bars: Option<MultiProgress>,
    services: BTreeMap<String, (Option<ProgressBar>, String)>,
}

impl Progress {
    fn new() -> Progress {
        Progress { bars: std::io::stderr().is_terminal().then(MultiProgress::new), services: BTreeMap::new() }
    }

    fn update(&mut self, view: &StackView, instances: &[InstanceView]) {
        for service in &view.services {
            let done = done(service);
            let text = format!("{done}/{} {}", service.wanted, note(service, instances));
            let name = service.id.service.to_string();
            let bar = || {
                self.bars.as_ref().map(|bars| {
                    let style = ProgressStyle::with_template("{prefix:16} {bar:20} {msg}")
                        .unwrap_or_else(|_| ProgressStyle::default_bar());
                    bars.add(ProgressBar::new(u64::from(service.wanted)).with_style(style).with_prefix(name.clone()))
                })
            };
            let (bar, shown) = self.services.entry(name.clone()).or_insert_with(|| (bar(), String::new()));
            if *shown == text {
                continue;
            }
            match bar {
                Some(bar) => {
                    bar.set_position(u64::from(done));
                    bar.set_message(text.clone());
                }
                None => output::note(format!("{}  {name}  {text}", link::clock::now())),
            }
            *shown = text;
        }
    }

    fn end(&self) {
        for bar in self.services.values().filter_map(|(bar, _)| bar.as_ref()) {
            bar.abandon();
        }
    }
}

/// The most important remark on a service that is not complete yet.
fn note(service: &ServiceView, instances: &[InstanceView]) -> String {
    if let Some(reason) = service.blocked.first() {
        return reason.clone();
    }
    let of_service = instances.iter().filter(|instance| *instance.id.service() == service.id);
    let unwell = of_service
        .filter(|instance| !instance.observed.is_serving())
        .max_by_key(|instance| !instance.observed.message.is_empty());
    unwell.map_or_else(String::new, |instance| {
        let host = instance.host_name.as_ref().map_or_else(String::new, ToString::to_string);
        format!("{host} {} {}", instance.state, instance.observed.message).trim().to_owned()
    })
}
