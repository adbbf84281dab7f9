//! `wharf history`, `rollback`, `rollout`, `rebalance` and `retry`.

use common::{
    api::{List, MovedInstance, PutRollout, PutStack, Rebalance, RevisionView, StackPlan, StackView},
    error::{Code, Problem},
    explain,
    name::{InvalidName, Name},
    rollout::RolloutState,
};
use hyper::Method;

use super::{Session, deploy};
use crate::{
    args,
    output::{self, Rows},
};

/// Lists the recorded revisions of a stack.
pub async fn history(session: &Session, stack: &Name) -> Result<u8, Problem> {
    let revisions = read(session, stack).await?;
    let row = |revision: &RevisionView| {
        vec![
            revision.revision.to_string(),
            revision.at.to_string(),
            revision.by.as_ref().map_or_else(|| "wharf".to_owned(), ToString::to_string),
            revision.what.clone(),
            explain::change_lines(&revision.changes).join("; "),
        ]
    };
    let rows = revisions.items.iter().map(row).collect();
    let head = ["REVISION", "AT", "BY", "WHAT", "CHANGES"];
    output::list(session.format, &revisions, Rows { head: &head, narrow: 5, rows });
    Ok(0)
}

async fn read(session: &Session, stack: &Name) -> Result<List<RevisionView>, Problem> {
    session.client.get(&session.in_environment(&format!("stacks/{stack}/revisions"))).await
}

/// Shows what a rollback would change, asks, and deploys the earlier revision.
pub async fn rollback(session: &Session, args: args::Rollback) -> Result<u8, Problem> {
    let stack = &args.stack;
    let revisions = read(session, stack).await?.items;
    let present = revisions.first().map_or(0, |revision| revision.revision);
    let wanted = match args.to {
        Some(to) => revisions.iter().find(|revision| revision.revision == to),
        None => last_that_served(&revisions),
    };
    if let Some(wanted) = wanted.filter(|wanted| args.to.is_none() && wanted.spec == revisions[0].spec) {
        unchanged(stack, wanted.revision);
        return Ok(0);
    }
    let Some(wanted) = wanted else { return Err(no_revision(stack, args.to.is_some(), &revisions)) };
    let path = session.in_environment(&format!("stacks/{stack}"));
    let put = |dry_run| PutStack {
        spec: wanted.spec.clone(),
        files: Vec::new(),
        expect_revision: Some(present),
        dry_run,
        what: Some(format!("rolled back to revision {}", wanted.revision)),
        goes_back: true,
    };
    let plan: StackPlan = session.client.send_json(Method::PUT, &path, &put(true)).await?;
    let title = format!("Rollback of {stack} to revision {} in {}", wanted.revision, session.place());
    deploy::show_plan(session, &title, &plan);
    if plan.from_revision == plan.to_revision {
        return Ok(0);
    }
    if !output::confirm("Apply?", session.yes)? {
        output::note("Nothing was changed.");
        return Ok(1);
    }
    let plan: StackPlan = session.client.send_json(Method::PUT, &path, &put(false)).await?;
    if args.detach {
        output::note(format!("✓ accepted as revision {}; to follow it: wharf ps {stack}", plan.to_revision));
        return Ok(0);
    }
    deploy::follow(session, stack, plan.to_revision, args.wait).await
}

fn unchanged(stack: &Name, revision: u64) {
    output::note(format!(
        "{stack} is what it was at revision {revision}, the last one that served: nothing was changed."
    ));
    output::note(format!("To go back further: wharf history {stack}, and wharf rollback {stack} --to REVISION"));
}

fn no_revision(stack: &Name, was_named: bool, revisions: &[RevisionView]) -> Problem {
    let kept: Vec<String> = revisions.iter().map(|revision| revision.revision.to_string()).collect();
    let lacks = if was_named { "has no such revision" } else { "has no earlier revision that served" };
    Problem::new(Code::NotFound, format!("{stack} {lacks}"))
        .why(format!("these are kept: {}", kept.join(", ")))
        .fix(format!("Look at them: wharf history {stack}"))
}

/// What a stack goes back to if no revision is named: the last one before the present one that served whole. That may
/// be the same again, after the cluster went back by itself.
fn last_that_served(revisions: &[RevisionView]) -> Option<&RevisionView> {
    revisions.iter().skip(1).find(|revision| revision.served)
}

