//! `wharf logs`: prints the output of instances.

mod follow;

use common::{
    api::{Event, InstanceView, List},
    error::{Code, Problem},
    id::InstanceId,
    output::LastLines,
};
use futures::{StreamExt, stream::FuturesUnordered};
use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;

use super::{
    Session,
    instances::{find, note, short},
};
use crate::{args::Logs, output};

#[derive(Deserialize)]
struct LogLine {
    stderr: bool,
    text: String,
    /// The time of the output; empty unless output is followed.
    #[serde(default)]
    at: String,
}

/// An instance whose output is being printed, and the position in it.
struct Reading {
    id: InstanceId,
    /// The time of the last piece that was printed.
    after: Option<String>,
    /// Whether each line starts with the instance's id.
    prefix: bool,
}

impl Reading {
    fn of(id: &InstanceId, prefix: bool) -> Reading {
        Reading { id: id.clone(), after: None, prefix }
    }
}

/// Prints the output of a service's instances, or of one instance.
pub async fn logs(session: &Session, logs: Logs) -> Result<u8, Problem> {
    let (service, instance) = target(&logs.target)?;
    let found = find(session, Some(&service)).await?;
    let wanted =
        |view: &&InstanceView| instance.is_none_or(|instance| view.id.to_string().ends_with(&format!("/{instance}")));
    let instances: Vec<&InstanceView> = found.items.iter().filter(wanted).collect();
    if instances.is_empty() {
        return kept_output(session, &logs).await;
    }
    if logs.follow {
        // A replacement of the named instance fills the same slot.
        let slot = instance.and(instances.first()).map(|view| view.id.slot.slot);
        return follow::follow(session, &service, slot, &logs).await;
    }
    print_all(session, &logs, &instances).await
}

/// Prints the output of instances as it comes.
async fn print_all(session: &Session, logs: &Logs, instances: &[&InstanceView]) -> Result<u8, Problem> {
    let many = instances.len() > 1;
    let read = |view| async move {
        let view: &InstanceView = view;
        (view, print(session, &mut Reading::of(&view.id, many), logs).await)
    };
    let mut reading: FuturesUnordered<_> = instances.iter().copied().map(read).collect();
    let (mut shown, mut missing, mut failed) = (false, None, None);
    while let Some((view, result)) = reading.next().await {
        match result {
            Ok(()) => shown = true,
            Err(problem) if problem.code == Code::NotFound => {
                shown |= without_container(view, many);
                missing.get_or_insert(problem);
            }
            Err(problem) => {
                output::problem(&problem);
                failed.get_or_insert(output::exit_code(problem.code));
            }
        }
    }
    match (failed, missing.filter(|_| !shown)) {
        (Some(code), _) => Ok(code),
        (None, Some(problem)) => Err(problem),
        (None, None) => Ok(0),
    }
}

/// A service and, if one is named, an instance of it.
fn target(text: &str) -> Result<(String, Option<&str>), Problem> {
    let mut parts = text.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(stack), Some(service), instance) => Ok((format!("{stack}/{service}"), instance)),
        _ => Err(Problem::new(Code::InvalidRequest, format!("{text:?} is not a service"))
            .fix("For example: wharf logs shop/web")),
    }
}

/// Says that an instance has no container, and shows what was kept of its output; whether any was.
fn without_container(view: &InstanceView, prefix: bool) -> bool {
    let why = note(&view.observed);
    let why = if why.is_empty() { view.state.clone() } else { format!("{}: {why}", view.state) };
    output::note(format!("! {} has no container ({why})", short(&view.id)));
    show_kept(&view.id, &view.observed.output, prefix)
}

fn show_kept(id: &InstanceId, kept: &LastLines, prefix: bool) -> bool {
    if !kept.is_empty() {
        output::note(format!("! only the last lines of the output of {} were kept:", short(id)));
        kept.lines().iter().for_each(|line| show(id, line, false, prefix));
    }
    !kept.is_empty()
}

/// Prints the output of removed instances that events have kept.
async fn kept_output(session: &Session, logs: &Logs) -> Result<u8, Problem> {
    let subject = super::events::about(session, &logs.target);
    let events: List<Event> = session.client.get(&format!("/api/v1/events?after=0{subject}")).await?;
    let kept = events.items.iter().rev().find(|event| !event.output.is_empty());
    let found = kept.and_then(|event| Some((event.subject.parse::<InstanceId>().ok()?, event)));
    let Some((id, event)) = found else {
        return Err(Problem::new(Code::NotFound, format!("{} has no instances", logs.target))
            .fix("List the instances: wharf ps"));
    };
    output::note(format!("! {} was removed ({})", short(&id), event.message));
    show_kept(&id, &event.output, false);
    Ok(0)
}

/// Prints an instance's output until it ends, and records the position reached.
async fn print(session: &Session, reading: &mut Reading, logs: &Logs) -> Result<(), Problem> {
    let (id, prefix) = (&reading.id, reading.prefix);
    let tail = match (&reading.after, logs.tail) {
        (Some(after), _) => format!("&after={after}"),
        (None, Some(tail)) => format!("&tail={tail}"),
        (None, None) => String::new(),
    };
    let part = logs.part.as_ref().map_or_else(String::new, |part| format!("&part={part}"));
    let service = id.service();
    let path = format!(
        "stacks/{}/services/{}/instances/{}.{}/logs?follow={}{tail}{part}",
        service.stack.stack, service.service, id.slot.slot, id.incarnation, logs.follow
    );
    let response = session.client.send(Method::GET, &session.in_environment(&path), bytes::Bytes::new()).await?;
    let mut body = response.into_body();
    let mut rest: Vec<u8> = Vec::new();
    let mut partial = String::new();
    while let Some(frame) = body.frame().await {
        let broken = |why: String| Problem::new(Code::Unreachable, format!("The output of {id} broke off")).why(why);
        let frame = frame.map_err(|e| broken(e.to_string()))?;
        rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line: LogLine = serde_json::from_slice(&line).map_err(|e| broken(e.to_string()))?;
            partial.push_str(&line.text);
            if !line.at.is_empty() {
                reading.after = Some(line.at);
            }
            while let Some(end) = partial.find('\n') {
                let text: String = partial.drain(..=end).collect();
                show(id, text.trim_end(), line.stderr, prefix);
            }
        }
    }
    if !partial.is_empty() {
        show(id, &partial, false, prefix);
    }
    Ok(())
}

/// Prints output; on a terminal, control sequences are escaped.
fn show(id: &InstanceId, text: &str, stderr: bool, prefix: bool) {
    let harmless: String = text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    let line = if prefix { format!("{} | {harmless}", short(id)) } else { harmless };
    if stderr {
        eprintln!("{line}");
    } else {
        output::line(&line);
    }
}
