//! The merged file becomes a spec; every value is read with its place at hand.

use std::collections::BTreeMap;

use serde_norway::Value;

use super::{
    Composed, Project, deploy, files,
    node::{Findings, Node},
    parse_env, short,
};
use crate::{
    name::Name,
    spec::{Condition, HealthCheck, MountSource, MountSpec, PortSpec, Protocol, PullPolicy, ServiceSpec, StackSpec},
};

const TOP: [&str; 7] = ["name", "version", "services", "volumes", "networks", "configs", "secrets"];
const SERVICE: [&str; 25] = [
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
    "expose",
    "configs",
    "secrets",
];

pub(super) fn convert<R>(file: &Value, project: &Project<'_, R>) -> Result<Composed, Vec<String>>
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
    let findings = Findings::default();
    let root = Node::root(file, &findings);
    root.warn_unknown(&TOP);
    if let Some(networks) = root.get("networks") {
        networks.warn("networks are not supported yet: every service of the host shares one");
    }
    let mut spec = StackSpec::default();
    for (key, node) in root.get("volumes").map(|volumes| volumes.entries()).unwrap_or_default() {
        spec.volumes.extend(name_of(&key, &node));
        if node.is_mapping() {
            node.warn_unknown(&[]);
        }
    }
    let mut contents = Vec::new();
    let files = files::declared(&root, project, &mut contents);
    match root.get("services") {
        Some(services) => {
            for (key, node) in services.entries() {
                let (Some(name), Some(service)) = (name_of(&key, &node), service(&node, project, &files)) else {
                    continue;
                };
                spec.services.insert(name, service);
            }
        }
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

fn service<R>(node: &Node<'_>, project: &Project<'_, R>, files: &files::Files) -> Option<ServiceSpec>
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
    if !node.is_mapping() {
        node.problem("a service must be a mapping");
        return None;
    }
    node.warn_unknown(&SERVICE);
    let Some(image) = node.get("image") else {
        node.problem(if node.get("build").is_some() {
            "it has build and no image: images are not built here; build and push one, then name it under image"
        } else {
            "image is missing"
        });
        return None;
    };
    if let Some(build) = node.get("build") {
        build.warn("images are not built here; the image named under image is used");
    }
    let mut spec = ServiceSpec::of_image(&image.text()?);
    spec.pull = node.get("pull_policy").and_then(|n| pull_policy(&n)).unwrap_or_default();
    spec.command = node.get("command").and_then(|n| command(&n));
    spec.entrypoint = node.get("entrypoint").and_then(|n| command(&n));
    spec.user = node.get("user").and_then(|n| n.text());
    spec.working_dir = node.get("working_dir").and_then(|n| n.text());
    spec.environment = environment(node, project);
    spec.labels = node.get("labels").map(|n| pairs(&n, &BTreeMap::new())).unwrap_or_default();
    spec.ports = node.get("ports").map(|n| n.items().iter().flat_map(ports).collect()).unwrap_or_default();
    spec.mounts = node
        .get("volumes")
        .map(|n| n.items().iter().filter_map(|n| mount(n, project.directory)).collect())
        .unwrap_or_default();
    spec.files = files::of_service(node, files);
    spec.healthcheck = node.get("healthcheck").and_then(|n| health(&n));
    if let Some(grace) = node.get("stop_grace_period").and_then(|n| n.parse()) {
        spec.stop_grace = grace;
    }
    spec.strict_singleton = node.get("x-strict-singleton").and_then(|n| n.boolean()).unwrap_or(false);
    deploy::read(node, &mut spec);
    logging(node, &mut spec);
    spec.depends_on = node.get("depends_on").map(|n| dependencies(&n)).unwrap_or_default();
    Some(spec)
}

fn pull_policy(node: &Node<'_>) -> Option<PullPolicy> {
    match node.text()?.as_str() {
        "always" => Some(PullPolicy::Always),
        "missing" | "if_not_present" => Some(PullPolicy::Missing),
        "never" => Some(PullPolicy::Never),
        other => {
            node.problem(format!("{other:?} is not a pull policy; there are always, missing and never"));
            None
        }
    }
}

fn command(node: &Node<'_>) -> Option<Vec<String>> {
    if node.is_list() {
        return Some(node.texts());
    }
    short::words(&node.text()?).map_err(|e| node.problem(e)).ok()
}

fn environment<R>(node: &Node<'_>, project: &Project<'_, R>) -> BTreeMap<String, String>
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
    let mut variables = BTreeMap::new();
    for file in node.get("env_file").map(|n| if n.is_list() { n.items() } else { vec![n] }).unwrap_or_default() {
        let (path, required) = if file.is_mapping() {
            file.warn_unknown(&["path", "required"]);
            (file.get("path").and_then(|n| n.text()), file.get("required").and_then(|n| n.boolean()).unwrap_or(true))
        } else {
            (file.text(), true)
        };
        let Some(path) = path else {
            file.problem("path is missing");
            continue;
        };
        let read = (project.read)(&path).and_then(|bytes| String::from_utf8(bytes).map_err(|e| e.to_string()));
        match read.and_then(|text| parse_env(&text)) {
            Ok(read) => variables.extend(read),
            Err(_) if !required => {}
            Err(reason) => file.problem(format!("{path}: {reason}")),
        }
    }
    if let Some(own) = node.get("environment") {
        variables.extend(pairs(&own, project.variables));
    }
    variables
}

