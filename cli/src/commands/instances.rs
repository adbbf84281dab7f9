//! Instances: list them, read their output.

use std::net::{IpAddr, SocketAddr};

use common::{
    api::{Event, InstanceView, List},
    error::{Code, Problem},
    id::InstanceId,
    instance::{BoundPort, Observed, Phase},
    name::Name,
    output::LastLines,
};
use futures::{StreamExt, stream::FuturesUnordered};
use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;

use super::Session;
use crate::{
    args::Logs,
    output::{self, Rows},
};

/// Lists instances.
pub async fn ps(session: &Session, target: Option<&str>) -> Result<u8, Problem> {
    let found = find(session, target).await?;
    if let Some(target) = target.filter(|_| found.items.is_empty()) {
        output::note(format!(
            "There is no instance of {target} in {}; see which services there are: wharf ls",
            session.place()
        ));
    }
    let row = |instance: &InstanceView| {
        let ports = instance.ports.iter().map(|port| bound(port, instance.address));
        let host = instance.host_name.as_ref().map_or_else(|| instance.host.to_string(), ToString::to_string);
        vec![
            short(&instance.id),
            instance.state.clone(),
            instance.observed.restart.to_string(),
            host,
            ports.collect::<Vec<_>>().join(" "),
            note(&instance.observed),
            instance.observed.address.map_or_else(String::new, |address| address.to_string()),
            instance.image.clone(),
            instance.revision.to_string(),
            instance.created_at.to_string(),
        ]
    };
    let rows = found.items.iter().map(row).collect();
    let head = ["INSTANCE", "STATE", "RESTARTS", "HOST", "PORTS", "NOTE", "ADDRESS", "IMAGE", "REVISION", "PLACED"];
    output::list(session.format, &found, Rows { head: &head, narrow: 6, rows });
    Ok(0)
}

/// A port as it is bound: by the one address that was asked for, else by the host's own, at which it answers too.
fn bound(port: &BoundPort, host: Option<IpAddr>) -> String {
    let asked = port.spec.host_ip.filter(|address| !address.is_unspecified());
    let address = match asked.or(host) {
        Some(address) => SocketAddr::new(address, port.host).to_string(),
        None => format!(":{}", port.host),
    };
    format!("{address}→{}/{}", port.spec.container, port.spec.protocol)
}

/// What a person should know of an instance; of one that has failed, with the last line that it printed.
fn note(observed: &Observed) -> String {
    let last = observed.output.lines().last().filter(|_| !observed.is_serving() && observed.phase != Phase::Completed);
    let said = if observed.message.is_empty() { &observed.failure } else { &observed.message };
    match last {
        Some(line) if !said.is_empty() => format!("{said}: {line}"),
        Some(line) => line.clone(),
        None => observed.message.clone(),
    }
}

/// An instance without its environment, as people name it.
pub fn short(id: &InstanceId) -> String {
    let full = id.to_string();
    full.split_once('/').map_or(full.clone(), |(_, rest)| rest.to_owned())
}

async fn find(session: &Session, target: Option<&str>) -> Result<List<InstanceView>, Problem> {
    let malformed = |_| {
        Problem::new(Code::InvalidRequest, format!("{:?} is not a stack or service", target.unwrap_or_default()))
            .fix("For example: wharf ps shop/web")
    };
    let mut parts = target.unwrap_or_default().splitn(3, '/').filter(|part| !part.is_empty());
    let mut query = String::new();
    for key in ["stack", "service"] {
        if let Some(part) = parts.next() {
            let name: Name = part.parse().map_err(malformed)?;
            query.push_str(&format!("{}{key}={name}", if query.is_empty() { "?" } else { "&" }));
        }
    }
    session.client.get(&session.in_environment(&format!("instances{query}"))).await
}

#[derive(Deserialize)]
struct LogLine {
    stderr: bool,
    text: String,
}

