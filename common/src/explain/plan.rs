//! Describes the effect of a deployment, line by line.

use std::net::IpAddr;

use super::{count, list};
use crate::{
    api::{
        Aspect, Change, ChangeKind, Difference, Downtime, PortPlan, Replacement, ServiceChange, ServicePlan, StackPlan,
        VolumePlan,
    },
    part::Part,
    spec::{FailureAction, Mode, Privilege, UpdateOrder},
};

/// The lines of a plan: one for each service, and one for each thing that it opens, keeps or stops.
pub fn plan_lines(plan: &StackPlan) -> Vec<String> {
    let width = plan.services.iter().map(|service| service.change.service.as_str().len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for service in &plan.services {
        let mut of_service = service_lines(service).into_iter();
        let first = of_service.next().unwrap_or_default();
        lines.push(format!("  {} {:width$}  {first}", sign(service.change.kind), service.change.service));
        lines.extend(of_service.map(|line| format!("    {:width$}  {line}", "")));
    }
    lines.extend(plan.volumes.iter().map(|volume| format!("  {}", volume_line(volume))));
    lines.extend(warnings(plan).into_iter().map(|warning| format!("  ! {warning}")));
    if plan.from_revision == plan.to_revision {
        lines.push("Nothing would change.".to_owned());
    }
    lines
}

/// The changes of a revision, one line per service.
pub fn change_lines(changes: &[ServiceChange]) -> Vec<String> {
    let line = |change: &ServiceChange| match change.kind {
        ChangeKind::Create => Some(format!("{} added", change.service)),
        ChangeKind::Remove => Some(format!("{} removed", change.service)),
        ChangeKind::Unchanged => None,
        ChangeKind::Update | ChangeKind::Scale => {
            Some(format!("{}: {}", change.service, phrases(change.differences.iter()).join(", ")))
        }
    };
    changes.iter().filter_map(line).collect()
}

fn sign(kind: ChangeKind) -> char {
    match kind {
        ChangeKind::Create => '+',
        ChangeKind::Update | ChangeKind::Scale => '~',
        ChangeKind::Remove => '-',
        ChangeKind::Unchanged => '=',
    }
}

fn service_lines(service: &ServicePlan) -> Vec<String> {
    let mut lines = Vec::new();
    match service.change.kind {
        ChangeKind::Create => {
            let of = |aspect| service.change.differences.iter().filter(move |d| d.aspect == aspect);
            let image = of(Aspect::Image).find(|d| d.part == Part::Main).and_then(|d| d.after.clone());
            lines.push(image.unwrap_or_default());
            lines.push(instances(service));
            lines.extend(shape(&service.change.differences));
        }
        ChangeKind::Update | ChangeKind::Scale => {
            let shown = service.change.differences.iter().filter(|d| d.aspect != Aspect::Port);
            let phrases = phrases(shown);
            lines.push(if phrases.is_empty() { "ports change".to_owned() } else { phrases.join("; ") });
            lines.push(instances(service));
        }
        ChangeKind::Remove => {
            let instances = count(service.instances_before, "instance");
            lines.push(format!("{instances} {}", if service.instances_before == 1 { "stops" } else { "stop" }));
        }
        ChangeKind::Unchanged => lines.push(format!("unchanged: {}", instances(service))),
    }
    if let Some(replacement) = &service.replacement {
        lines.extend(replacement_lines(replacement));
    }
    if service.change.kind != ChangeKind::Unchanged {
        lines.extend(service.ports.iter().map(|port| port_line(service, port)));
    }
    if service.change.kind == ChangeKind::Create || touches_mounts(service) {
        lines.extend(service.privileges.iter().filter_map(privilege));
    }
    lines
}

fn touches_mounts(service: &ServicePlan) -> bool {
    service.change.differences.iter().any(|d| matches!(d.aspect, Aspect::Mount | Aspect::Option | Aspect::Container))
}

/// The number of instances, and their hosts.
fn instances(service: &ServicePlan) -> String {
    let (before, after) = (service.instances_before, service.instances);
    let number = match service.change.kind {
        ChangeKind::Update | ChangeKind::Scale if before != after => format!("{before} → {}", count(after, "instance")),
        _ => count(after, "instance"),
    };
    let hosts = list(&service.hosts);
    match (service.mode, &service.schedule) {
        (_, Some(schedule)) => format!("{number}, run on the schedule {schedule:?}"),
        (Mode::Global, _) if after == 0 => "no instance: no host matches its constraints".to_owned(),
        (Mode::Global, _) if after == 1 => format!("{number}: one on each matching host, at present {hosts}"),
        (Mode::Global, _) => format!("{number}: one on each of {hosts}, and on each matching host that joins"),
        (Mode::Job, _) if hosts.is_empty() => format!("{number}, run once to completion"),
        (Mode::Job, _) => format!("{number}, run once to completion, on {hosts}"),
        (Mode::Replicated, _) if hosts.is_empty() => number,
        (Mode::Replicated, _) => format!("{number} on {hosts}"),
    }
}

/// The properties of a new service besides image, number and ports. Properties of the same kind share a line.
fn shape(differences: &[Difference]) -> Vec<String> {
    let known = [Aspect::Mode, Aspect::Replicas, Aspect::Schedule, Aspect::Port, Aspect::Container];
    let is_shown = |d: &&Difference| !known.contains(&d.aspect) && (d.aspect != Aspect::Image || d.part != Part::Main);
    let shown: Vec<&Difference> = differences.iter().filter(is_shown).collect();
    let groups = shown.chunk_by(|a, b| a.part == b.part && a.aspect == b.aspect);
    let mut phrases: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    for group in groups {
        let of_part = match &group[0].part {
            Part::Main => String::new(),
            part => format!("{}: ", part.told()),
        };
        match group[0].aspect {
            Aspect::Mount | Aspect::Config | Aspect::Secret => {
                lines.extend(group.iter().map(|d| format!("{of_part}{}", placed(d))));
            }
            aspect => phrases.push(format!("{of_part}{}", has(aspect, group))),
        }
    }
    if !phrases.is_empty() {
        lines.push(phrases.join("; "));
    }
    lines
}

/// Something in the container: `volume data at /data`, `secret key version 1`.
fn placed(difference: &Difference) -> String {
    let name = difference.name.as_deref().unwrap_or_default();
    let what = difference.after.as_deref().unwrap_or_default();
    match difference.aspect {
        Aspect::Mount => format!("{what} at {name}"),
        aspect => format!("{} {name} {what}", word(aspect)).trim_end().to_owned(),
    }
}

/// The properties of one kind: `env A and B`, `user 1000`, `hostname web; init true`.
fn has(aspect: Aspect, group: &[&Difference]) -> String {
    // Options are named by their keys in compose files.
    if aspect == Aspect::Option {
        let one =
            |d: &&Difference| [d.name.clone(), d.after.clone()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        return group.iter().map(one).collect::<Vec<_>>().join("; ");
    }
    let one = |d: &&Difference| match (&d.name, &d.after) {
        (Some(name), Some(value)) => format!("{name} ({value})"),
        (Some(text), None) | (None, Some(text)) => text.clone(),
        (None, None) => String::new(),
    };
    let what: Vec<String> = group.iter().map(one).collect();
    format!("{} {}", word(aspect), list(&what)).trim_end().to_owned()
}

/// One phrase for each difference: `image web:1 → web:2`, `env A added`.
fn phrases<'a>(differences: impl Iterator<Item = &'a Difference>) -> Vec<String> {
    differences.map(phrase).collect()
}

fn phrase(difference: &Difference) -> String {
    let part = match &difference.part {
        Part::Main => String::new(),
        part if difference.aspect == Aspect::Container => part.told(),
        part => format!("{}: ", part.told()),
    };
    let subject = match (&difference.aspect, &difference.name) {
        (Aspect::Container, _) => String::new(),
        (Aspect::Option, Some(name)) => name.clone(),
        (aspect, Some(name)) => format!("{} {name}", word(*aspect)),
        (aspect, None) => word(*aspect).to_owned(),
    };
    let what = match (difference.change, &difference.before, &difference.after) {
        (Change::Changed, Some(before), Some(after)) => format!("{before} → {after}"),
        (Change::Changed, ..) => "changed".to_owned(),
        (Change::Added, _, Some(value)) => format!("added: {value}"),
        (Change::Added, ..) => "added".to_owned(),
        (Change::Removed, Some(value), _) => format!("removed, was {value}"),
        (Change::Removed, ..) => "removed".to_owned(),
    };
    format!("{part}{subject} {what}").replace("  ", " ").trim().to_owned()
}

/// The word for an aspect in messages.
fn word(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Container => "container",
        Aspect::Image => "image",
        Aspect::Replicas => "replicas",
        Aspect::Mode => "mode",
        Aspect::Schedule => "schedule",
        Aspect::Port => "port",
        Aspect::ExposedPort => "exposed port",
        Aspect::Mount => "mount",
        Aspect::Config => "config",
        Aspect::Secret => "secret",
        Aspect::Variable => "env",
        Aspect::Command => "command",
        Aspect::Entrypoint => "entrypoint",
        Aspect::User => "user",
        Aspect::WorkingDirectory => "working directory",
        Aspect::Label => "label",
        Aspect::HealthCheck => "health check",
        Aspect::RestartPolicy => "restart",
        Aspect::StopGracePeriod => "stop grace period",
        Aspect::ReservedCpu => "cpu reserved",
        Aspect::ReservedMemory => "memory reserved",
        Aspect::CpuLimit => "cpu limit",
        Aspect::MemoryLimit => "memory limit",
        Aspect::Device => "device",
        Aspect::PullPolicy => "pull policy",
        Aspect::Option => "option",
        Aspect::Constraint => "constraint",
        Aspect::Preference => "preference",
        Aspect::Spread => "spread over",
        Aspect::MaxPerHost => "most on one host",
        Aspect::Priority => "priority",
        Aspect::StrictSingleton => "strict singleton",
        Aspect::UpdatePolicy => "update",
        Aspect::EndpointMode => "endpoint mode",
        Aspect::JoinedEnvironment => "joins environment",
        Aspect::Dependency => "waits for",
    }
}