/// A mapping of texts; a key without a value takes it from `inherited`, or is left out.
fn pairs(node: &Node<'_>, inherited: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let value =
        |key: &String, node: &Node<'_>| if node.value.is_null() { inherited.get(key).cloned() } else { node.text() };
    node.entries().into_iter().filter_map(|(key, node)| value(&key, &node).map(|value| (key, value))).collect()
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

fn mount(node: &Node<'_>, directory: &str) -> Option<MountSpec> {
    let (source, target, read_only, kind) = if node.is_mapping() {
        node.warn_unknown(&["type", "source", "target", "read_only"]);
        let kind = node.get("type").and_then(|n| n.text()).unwrap_or_else(|| "volume".into());
        let source = node.get("source").and_then(|n| n.text());
        (
            source,
            node.get("target")?.text()?,
            node.get("read_only").and_then(|n| n.boolean()).unwrap_or(false),
            Some(kind),
        )
    } else {
        let text = node.text()?;
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, mode) = match parts.as_slice() {
            [target] => (None, *target, ""),
            [source, target] => (Some((*source).to_owned()), *target, ""),
            [source, target, mode] => (Some((*source).to_owned()), *target, *mode),
            _ => {
                node.problem(format!(
                    "{text:?} is not a volume, which looks like data:/var/lib/data or ./conf:/etc/conf:ro"
                ));
                return None;
            }
        };
        for option in mode.split(',').filter(|option| !["", "ro", "rw"].contains(option)) {
            node.warn(format!("the option {option:?} is not supported yet and has no effect"));
        }
        (source, target.to_owned(), mode.split(',').any(|option| option == "ro"), None)
    };
    let Some(source) = source else {
        node.problem(
            "an anonymous volume is lost with its container; name it and declare it under the top-level volumes",
        );
        return None;
    };
    let is_path = source.starts_with(['/', '.', '~']);
    let source = match kind.as_deref() {
        Some("volume") if !is_path => MountSource::Volume(name_of(&source, node)?),
        None if !is_path => MountSource::Volume(name_of(&source, node)?),
        Some("bind") | None => MountSource::Bind(absolute(&source, directory).or_else(|| {
            node.problem(format!("{source:?} leads out of the project's directory, or starts with '~', which means another place on each host"));
            None
        })?),
        Some(other) => {
            node.problem(format!("mounts of type {other:?} are not supported; there are bind and volume"));
            return None;
        }
    };
    if source == MountSource::Bind("/var/run/docker.sock".into()) {
        node.warn("whoever can write to Docker's socket is root on the host");
    }
    Some(MountSpec { source, target, read_only })
}

/// An absolute path without `.` and `..`; relative ones start from `directory` and stay below it.
fn absolute(path: &str, directory: &str) -> Option<String> {
    if path.starts_with('/') {
        return Some(path.to_owned());
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            "~" => return None,
            part => parts.push(part),
        }
    }
    Some(format!("{}/{}", directory.trim_end_matches('/'), parts.join("/")).trim_end_matches('/').to_owned())
}

fn health(node: &Node<'_>) -> Option<HealthCheck> {
    node.warn_unknown(&["test", "interval", "timeout", "retries", "start_period", "disable"]);
    let none = vec!["NONE".to_owned()];
    let disabled = node.get("disable").and_then(|n| n.boolean()).unwrap_or(false);
    let test = match node.get("test") {
        _ if disabled => none,
        Some(test) if test.is_list() => test.texts(),
        Some(test) => vec!["CMD-SHELL".to_owned(), test.text()?],
        None => {
            node.problem("test is missing");
            return None;
        }
    };
    let mut check: HealthCheck = HealthCheck {
        test,
        interval: crate::time::Span::seconds(10),
        timeout: crate::time::Span::seconds(5),
        retries: 3,
        start_period: crate::time::Span(0),
    };
    if let Some(interval) = node.get("interval").and_then(|n| n.parse()) {
        check.interval = interval;
    }
    if let Some(timeout) = node.get("timeout").and_then(|n| n.parse()) {
        check.timeout = timeout;
    }
    if let Some(retries) = node.get("retries").and_then(|n| n.number()) {
        check.retries = retries;
    }
    if let Some(start_period) = node.get("start_period").and_then(|n| n.parse()) {
        check.start_period = start_period;
    }
    Some(check)
}

fn logging(node: &Node<'_>, spec: &mut ServiceSpec) {
    let Some(logging) = node.get("logging") else { return };
    logging.warn_unknown(&["driver", "options"]);
    if let Some(driver) = logging.get("driver")
        && driver.text().is_some_and(|text| text != "json-file")
    {
        driver.warn("only json-file is supported yet, and it is used");
    }
    let Some(options) = logging.get("options") else { return };
    options.warn_unknown(&["max-size", "max-file"]);
    if let Some(size) = options.get("max-size").and_then(|n| n.parse()) {
        spec.log.max_size = size;
    }
    if let Some(files) = options.get("max-file").and_then(|n| n.number()) {
        spec.log.max_files = files;
    }
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
