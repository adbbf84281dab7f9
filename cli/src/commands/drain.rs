//! `wharf host drain`: drains a host, and names the instances that could not move.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{
    api::{DrainPlan, Fate, HostView, InstanceView, List, PutAvailability, ServiceView, StackView, WantedAvailability},
    error::{Code, Problem},
    explain,
    host::Availability,
    id::{InstanceId, StackId},
    instance::{Verdict, Want},
    spec::Mode,
    time::Span,
};
use hyper::Method;
use tokio::time::Instant;

use super::{Session, deploy::done};
use crate::{
    args::{Drain, Format},
    output,
};

const POLL: Duration = Duration::from_millis(500);
/// Extra time after the host's deadline for instances to stop and for their replacements to be placed.
const AFTER_DEADLINE: Duration = Duration::from_secs(60);
/// The maximum number of instances that one progress report names.
const MOST_NAMED: usize = 8;

/// Shows what becomes of the host's instances, asks, and waits until it is empty.
pub async fn drain(session: &Session, asked: &Drain) -> Result<u8, Problem> {
    let (host, within) = (&asked.host, asked.within);
    let plan = put(session, host, &draining(within, true)).await?;
    if asked.plan && matches!(session.format, Format::Json | Format::Yaml) {
        output::value(session.format, &plan);
        return Ok(0);
    }
    output::note(format!("{} has {}:", plan.host, explain::count(plan.instances.len() as u64, "instance")));
    for instance in &plan.instances {
        output::note(format!("  {}  {}", instance.id, explain::fate(&instance.fate)));
    }
    if asked.plan {
        return Ok(0);
    }
    let question = format!("Drain {host}? Instances without a replacement after {within} are stopped.");
    if !output::confirm(&question, session.yes)? {
        return Ok(1);
    }
    put(session, host, &draining(within, false)).await?;
    if asked.detach {
        output::note(format!("✓ {host} is draining; to follow it: wharf ps; undo: wharf host uncordon {host}"));
        return Ok(0);
    }
    let deadline = Instant::now() + within.duration() + AFTER_DEADLINE;
    match until_empty(session, host, within, deadline).await? {
        Some(code) => Ok(code),
        None => outcome(session, &plan, deadline).await,
    }
}

/// Gives a host an availability; what becomes of its instances then.
pub(super) async fn put(session: &Session, host: &str, put: &PutAvailability) -> Result<DrainPlan, Problem> {
    session.client.send_json(Method::PUT, &format!("/api/v1/hosts/{host}/availability"), put).await
}

fn draining(within: Span, dry_run: bool) -> PutAvailability {
    PutAvailability { availability: WantedAvailability::Draining, within: Some(within), dry_run }
}

/// Shows what is left and why until nothing is; the exit code if it ends otherwise.
async fn until_empty(session: &Session, host: &str, within: Span, deadline: Instant) -> Result<Option<u8>, Problem> {
    let mut left = usize::MAX;
    loop {
        let view: HostView = session.client.get(&format!("/api/v1/hosts/{host}")).await?;
        if !matches!(view.availability, Availability::Draining { .. }) {
            output::note(format!("! {host} is {} again", view.availability.word()));
            return Ok(Some(6));
        }
        if view.instances == 0 {
            return Ok(None);
        }
        if view.instances != left {
            left = view.instances;
            progress(left, &put(session, host, &draining(within, true)).await?);
        }
        if Instant::now() > deadline {
            return Err(Problem::new(Code::ResultUnknown, format!("{host} is not empty yet"))
                .why(format!("{} left", explain::count(left as u64, "instance")))
                .fix("See what they wait for: wharf ps; wharf events"));
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = tokio::signal::ctrl_c() => {
                output::note(format!("Detached: the drain continues. Undo: wharf host uncordon {host}"));
                return Ok(Some(130));
            }
        }
    }
}

