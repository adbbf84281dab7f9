//! What differs between two specs of a stack, in plain words.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::{
    api::{ChangeKind, RevisionView, ServiceChange, StackPlan},
    error::Problem,
    file::FileSpec,
    id::StackId,
    name::Name,
    part::Part,
    spec::{ContainerSpec, FailureAction, Mode, ServiceSpec, StackSpec, UpdateOrder},
    time::Timestamp,
};

use crate::{
    Cluster,
    cluster::{Revision, Stack},
    command::{Batch, Command, Outcome},
    plan,
};

/// The revisions of a stack that are kept, the newest first.
pub fn revisions(stack: &Stack) -> Vec<RevisionView> {
    let none = StackSpec::default();
    let earlier = std::iter::once(&none).chain(stack.history.iter().map(|revision| &*revision.spec));
    let view = |(revision, before): (&Arc<Revision>, &StackSpec)| RevisionView {
        revision: revision.revision,
        at: revision.at,
        by: revision.by.clone(),
        what: revision.what.clone(),
        changes: told(changes(before, &revision.spec)),
        spec: (*revision.spec).clone(),
    };
    let mut views: Vec<RevisionView> = stack.history.iter().zip(earlier).map(view).collect();
    views.reverse();
    views
}

/// One line for each service that changes.
fn told(changes: Vec<ServiceChange>) -> Vec<String> {
    let line = |change: ServiceChange| match change.kind {
        ChangeKind::Create => format!("{} added", change.service),
        ChangeKind::Remove => format!("{} removed", change.service),
        _ => format!("{}: {}", change.service, change.details.join(", ")),
    };
    changes.into_iter().filter(|change| change.kind != ChangeKind::Unchanged).map(line).collect()
}

/// What a spec would change, found by trying it on a copy of the state.
pub fn stack_plan(cluster: &Cluster, id: &StackId, command: &Command, now: Timestamp) -> Result<StackPlan, Problem> {
    let mut after = cluster.clone();
    let outcomes = after.apply(&Batch { at: now, proposals: vec![command.clone().into()] });
    if let Some(Outcome::Rejected(problem)) = outcomes.into_iter().next() {
        return Err(problem);
    }
    let revision = |cluster: &Cluster| cluster.stacks.get(id).map_or(0, |stack| stack.revision);
    let spec = |cluster: &Cluster| {
        cluster.stacks.get(id).filter(|stack| !stack.removing).map(|stack| stack.spec.clone()).unwrap_or_default()
    };
    let blocked = plan::plan(&after, now).blocked;
    let waits = |reason: &&String| !reason.starts_with("it waits for ");
    Ok(StackPlan {
        id: id.clone(),
        from_revision: revision(cluster),
        to_revision: revision(&after),
        changes: changes(&spec(cluster), &spec(&after)),
        unplaceable: blocked
            .iter()
            .filter(|(service, _)| service.stack == *id)
            .flat_map(|(service, reasons)| {
                reasons.iter().filter(waits).map(move |reason| format!("{}: {reason}", service.service))
            })
            .collect(),
    })
}

fn changes(before: &StackSpec, after: &StackSpec) -> Vec<ServiceChange> {
    let names: BTreeSet<&Name> = before.services.keys().chain(after.services.keys()).collect();
    names.into_iter().map(|name| change(name, before.services.get(name), after.services.get(name))).collect()
}

fn change(name: &Name, before: Option<&ServiceSpec>, after: Option<&ServiceSpec>) -> ServiceChange {
    let (kind, details, how) = match (before, after) {
        (None, Some(after)) => (ChangeKind::Create, vec![after.container.image.clone()], count(after.replicas)),
        (Some(before), None) => {
            (ChangeKind::Remove, Vec::new(), format!("{} removed, volumes kept", count(before.replicas)))
        }
        (Some(before), Some(after)) if before == after => (ChangeKind::Unchanged, Vec::new(), String::new()),
        (Some(before), Some(after)) => {
            let kind = if before.same_instances(after) { ChangeKind::Scale } else { ChangeKind::Update };
            let how = if kind == ChangeKind::Scale {
                "running instances stay".to_owned()
            } else {
                replacement(before, after)
            };
            (kind, differences(before, after), how)
        }
        (None, None) => (ChangeKind::Unchanged, Vec::new(), String::new()),
    };
    ServiceChange { service: name.clone(), kind, details, how }
}

/// How instances are replaced, in plain words.
fn replacement(before: &ServiceSpec, after: &ServiceSpec) -> String {
    let instances = match after.mode {
        Mode::Replicated | Mode::Job => count(after.replicas),
        Mode::Global => "each host's instance".to_owned(),
    };
    let at_a_time = match after.update.parallelism {
        0 => "all at once".to_owned(),
        1 => "one at a time".to_owned(),
        some => format!("{some} at a time"),
    };
    let order = match (after.update.order, after.stops_first().or(before.stops_first())) {
        (_, Some(reason)) => format!("stop-first: {reason}"),
        (Some(UpdateOrder::StopFirst), None) => "stop-first".to_owned(),
        (Some(UpdateOrder::StartFirst), None) => "start-first".to_owned(),
        (None, None) => "start-first where there is room".to_owned(),
    };
    let otherwise = match after.update.on_failure {
        FailureAction::Rollback => "back to the old one if it fails",
        FailureAction::Pause => "paused if it fails",
        FailureAction::Continue => "whatever fails",
    };
    let first = after.update.canary.as_ref().map_or_else(String::new, |canary| {
        let until = match canary.promote_after {
            Some(after) => format!("until they have served for {after}"),
            None => "until you promote them".to_owned(),
        };
        format!("{} first {until}; ", count(canary.instances))
    });
    format!("{first}{instances}, {at_a_time}, {order}, {otherwise}")
}

