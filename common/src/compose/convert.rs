//! The merged file becomes a spec; every value is read with its place at hand.

use std::collections::BTreeMap;

use serde_norway::Value;

use super::{
    Composed, Project,
    container::{container, steps},
    deploy, files, networks,
    node::{Findings, Node},
    short,
    unit::{self, Grouped, Leaders},
};
use crate::{
    name::Name,
    spec::{Condition, ContainerSpec, ExposedPort, PortSpec, Protocol, ServiceSpec, StackSpec, VolumeSpec},
};

const TOP: [&str; 7] = ["name", "version", "services", "volumes", "networks", "configs", "secrets"];
const SERVICE: [&str; 29] = [
    "image",
    "build",
    "command",
    "entrypoint",
    "environment",
    "env_file",
    "labels",
    "ports",
    "volumes",
    "healthcheck",
    "restart",
    "stop_grace_period",
    "deploy",
    "depends_on",
    "user",
    "working_dir",
    "pull_policy",
    "scale",
    "logging",
    "mem_limit",
    "cpus",
    "mem_reservation",
    "gpus",
    "expose",
    "configs",
    "secrets",
    "network_mode",
    "networks",
    "pre_start",
];

/// What a file declares for its services to use.
struct Declared {
    files: files::Files,
    networks: networks::Networks,
}

pub(super) fn convert<R>(file: &Value, project: &Project<'_, R>) -> Result<Composed, Vec<String>>
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
    let findings = Findings::default();
    let root = Node::root(file, &findings);
    root.warn_unknown(&TOP);
    let networks = networks::declared(&root);
    let mut spec = StackSpec::default();
    for (key, node) in root.get("volumes").map(|volumes| volumes.entries()).unwrap_or_default() {
        spec.volumes.extend(name_of(&key, &node).map(|name| (name.into(), VolumeSpec::default())));
        if node.is_mapping() {
            node.warn_unknown(&[]);
        }
    }
    let mut contents = Vec::new();
    let files = files::declared(&root, project, &mut contents);
    match root.get("services") {
        Some(node) => spec.services = services(&node, project, &Declared { files, networks }),
        None => {
            findings.problems.borrow_mut().push("services: it is missing; a stack needs at least one service".into())
        }
    }
    let name = root.get("name").and_then(|node| node.parse());
    let problems = findings.problems.into_inner();
    if problems.is_empty() {
        Ok(Composed { name, spec, files: contents, warnings: findings.warnings.into_inner() })
    } else {
        Err(problems)
    }
}

pub(super) fn name_of(key: &str, node: &Node<'_>) -> Option<Name> {
    // Docker Compose allows '_' and '.'; a DNS label does not.
    Name::parse(key)
        .map_err(|e| {
            node.problem(format!("{e}; rename it, for example to {:?}", key.to_lowercase().replace(['_', '.'], "-")))
        })
        .ok()
}

fn services<R>(node: &Node<'_>, project: &Project<'_, R>, declared: &Declared) -> BTreeMap<Name, ServiceSpec>
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
    let named: Vec<(Name, Node<'_>)> = node
        .entries()
        .into_iter()
        .filter_map(|(key, node)| {
            let name = name_of(&key, &node)?;
            if !node.is_mapping() {
                node.problem("a service must be a mapping");
                return None;
            }
            node.warn_unknown(&SERVICE);
            Some((name, node))
        })
        .collect();
    let mut leaders = Leaders::new();
    for (name, node) in &named {
        let leader = unit::leader(node).and_then(|leader| name_of(&leader, node));
        leaders.extend(leader.map(|leader| (name.clone(), leader)));
    }
    let (mut services, mut grouped) = (BTreeMap::new(), BTreeMap::new());
    for (name, node) in &named {
        let Some(container) = container(node, project, &declared.files) else { continue };
        match unit::root(&leaders, name) {
            Ok(root) if root == name => {
                let joins = networks::joined(node, &declared.networks);
                services.insert(name.clone(), ServiceSpec { joins, ..service(node, project, container) });
            }
            Ok(root) if named.iter().any(|(name, _)| name == root) => {
                unit::check_sidekick(node, root);
                let sidekick = Grouped { container, depends_on: dependencies_of(node) };
                grouped.insert(name.clone(), (root.clone(), sidekick));
            }
            Ok(root) => node.problem(format!("it is to be a sidekick of {root}, and there is no service {root} here")),
            Err(at) => node.problem(format!("it is a sidekick of itself, through {at}")),
        }
    }
    unit::join(&mut services, grouped);
    services
}

fn service<R>(node: &Node<'_>, project: &Project<'_, R>, container: ContainerSpec) -> ServiceSpec
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
    let mut spec = ServiceSpec::of_image(&container.image);
    spec.pre_start = node.get("pre_start").map(|n| steps(&n, project, &container)).unwrap_or_default();
    spec.container = container;
    spec.ports = node.get("ports").map(|n| n.items().iter().flat_map(ports).collect()).unwrap_or_default();
    spec.expose = node.get("expose").map(|n| n.items().iter().flat_map(exposed).collect()).unwrap_or_default();
    spec.strict_singleton = node.get("x-strict-singleton").and_then(|n| n.boolean()).unwrap_or(false);
    deploy::read(node, &mut spec);
    spec.depends_on = dependencies_of(node);
    spec
}

fn dependencies_of(node: &Node<'_>) -> BTreeMap<Name, Condition> {
    node.get("depends_on").map(|n| dependencies(&n)).unwrap_or_default()
}

fn ports(node: &Node<'_>) -> Vec<PortSpec> {
    if !node.is_mapping() {
        let Some(text) = node.text() else { return Vec::new() };
        return short::ports(&text).map_err(|e| node.problem(e)).unwrap_or_default();
    }
    node.warn_unknown(&["target", "published", "protocol", "host_ip", "mode", "name", "app_protocol"]);
    let Some(target) = node.get("target").and_then(|n| n.number::<u16>()) else {
        node.problem("target is missing");
        return Vec::new();
    };
    let protocol = match node.get("protocol").and_then(|n| n.text()).as_deref() {
        None | Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        Some(other) => {
            node.problem(format!("{other:?} is not a protocol; there are tcp and udp"));
            return Vec::new();
        }
    };
    let published = node.get("published").and_then(|n| n.number());
    let host_ip = node.get("host_ip").and_then(|n| n.parse());
    vec![PortSpec { container: target, published, protocol, host_ip }]
}

fn exposed(node: &Node<'_>) -> Vec<ExposedPort> {
    let Some(text) = node.text() else { return Vec::new() };
    short::exposed(&text).map_err(|e| node.problem(e)).unwrap_or_default()
}

fn dependencies(node: &Node<'_>) -> BTreeMap<Name, Condition> {
    let mut found = BTreeMap::new();
    for (key, node) in node.entries() {
        let Some(name) = name_of(&key, &node) else { continue };
        node.warn_unknown(&["condition", "restart", "required"]);
        let condition = match node.get("condition").and_then(|n| n.text()).as_deref() {
            None | Some("service_started") => Condition::Started,
            Some("service_healthy") => Condition::Healthy,
            Some("service_completed_successfully") => Condition::Completed,
            Some(other) => {
                node.problem(format!("{other:?} is not a condition; there are service_started, service_healthy and service_completed_successfully"));
                continue;
            }
        };
        found.insert(name, condition);
    }
    found
}