/// Prints the remaining instances and what each of them waits for.
fn progress(left: usize, plan: &DrainPlan) {
    output::note(format!("{}  {left} left", link::clock::now()));
    for instance in plan.instances.iter().take(MOST_NAMED) {
        output::note(format!("  {}  {}", instance.id, explain::fate(&instance.fate)));
    }
    if plan.instances.len() > MOST_NAMED {
        output::note(format!("  and {} more", plan.instances.len() - MOST_NAMED));
    }
}

/// The result of a drain: an empty host, and possibly instances that no longer run anywhere.
async fn outcome(session: &Session, plan: &DrainPlan, deadline: Instant) -> Result<u8, Problem> {
    let host = &plan.host;
    let stranded = loop {
        let (stacks, instances) = look(session, plan).await?;
        match stranded(plan, &stacks, &instances) {
            Some(stranded) => break stranded,
            None if Instant::now() > deadline => {
                return Err(Problem::new(Code::ResultUnknown, format!("{host} is empty"))
                    .why("some of its instances have not been placed elsewhere yet")
                    .fix("See what they wait for: wharf ls"));
            }
            None => tokio::time::sleep(POLL).await,
        }
    };
    output::note(format!("✓ {host} is empty; to use it again: wharf host uncordon {host}"));
    if stranded.is_empty() {
        return Ok(0);
    }
    let number = explain::count(stranded.len() as u64, "instance");
    let (was, runs) = if stranded.len() == 1 { ("was", "runs") } else { ("were", "run") };
    let problem = Problem::new(Code::NotPlaceable, format!("{number} of {host} {was} stopped and {runs} nowhere"));
    let line = |(id, why): &(InstanceId, Vec<String>)| format!("{id}: {}", why.join("; "));
    Err(stranded
        .iter()
        .map(line)
        .fold(problem, Problem::why)
        .fix(format!("Use the host again: wharf host uncordon {host}"))
        .fix("Or free capacity on other hosts; the instances then start by themselves"))
}

/// The stacks that had instances on the host, and their current instances. A removed stack has none.
async fn look(session: &Session, plan: &DrainPlan) -> Result<(Vec<StackView>, Vec<InstanceView>), Problem> {
    let ids: BTreeSet<&StackId> = plan.instances.iter().map(|instance| instance.id.stack()).collect();
    let (mut stacks, mut instances) = (Vec::new(), Vec::new());
    for id in ids {
        let environment = format!("/api/v1/environments/{}", id.environment);
        match session.client.get::<StackView>(&format!("{environment}/stacks/{}", id.stack)).await {
            Ok(stack) => stacks.push(stack),
            Err(problem) if problem.code == Code::NotFound => continue,
            Err(problem) => return Err(problem),
        }
        let list: List<InstanceView> =
            session.client.get(&format!("{environment}/instances?stack={}", id.stack)).await?;
        instances.extend(list.items);
    }
    Ok((stacks, instances))
}

/// The wanted instances that ran on the host and now run nowhere, with the reasons; `None` while the planner may still
/// place some of them.
fn stranded(
    plan: &DrainPlan,
    stacks: &[StackView],
    instances: &[InstanceView],
) -> Option<Vec<(InstanceId, Vec<String>)>> {
    let services: BTreeMap<_, &ServiceView> =
        stacks.iter().flat_map(|stack| &stack.services).map(|service| (&service.id, service)).collect();
    let is_filled = |id: &InstanceId| {
        let fills = |i: &InstanceView| i.desired.want <= Want::Run && !matches!(i.verdict, Verdict::Lost { .. });
        instances.iter().any(|i| i.id.slot == id.slot && fills(i))
    };
    let mut stranded = Vec::new();
    for instance in plan.instances.iter().filter(|instance| instance.fate != Fate::EndsHere) {
        let id = &instance.id;
        let Some(service) = services.get(id.service()) else { continue };
        let is_wanted = service.spec.mode != Mode::Global && id.slot.slot <= service.spec.replicas;
        if !is_wanted || is_filled(id) || done(service) >= service.wanted {
            continue;
        }
        if service.blocked.is_empty() {
            return None;
        }
        stranded.push((id.clone(), service.blocked.clone()));
    }
    Some(stranded)
}

#[cfg(test)]
mod tests;