fn count(replicas: u32) -> String {
    format!("{replicas} {}", if replicas == 1 { "instance" } else { "instances" })
}

/// One phrase for each config or secret that differs. What is in them is not shown.
fn files(before: &ContainerSpec, after: &ContainerSpec) -> Vec<String> {
    let by_target = |spec: &ContainerSpec| -> BTreeMap<String, FileSpec> {
        spec.files.iter().map(|file| (file.target.clone(), file.clone())).collect()
    };
    let (before, after) = (by_target(before), by_target(after));
    let targets: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let phrase = |target: &String| match (before.get(target), after.get(target)) {
        (Some(before), Some(after)) if before == after => None,
        (Some(before), Some(after)) if (before.kind, &before.name) == (after.kind, &after.name) => {
            let version = |file: &FileSpec| file.version.map_or("?".to_owned(), |version| version.to_string());
            Some(if before.version == after.version {
                format!("{} {} changed", after.kind, after.name)
            } else {
                format!("{} {} version {} → {}", after.kind, after.name, version(before), version(after))
            })
        }
        (Some(before), Some(after)) => Some(format!("{} {} → {} {}", before.kind, before.name, after.kind, after.name)),
        (Some(before), None) => Some(format!("{} {} removed", before.kind, before.name)),
        (None, Some(after)) => Some(format!("{} {} added", after.kind, after.name)),
        (None, None) => None,
    };
    targets.into_iter().filter_map(phrase).collect()
}

/// One phrase for each field that differs.
fn differences(before: &ServiceSpec, after: &ServiceSpec) -> Vec<String> {
    let mut found = Vec::new();
    if before.replicas != after.replicas {
        found.push(format!("replicas {} → {}", before.replicas, after.replicas));
    }
    let (old, new) = (by_part(before), by_part(after));
    let parts: BTreeSet<&Part> = old.keys().chain(new.keys()).collect();
    for part in parts {
        let of_part = |phrase: String| match part {
            Part::Main => phrase,
            part => format!("{}: {phrase}", part.told()),
        };
        match (old.get(part), new.get(part)) {
            (Some(old), Some(new)) => found.extend(container_differences(old, new).into_iter().map(of_part)),
            (None, _) => found.push(of_part("added".to_owned())),
            (_, None) => found.push(of_part("removed".to_owned())),
        }
    }
    let waits = |spec: &ServiceSpec| -> Vec<_> { spec.sidekicks.values().map(|s| s.depends_on.clone()).collect() };
    let fields: [(&str, bool); 14] = [
        ("ports", before.ports != after.ports),
        ("exposed ports", before.expose != after.expose),
        ("constraints", before.constraints != after.constraints),
        ("preferences", before.prefer != after.prefer),
        ("priority", before.priority != after.priority),
        ("mode", before.mode != after.mode),
        ("schedule", before.cron != after.cron),
        ("spread", before.spread != after.spread),
        ("most on one host", before.max_per_host != after.max_per_host),
        ("strict singleton", before.strict_singleton != after.strict_singleton),
        ("update policy", before.update != after.update),
        ("endpoint mode", before.endpoint_mode != after.endpoint_mode),
        ("joined environments", before.joins != after.joins),
        ("dependencies", before.depends_on != after.depends_on || waits(before) != waits(after)),
    ];
    found.extend(changed(&fields));
    found
}

fn by_part(spec: &ServiceSpec) -> BTreeMap<Part, &ContainerSpec> {
    spec.containers().collect()
}

/// The same for one container. Values of environment variables are not shown: people keep passwords there.
fn container_differences(before: &ContainerSpec, after: &ContainerSpec) -> Vec<String> {
    let mut found = Vec::new();
    if before.image != after.image {
        found.push(format!("image {} → {}", before.image, after.image));
    }
    let keys: BTreeSet<&String> = before.environment.keys().chain(after.environment.keys()).collect();
    for key in keys.into_iter().filter(|key| before.environment.get(*key) != after.environment.get(*key)) {
        found.push(match (before.environment.get(key), after.environment.get(key)) {
            (None, _) => format!("env {key} added"),
            (_, None) => format!("env {key} removed"),
            _ => format!("env {key} changed"),
        });
    }
    found.extend(files(before, after));
    let fields: [(&str, bool); 13] = [
        ("pull policy", before.pull != after.pull),
        ("command", before.command != after.command),
        ("entrypoint", before.entrypoint != after.entrypoint),
        ("user", before.user != after.user),
        ("working directory", before.working_dir != after.working_dir),
        ("labels", before.labels != after.labels),
        ("mounts", before.mounts != after.mounts),
        ("health check", before.healthcheck != after.healthcheck),
        ("restart policy", before.restart != after.restart),
        ("stop grace period", before.stop_grace != after.stop_grace),
        ("resources", (before.reservations, before.limits) != (after.reservations, after.limits)),
        ("devices", before.devices != after.devices),
        ("log options", before.log != after.log),
    ];
    found.extend(changed(&fields));
    found
}

fn changed(fields: &[(&str, bool)]) -> impl Iterator<Item = String> {
    fields.iter().filter(|(_, differs)| *differs).map(|(field, _)| format!("{field} changed"))
}
