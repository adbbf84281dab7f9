//! `wharf host`: add, list, change and remove hosts.

use std::collections::BTreeMap;

use common::{
    api::{
        AcceptHost, CreateJoinToken, HostView, JoinTokenCreated, JoinTokenView, List, PutAvailability, PutHostLabels,
        WantedAvailability,
    },
    error::{Code, Problem},
    host::{Availability, HostCondition, Oversubscription},
    token::JoinRole,
};
use hyper::Method;

use super::{Session, drain};
use crate::{
    args::{Format, Host},
    output::{self, Rows},
};

/// Runs a `wharf host` command.
pub async fn run(session: &Session, command: Host) -> Result<u8, Problem> {
    match command {
        Host::Add { coordinator, ttl, uses, labels, cidr, replaces } => {
            let role = if coordinator { JoinRole::Coordinator } else { JoinRole::Agent };
            let labels = parse_labels(&labels)?;
            add(session, CreateJoinToken { role, ttl, max_uses: uses, labels, cidr, replaces }).await
        }
        Host::Ls => ls(session).await,
        Host::Inspect { host } => {
            let view: HostView = session.client.get(&format!("/api/v1/hosts/{host}")).await?;
            output::value(session.format, &view);
            Ok(0)
        }
        Host::Accept { host } => accept(session, &host).await,
        Host::Label { host, labels } => {
            let put = PutHostLabels { labels: parse_labels(&labels)? };
            session.client.put(&format!("/api/v1/hosts/{host}/labels"), &put).await?;
            Ok(0)
        }
        Host::Cordon { host } => {
            set(session, &host, WantedAvailability::Cordoned).await?;
            output::note(format!("✓ {host} takes no new instances; undo: wharf host uncordon {host}"));
            Ok(0)
        }
        Host::Uncordon { host } => {
            set(session, &host, WantedAvailability::Active).await?;
            output::note(format!("✓ {host} takes new instances"));
            Ok(0)
        }
        Host::Drain(asked) => drain::drain(session, &asked).await,
        Host::Rm { host } => rm(session, &host).await,
        Host::Oversubscribe { host, cpu, memory } => oversubscribe(session, &host, cpu, memory).await,
        Host::Maintenance { host } => maintenance(session, &host).await,
        Host::Tokens => tokens(session).await,
        Host::Revoke { token } => {
            session.client.delete(&format!("/api/v1/join-tokens/{token}")).await?;
            Ok(0)
        }
    }
}

async fn rm(session: &Session, host: &str) -> Result<u8, Problem> {
    let question = format!("Remove the host {host} from {}? Its instances are replaced.", session.context);
    if !output::confirm(&question, session.yes)? {
        return Ok(1);
    }
    session.client.delete(&format!("/api/v1/hosts/{host}")).await?;
    output::note(format!("✓ {host} is removed; it stops its containers as soon as a coordinator reaches it"));
    output::note(
        "  until then they keep running beside their replacements; to stop them now, on the host: wharf uninstall",
    );
    Ok(0)
}

/// Shows what a host claims, and accepts it.
async fn accept(session: &Session, host: &str) -> Result<u8, Problem> {
    let view: HostView = session.client.get(&format!("/api/v1/hosts/{host}")).await?;
    if view.claims.is_empty() {
        output::note(format!("{host} claims nothing that was not accepted"));
        return Ok(0);
    }
    let question = format!("{host} claims {}. Accept it?", view.claims.join(", "));
    if !output::confirm(&question, session.yes)? {
        return Ok(1);
    }
    session.client.put(&format!("/api/v1/hosts/{host}/claims"), &AcceptHost { claims: view.claims }).await?;
    output::note(format!("✓ {host} counts as what it claims"));
    Ok(0)
}

async fn oversubscribe(session: &Session, host: &str, cpu: f64, memory: f64) -> Result<u8, Problem> {
    // What is out of range is refused with the range.
    let hundredths = |factor: f64| (factor * 100.0).round() as u32;
    let put = Oversubscription { cpu: hundredths(cpu), memory: hundredths(memory) };
    session.client.put(&format!("/api/v1/hosts/{host}/oversubscription"), &put).await?;
    Ok(0)
}

async fn maintenance(session: &Session, host: &str) -> Result<u8, Problem> {
    let question = format!("Stop all instances on {host}? Those with data on it stay down until it is back.");
    if !output::confirm(&question, session.yes)? {
        return Ok(1);
    }
    set(session, host, WantedAvailability::Maintenance).await?;
    Ok(0)
}