/// Prints the output of a service's instances, or of one.
pub async fn logs(session: &Session, logs: Logs) -> Result<u8, Problem> {
    let mut parts = logs.target.splitn(3, '/');
    let (service, instance) = match (parts.next(), parts.next(), parts.next()) {
        (Some(stack), Some(service), instance) => (format!("{stack}/{service}"), instance),
        _ => {
            return Err(Problem::new(Code::InvalidRequest, format!("{:?} is not a service", logs.target))
                .fix("For example: wharf logs shop/web"));
        }
    };
    let found = find(session, Some(&service)).await?;
    let wanted =
        |view: &&InstanceView| instance.is_none_or(|instance| view.id.to_string().ends_with(&format!("/{instance}")));
    let instances: Vec<&InstanceView> = found.items.iter().filter(wanted).collect();
    if instances.is_empty() {
        return kept_output(session, &logs).await;
    }
    let many = instances.len() > 1;
    let mut reading: FuturesUnordered<_> =
        instances.iter().map(|view| async { (*view, print(session, &view.id, &logs, many).await) }).collect();
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

/// Says that an instance has no container, and shows what was kept of its output; whether any was.
fn without_container(view: &InstanceView, prefix: bool) -> bool {
    let why = note(&view.observed);
    let why = if why.is_empty() { view.state.clone() } else { format!("{}: {why}", view.state) };
    output::note(format!("! {} has no container ({why})", short(&view.id)));
    show_kept(&view.id, &view.observed.output, prefix)
}

fn show_kept(id: &InstanceId, kept: &LastLines, prefix: bool) -> bool {
    if !kept.is_empty() {
        output::note(format!("! of the output of {} its last lines were kept:", short(id)));
        kept.lines().iter().for_each(|line| show(id, line, false, prefix));
    }
    !kept.is_empty()
}

/// What the events have kept of the output of instances that are gone.
async fn kept_output(session: &Session, logs: &Logs) -> Result<u8, Problem> {
    let subject = super::events::about(session, &logs.target);
    let events: List<Event> = session.client.get(&format!("/api/v1/events?after=0{subject}")).await?;
    let kept = events.items.iter().rev().find(|event| !event.output.is_empty());
    let found = kept.and_then(|event| Some((event.subject.parse::<InstanceId>().ok()?, event)));
    let Some((id, event)) = found else {
        return Err(Problem::new(Code::NotFound, format!("There is no instance of {}", logs.target))
            .fix("See which there are: wharf ps"));
    };
    output::note(format!("! {} is gone ({})", short(&id), event.message));
    show_kept(&id, &event.output, false);
    Ok(0)
}

async fn print(session: &Session, id: &InstanceId, logs: &Logs, prefix: bool) -> Result<(), Problem> {
    let tail = logs.tail.map_or_else(String::new, |tail| format!("&tail={tail}"));
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

/// Output may contain control sequences; a terminal gets them made harmless.
fn show(id: &InstanceId, text: &str, stderr: bool, prefix: bool) {
    let harmless: String = text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    let line = if prefix { format!("{} | {harmless}", short(id)) } else { harmless };
    if stderr {
        eprintln!("{line}");
    } else {
        output::line(&line);
    }
}

#[cfg(test)]
mod tests {
    use common::spec::{PortSpec, Protocol};

    use super::*;

    #[test]
    fn ports_are_shown_as_they_are_bound() {
        let host: Option<IpAddr> = Some([10, 0, 0, 1].into());
        let cases = [
            (Some("127.0.0.1"), Protocol::Udp, host, "127.0.0.1:18072→81/udp"),
            (Some("0.0.0.0"), Protocol::Tcp, host, "10.0.0.1:18072→81/tcp"),
            (None, Protocol::Tcp, host, "10.0.0.1:18072→81/tcp"),
            (Some("::1"), Protocol::Tcp, host, "[::1]:18072→81/tcp"),
            (None, Protocol::Udp, None, ":18072→81/udp"),
        ];
        for (asked, protocol, host, expected) in cases {
            let host_ip = asked.map(|address| address.parse().expect("an address"));
            let spec = PortSpec { container: 81, published: Some(18072), protocol, host_ip };
            assert_eq!(bound(&BoundPort { spec, host: 18072 }, host), expected);
        }
    }
}