/// How instances are replaced, and what is unavailable meanwhile.
fn replacement_lines(replacement: &Replacement) -> Vec<String> {
    let at_a_time = match replacement.at_a_time {
        0 => "all at once".to_owned(),
        1 => "one at a time".to_owned(),
        some => format!("{some} at a time"),
    };
    let order = match (replacement.order, &replacement.why) {
        (Some(UpdateOrder::StopFirst), Some(why)) => format!("stop-first: {why}"),
        (Some(UpdateOrder::StopFirst), None) => "stop-first".to_owned(),
        (Some(UpdateOrder::StartFirst), _) => "start-first".to_owned(),
        (None, _) => "start-first where a host has room for both".to_owned(),
    };
    let otherwise = match replacement.on_failure {
        FailureAction::Rollback => "rolled back if it fails",
        FailureAction::Pause => "paused if it fails",
        FailureAction::Continue => "continues even if it fails",
    };
    let mut lines = Vec::new();
    if let Some(canary) = &replacement.canary {
        let until = match canary.promote_after {
            Some(after) => {
                format!("until {} served for {after}", if canary.instances == 1 { "it has" } else { "they have" })
            }
            None => "until you promote the rest".to_owned(),
        };
        lines.push(format!("{} first {until}", count(canary.instances, "instance")));
    }
    lines.push(format!("replaced {at_a_time}, {order}; {otherwise}"));
    lines.extend(match replacement.downtime {
        Downtime::None => None,
        Downtime::Some { instances, stop } => Some(format!(
            "meanwhile {} fewer {}: each is down from its stop (at most {stop}) until its replacement serves",
            instances,
            if instances == 1 { "serves" } else { "serve" },
        )),
        Downtime::All { stop } => Some(format!("down from its stop (at most {stop}) until its replacement serves")),
    });
    lines
}

