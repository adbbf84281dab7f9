//! `wharf ls`, `rm` and `scale`.

use std::time::Duration;

use common::{
    api::{List, ScaleService, ServiceView, StackView},
    error::{Code, Problem},
    name::Name,
    rollout::RolloutState,
    time::Span,
};
use tokio::time::Instant;

use super::{
    Session,
    deploy::{canary, done},
};
use crate::output::{self, Rows};

/// Lists stacks and their services.
pub async fn ls(session: &Session) -> Result<u8, Problem> {
    let stacks: List<StackView> = session.client.get(&session.in_environment("stacks")).await?;
    let row = |stack: &StackView, service: &ServiceView| {
        let whole = done(service) >= service.wanted;
        let state = match (stack.removing, service.rollout.state, whole) {
            (true, ..) => "removing",
            _ if !service.failed.is_empty() => "failed",
            (_, RolloutState::Failed, _) => "failed",
            (_, RolloutState::Paused, _) => "paused",
            (.., true) => "✓",
            (.., false) => "!",
        };
        let mut notes = service.blocked.clone();
        let failures = failure(service).filter(|_| !whole);
        notes.extend(service.failed.iter().filter(|_| failures.is_none()).cloned());
        notes.extend(failures);
        notes.extend(canary(service));
        notes.extend(service.next_run.map(|at| format!("next run {at}")));
        notes.extend(Some(service.rollout.why.clone()).filter(|why| !why.is_empty()));
        vec![
            format!("{}/{}", stack.id.stack, service.id.service),
            format!("{}/{} {state}", done(service), service.wanted),
            service.spec.container.image.clone(),
            stack.revision.to_string(),
            notes.join("; "),
            service.address.map_or_else(String::new, |address| address.to_string()),
        ]
    };
    let rows =
        stacks.items.iter().flat_map(|stack| stack.services.iter().map(move |service| row(stack, service))).collect();
    output::list(
        session.format,
        &stacks,
        Rows { head: &["STACK/SERVICE", "INSTANCES", "IMAGE", "REVISION", "NOTE", "ADDRESS"], narrow: 5, rows },
    );
    Ok(0)
}

/// The instance of a service that does not serve, why, and the last line of its output.
fn failure(service: &ServiceView) -> Option<String> {
    let failure = service.failure.as_ref()?;
    let host = failure.host.as_ref().map_or_else(String::new, |host| format!(" on {host}"));
    let last = failure.output.lines().last().map_or_else(String::new, |line| format!(": {line}"));
    let slot = &failure.instance;
    Some(format!("{}.{}{host}: {}{last}", slot.slot.slot, slot.incarnation, failure.why))
}

/// Removes a stack and waits until it is gone.
pub async fn rm(session: &Session, stack: Name, wait: Span) -> Result<u8, Problem> {
    let question = format!("Remove the stack {stack} and all its instances from {}? Volumes stay.", session.place());
    if !output::confirm(&question, session.yes)? {
        return Ok(1);
    }
    let path = session.in_environment(&format!("stacks/{stack}"));
    session.client.delete(&path).await?;
    let deadline = Instant::now() + wait.duration();
    while Instant::now() < deadline {
        match session.client.get::<StackView>(&path).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(problem) if problem.code == Code::NotFound => {
                output::note(format!("✓ {stack} is removed"));
                return Ok(0);
            }
            Err(problem) => return Err(problem),
        }
    }
    Err(Problem::new(Code::ResultUnknown, format!("{stack} was not fully removed within {wait}"))
        .why("its removal continues")
        .fix("See what is left: wharf ps"))
}

/// Changes the number of replicas of a service.
pub async fn scale(session: &Session, target: &str) -> Result<u8, Problem> {
    let malformed = || {
        Problem::new(Code::InvalidRequest, format!("{target:?} is not stack/service=number"))
            .fix("For example: wharf scale shop/web=3")
    };
    let (service, replicas) = target.split_once('=').ok_or_else(malformed)?;
    let (stack, service) = service.split_once('/').ok_or_else(malformed)?;
    let (stack, service): (Name, Name) =
        (stack.parse().map_err(|_| malformed())?, service.parse().map_err(|_| malformed())?);
    let replicas = replicas.parse().map_err(|_| malformed())?;
    session
        .client
        .put(&session.in_environment(&format!("stacks/{stack}/services/{service}/scale")), &ScaleService { replicas })
        .await?;
    output::note(format!("✓ {stack}/{service} will have {replicas}; to follow it: wharf ps {stack}"));
    Ok(0)
}