/// Pauses, resumes or promotes a rollout.
pub async fn rollout(session: &Session, command: args::Rollout) -> Result<u8, Problem> {
    let (target, state, promote) = match &command {
        args::Rollout::Pause { service } => (service, RolloutState::Paused, false),
        args::Rollout::Resume { service } => (service, RolloutState::Rolling, false),
        args::Rollout::Promote { service } => (service, RolloutState::Rolling, true),
    };
    let (stack, service) = parse_service(target)?;
    let path = session.in_environment(&format!("stacks/{stack}"));
    let view: StackView = session.client.get(&path).await?;
    let of_service = view.services.iter().find(|view| view.id.service == service);
    let revision = of_service.map(|view| view.revision).ok_or_else(|| {
        Problem::new(Code::NotFound, format!("There is no service {target}")).fix("List the services: wharf ls")
    })?;
    session.client.put(&format!("{path}/services/{service}/rollout"), &PutRollout { state, revision, promote }).await?;
    output::note(format!("✓ {target} is {}; to see it: wharf ls", state.word()));
    Ok(0)
}

/// Shows which instances would move, asks, and requests the moves.
pub async fn rebalance(session: &Session, target: Option<String>, only_plan: bool) -> Result<u8, Problem> {
    let (stack, service) = match target.as_deref().map(|target| (target, target.contains('/'))) {
        None => (None, None),
        Some((target, true)) => parse_service(target).map(|(stack, service)| (Some(stack), Some(service)))?,
        Some((target, false)) => {
            let malformed = |e: InvalidName| Problem::new(Code::InvalidRequest, e.to_string());
            (Some(target.parse().map_err(malformed)?), None)
        }
    };
    let path = session.in_environment("rebalance");
    let ask = |dry_run| Rebalance { stack: stack.clone(), service: service.clone(), dry_run };
    let moves: List<MovedInstance> = session.client.send_json(Method::POST, &path, &ask(true)).await?;
    if only_plan && matches!(session.format, args::Format::Json | args::Format::Yaml) {
        output::value(session.format, &moves);
        return Ok(0);
    }
    for moved in &moves.items {
        output::note(format!("  {}  {} → {}", moved.id, moved.from, moved.to));
    }
    if moves.items.is_empty() {
        output::note("No instance would be better off elsewhere.");
    }
    if only_plan || moves.items.is_empty() {
        return Ok(0);
    }
    let question = format!("Move {} instances, one at a time for each service?", moves.items.len());
    if !output::confirm(&question, session.yes)? {
        return Ok(1);
    }
    let _: List<MovedInstance> = session.client.send_json(Method::POST, &path, &ask(false)).await?;
    output::note("✓ the instances are moving; to follow them: wharf ps");
    Ok(0)
}

/// Requests a retry of the failed instances of a service.
pub async fn retry(session: &Session, target: &str) -> Result<u8, Problem> {
    let (stack, service) = parse_service(target)?;
    session.client.delete(&session.in_environment(&format!("stacks/{stack}/services/{service}/backoff"))).await?;
    output::note(format!("✓ {target} is being retried; to follow it: wharf ps {stack}"));
    Ok(0)
}

fn parse_service(target: &str) -> Result<(Name, Name), Problem> {
    let malformed = || {
        Problem::new(Code::InvalidRequest, format!("{target:?} is not the name of a service"))
            .fix("Write stack/service, for example shop/web")
    };
    let (stack, service) = target.split_once('/').ok_or_else(malformed)?;
    Ok((stack.parse().map_err(|_| malformed())?, service.parse().map_err(|_| malformed())?))
}

#[cfg(test)]
mod tests {
    use common::{spec::StackSpec, time::Timestamp};

    use super::*;

    /// Revisions in the order of the history, newest first: `+` for one that was fully up, `-` for others.
    fn history(served: &str) -> Vec<RevisionView> {
        let count = served.len() as u64;
        let revision = |(index, sign): (usize, char)| RevisionView {
            revision: count - index as u64,
            at: Timestamp(0),
            by: None,
            what: String::new(),
            changes: Vec::new(),
            spec: StackSpec::default(),
            served: sign == '+',
        };
        served.chars().enumerate().map(revision).collect()
    }

    #[test]
    fn a_stack_goes_back_to_what_served_last() {
        for (served, expected) in
            [("", None), ("+", None), ("-", None), ("-+", Some(1)), ("+-+", Some(1)), ("-++", Some(2)), ("+--", None)]
        {
            assert_eq!(last_that_served(&history(served)).map(|it| it.revision), expected, "{served}");
        }
    }
}
