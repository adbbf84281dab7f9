//! What a service says of its container.

use std::collections::BTreeMap;

use super::{Project, convert::name_of, deploy, devices, files, node::Node, parse_env, short};
use crate::spec::{ContainerSpec, HealthCheck, MountSource, MountSpec, PullPolicy};

/// Reads it.
pub(super) fn container<R>(node: &Node<'_>, project: &Project<'_, R>, files: &files::Files) -> Option<ContainerSpec>
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
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
    let mut spec = ContainerSpec::of_image(&image.text()?);
    spec.pull = node.get("pull_policy").and_then(|n| pull_policy(&n)).unwrap_or_default();
    spec.command = node.get("command").and_then(|n| command(&n));
    spec.entrypoint = node.get("entrypoint").and_then(|n| command(&n));
    spec.user = node.get("user").and_then(|n| n.text());
    spec.working_dir = node.get("working_dir").and_then(|n| n.text());
    spec.environment = environment(node, project);
    spec.labels = node.get("labels").map(|n| pairs(&n, &BTreeMap::new())).unwrap_or_default();
    spec.mounts = node
        .get("volumes")
        .map(|n| n.items().iter().filter_map(|n| mount(n, project.directory)).collect())
        .unwrap_or_default();
    spec.files = files::of_service(node, files);
    spec.healthcheck = node.get("healthcheck").and_then(|n| health(&n));
    if let Some(grace) = node.get("stop_grace_period").and_then(|n| n.parse()) {
        spec.stop_grace = grace;
    }
    logging(node, &mut spec);
    deploy::restart(node, &mut spec.restart);
    deploy::resources(node, &mut spec);
    spec.devices = devices::devices(node);
    Some(spec)
}

/// Reads `pre_start`: each step is the main container but for what it says.
pub(super) fn steps<R>(node: &Node<'_>, project: &Project<'_, R>, main: &ContainerSpec) -> Vec<ContainerSpec>
where
    R: Fn(&str) -> Result<Vec<u8>, String>,
{
    let step = |node: Node<'_>| {
        node.warn_unknown(&["image", "command", "user", "working_dir", "environment", "per_replica"]);
        if node.get("per_replica").and_then(|n| n.boolean()) != Some(true) {
            node.problem(
                "a step once for all instances is not supported: make it a service with deploy.mode replicated-job and \
                 let this one depend on it (service_completed_successfully), or say per_replica: true",
            );
        }
        let (healthcheck, devices) = (Some(HealthCheck::none()), BTreeMap::new());
        let mut step = ContainerSpec { healthcheck, devices, ..main.clone() };
        if let Some(image) = node.get("image").and_then(|n| n.text()) {
            (step.image, step.entrypoint) = (image, None);
        }
        step.command = node.get("command").and_then(|n| command(&n));
        if let Some(user) = node.get("user") {
            step.user = user.text();
        }
        if let Some(directory) = node.get("working_dir") {
            step.working_dir = directory.text();
        }
        step.environment.extend(environment(&node, project));
        step
    };
    node.items().into_iter().map(step).collect()
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
        Some("volume") if !is_path => MountSource::Volume(name_of(&source, node)?.into()),
        None if !is_path => MountSource::Volume(name_of(&source, node)?.into()),
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
    Some(MountSpec { read_only, ..MountSpec::of(source, &target) })
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
    if node.get("disable").and_then(|n| n.boolean()).unwrap_or(false) {
        return Some(HealthCheck::none());
    }
    let Some(test) = node.get("test") else {
        node.problem("test is missing");
        return None;
    };
    let test = if test.is_list() { test.texts() } else { vec!["CMD-SHELL".to_owned(), test.text()?] };
    let mut check = HealthCheck::of(test);
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

fn logging(node: &Node<'_>, spec: &mut ContainerSpec) {
    let Some(logging) = node.get("logging") else { return };
    logging.warn_unknown(&["driver", "options"]);
    spec.log.driver = logging.get("driver").and_then(|n| n.text());
    spec.log.options = logging.get("options").map(|n| pairs(&n, &BTreeMap::new())).unwrap_or_default();
}