/// Gives a host an availability that has no deadline.
async fn set(session: &Session, host: &str, availability: WantedAvailability) -> Result<(), Problem> {
    let put = PutAvailability { availability, within: None, dry_run: false };
    drain::put(session, host, &put).await.map(drop)
}

/// Creates a join token and prints the line that joins a host.
pub async fn add(session: &Session, asked: CreateJoinToken) -> Result<u8, Problem> {
    let created: JoinTokenCreated = session.client.send_json(Method::POST, "/api/v1/join-tokens", &asked).await?;
    if matches!(session.format, Format::Json | Format::Yaml) {
        output::value(session.format, &created);
        return Ok(0);
    }
    let uses =
        if created.view.max_uses == 1 { "one host".to_owned() } else { format!("{} hosts", created.view.max_uses) };
    output::note(format!("Paste this on the host; it admits {uses} until {}:", created.view.expires_at));
    output::line(&created.line);
    for way in &created.other_ways {
        output::note(format!("  {way}"));
    }
    Ok(0)
}

fn parse_labels(labels: &[String]) -> Result<BTreeMap<String, String>, Problem> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Problem::new(Code::InvalidRequest, format!("{text:?} is not a label")).fix("For example: disk=ssd")
        })?;
        Ok((key.to_owned(), value.to_owned()))
    };
    labels.iter().map(pair).collect()
}

/// The liveness of a host, its availability if that is not active, and its conditions.
fn state(host: &HostView) -> String {
    let wanted = Some(host.availability.word()).filter(|_| host.availability != Availability::Active);
    let lacks = host.conditions.iter().map(HostCondition::word);
    let claims = (!host.claims.is_empty()).then_some("to be accepted");
    [host.liveness.word()].into_iter().chain(wanted).chain(lacks).chain(claims).collect::<Vec<_>>().join(", ")
}

const HEAD: [&str; 13] = [
    "NAME",
    "STATE",
    "ROLE",
    "INST.",
    "CPU RESERVED",
    "MEM RESERVED",
    "ADDRESS",
    "AGENT",
    "ID",
    "DOCKER",
    "KERNEL",
    "DEVICES",
    "LABELS",
];

async fn ls(session: &Session) -> Result<u8, Problem> {
    let hosts: List<HostView> = session.client.get("/api/v1/hosts").await?;
    let row = |host: &HostView| {
        let fact = |read: fn(&common::host::HostFacts) -> String| host.facts.as_ref().map_or_else(String::new, read);
        let of = |used: String, all: String| if all.is_empty() { used } else { format!("{used} of {all}") };
        vec![
            host.name.to_string(),
            state(host),
            if host.member.is_some() { "coordinator" } else { "agent" }.to_owned(),
            host.instances.to_string(),
            of(host.reserved.cpu.to_string(), fact(|facts| facts.cpu.to_string())),
            of(host.reserved.memory.to_string(), fact(|facts| facts.memory.to_string())),
            fact(|facts| facts.address.to_string()),
            fact(|facts| facts.agent.clone()),
            host.id.to_string(),
            fact(|facts| facts.docker.clone()),
            fact(|facts| facts.kernel.clone()),
            fact(|facts| {
                let counts = facts.devices.iter().map(|(kind, ids)| format!("{} {kind}", ids.len()));
                counts.collect::<Vec<_>>().join(", ")
            }),
            host.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
        ]
    };
    let rows = hosts.items.iter().map(row).collect();
    output::list(session.format, &hosts, Rows { head: &HEAD, narrow: 8, rows });
    Ok(0)
}

async fn tokens(session: &Session) -> Result<u8, Problem> {
    let tokens: List<JoinTokenView> = session.client.get("/api/v1/join-tokens").await?;
    let row = |token: &JoinTokenView| {
        let state = if token.revoked { "revoked".to_owned() } else { format!("until {}", token.expires_at) };
        let uses =
            token.uses.iter().map(|used| format!("{} from {}", used.name, used.from)).collect::<Vec<_>>().join(", ");
        vec![
            token.id.to_string(),
            format!("{:?}", token.role).to_lowercase(),
            state,
            format!("{}/{}", token.uses.len(), token.max_uses),
            uses,
        ]
    };
    let rows = tokens.items.iter().map(row).collect();
    output::list(session.format, &tokens, Rows { head: &["ID", "ROLE", "STATE", "USES", "USED BY"], narrow: 5, rows });
    Ok(0)
}