/// A port: whether it opens or closes, on which hosts, and at which address.
fn port_line(service: &ServicePlan, port: &PortPlan) -> String {
    let protocol = port.protocol;
    let (name, leads) = match port.published {
        Some(published) if published == port.container => (format!("{published}/{protocol}"), String::new()),
        Some(published) => (format!("{published}/{protocol}"), format!(" (to {} in the container)", port.container)),
        None => (format!("a free port for {}/{protocol}", port.container), String::new()),
    };
    if port.change == Some(Change::Removed) {
        return format!("closes {name}{leads}");
    }
    let verb = if port.change.is_some() { "opens" } else { "keeps open" };
    let hosts = list(&service.hosts);
    let place = match (service.mode, service.hosts.is_empty()) {
        (_, true) => "the host that runs it".to_owned(),
        (Mode::Global, false) => hosts,
        (_, false) if service.hosts.len() == 1 => format!("the host that runs it, {hosts}"),
        (_, false) => format!("the hosts that run it, {hosts}"),
    };
    let reach = match port.address {
        Some(address) if address.is_loopback() => ", reachable only from the host itself".to_owned(),
        Some(address) => format!(", at its address {}", bracketed(address)),
        None => ", at every address".to_owned(),
    };
    format!("{verb} {name}{leads} on {place}{reach}")
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// A right that what is mounted does not show by itself.
/// A privilege as what a container does by it; none for the paths of its host, which are shown with its mounts.
pub fn privilege(privilege: &Privilege) -> Option<String> {
    Some(match privilege {
        Privilege::WritesHost { .. } | Privilege::ReadsHost { .. } => return None,
        Privilege::Docker { path } => format!("can control its host's Docker ({path}), which amounts to root access"),
        Privilege::Privileged => "is privileged, which amounts to root access on its host".to_owned(),
        Privilege::Capability(name) if name == "ALL" => "has all capabilities".to_owned(),
        Privilege::Capability(name) => format!("has the capability {name}"),
        Privilege::Filter(name) => format!("weakens its isolation from the host: {name}"),
        Privilege::Device(device) => format!("uses {device} of its host"),
        Privilege::HostNetwork => "is on its host's network: every port that it listens on is open there".to_owned(),
        Privilege::HostGateway => "can reach programs on its host".to_owned(),
        Privilege::HostProcesses => "sees all processes of its host".to_owned(),
        Privilege::HostIpc => "shares its host's memory segments".to_owned(),
        Privilege::HostName => "may change its host's name".to_owned(),
        Privilege::HostUsers => "uses its host's user ids".to_owned(),
        Privilege::ControlGroups => "sees its host's control groups or runs in one of them".to_owned(),
        Privilege::Runtime(name) => format!("runs under the runtime {name}"),
    })
}

fn volume_line(volume: &VolumePlan) -> String {
    let users = list(&volume.services);
    let hosts = if volume.hosts.is_empty() { "the host that runs it".to_owned() } else { list(&volume.hosts) };
    match volume.change {
        Some(Change::Removed) => {
            format!(
                "volume {} of {users} is no longer used; its data stays on {hosts} (Docker volume {})",
                volume.volume, volume.docker
            )
        }
        _ if volume.external => {
            let what = if volume.shared { String::new() } else { format!(", which ties {users} to it") };
            format!(
                "volume {} of {users} must be on {hosts} already (Docker volume {}){what}",
                volume.volume, volume.docker
            )
        }
        None if volume.shared => format!("volume {} of {users} is kept; all hosts see the same data", volume.volume),
        Some(_) if volume.shared => {
            format!("volume {} of {users} is created where it is missing; all hosts see the same data", volume.volume)
        }
        None => format!("volume {} of {users} is kept on {hosts}, which ties {users} to it", volume.volume),
        Some(_) => format!(
            "volume {} of {users} is created on {hosts} if it is missing, and ties {users} to it",
            volume.volume
        ),
    }
}

/// Warnings about a plan: what deserves a second look.
fn warnings(plan: &StackPlan) -> Vec<String> {
    let mut found = Vec::new();
    for service in plan.services.iter().filter(|service| service.change.kind != ChangeKind::Unchanged) {
        let public = service.ports.iter().filter(|port| port.public && port.change == Some(Change::Added));
        let public: Vec<String> =
            public.map(|p| format!("{}/{}", p.published.unwrap_or(p.container), p.protocol)).collect();
        if !public.is_empty() {
            found.push(format!(
                "{}: the internet can reach {} unless a firewall blocks it",
                service.change.service,
                list(&public)
            ));
        }
    }
    for volume in plan.volumes.iter().filter(|v| v.hosts.len() > 1 && !v.shared && v.change != Some(Change::Removed)) {
        found.push(format!("volume {}: each host has its own data, which other hosts do not see", volume.volume));
    }
    found.extend(plan.unplaceable.iter().map(|unplaceable| format!("{}: {}", unplaceable.service, unplaceable.reason)));
    found
}
