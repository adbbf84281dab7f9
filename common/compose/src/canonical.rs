//! The document as `docker compose config` prints it, with all defaults and names that compose adds.

use crate::{
    convert::{self, Context},
    field::Field,
    node::{Form, Map, Node, Scalar, Value},
    place::{Findings, Place},
};

/// Keys of a service that compose prints as booleans, however they were written.
const BOOLEANS: [&str; 6] = ["init", "oom_kill_disable", "privileged", "read_only", "stdin_open", "tty"];
/// Keys of a service that compose prints as text even if they look like numbers: amounts of memory in bytes.
const AMOUNTS: [&str; 4] = ["mem_limit", "mem_reservation", "memswap_limit", "shm_size"];
/// Keys of a service that compose prints as durations, in Go's spelling.
const HEALTH: [&str; 4] = ["interval", "start_interval", "start_period", "timeout"];

pub(crate) fn canonical(root: &Node, name: &str, context: &Context<'_>, findings: &Findings) -> Node {
    let mut root = root.clone();
    let place = root.place.clone();
    let Some(map) = root.as_map_mut() else { return root };
    map.remove("version");
    map.set("name", Node::text(name, place.clone()));
    let mut on_default = false;
    if let Some(services) = map.get_mut("services").and_then(Node::as_map_mut) {
        for entry in &mut services.entries {
            let path = Field::root(&entry.node, findings);
            let environment = convert::environment(&path, context);
            on_default |= service(&mut entry.node, environment);
        }
    }
    if on_default {
        add_default_network(map, &place);
    }
    for section in ["networks", "volumes", "configs", "secrets"] {
        named(map, section, name);
    }
    sorted(&mut root);
    escaped(&mut root);
    root
}

/// Doubles each `$`, so that the output can be read again with the same meaning.
fn escaped(node: &mut Node) {
    match &mut node.value {
        Value::Scalar(scalar) => scalar.text = scalar.text.replace('$', "$$"),
        Value::List(items) => items.iter_mut().for_each(escaped),
        Value::Map(map) => map.entries.iter_mut().for_each(|entry| escaped(&mut entry.node)),
    }
}

/// Adds compose's defaults to a service; returns whether it uses the network that need not be declared.
fn service(node: &mut Node, environment: std::collections::BTreeMap<String, String>) -> bool {
    let place = node.place.clone();
    let Some(map) = node.as_map_mut() else { return false };
    map.remove("env_file");
    set_environment(map, environment, &place);
    for key in ["command", "entrypoint"] {
        if map.get(key).is_none() {
            map.set(key, Node::null(place.clone()));
        }
    }
    cast(map);
    for check in map.get_mut("healthcheck").and_then(Node::as_map_mut).into_iter() {
        HEALTH.iter().for_each(|key| recast(check, key, duration));
    }
    recast(map, "stop_grace_period", duration);
    for port in map.get_mut("ports").and_then(Node::as_list_mut).into_iter().flatten().filter_map(Node::as_map_mut) {
        for (key, usual) in [("mode", "ingress"), ("protocol", "tcp")] {
            if port.get(key).is_none() {
                port.set(key, Node::text(usual, place.clone()));
            }
        }
        recast(port, "published", |text| Some((text.to_owned(), Form::Text)));
    }
    let has_network = map.get("network_mode").is_some() || map.get("networks").is_some_and(|node| !node.is_null());
    if !has_network {
        let default = Map { entries: Vec::new() };
        let mut networks = Node::new(Value::Map(default), place.clone());
        if let Some(map) = networks.as_map_mut() {
            map.set("default", Node::null(place));
        }
        map.set("networks", networks);
    }
    map.get("networks").is_some_and(|networks| networks.get("default").is_some())
}

/// Gives a service the variables of its env files and its own; those that have no value stay without.
fn set_environment(map: &mut Map, environment: std::collections::BTreeMap<String, String>, place: &Place) {
    let own = map.remove("environment");
    let mut variables = Map::default();
    for (key, value) in &environment {
        variables.set(key, Node::text(value, place.clone()));
    }
    let entries = own.iter().filter_map(Node::as_map).flat_map(|own| &own.entries);
    for bare in entries.filter(|entry| entry.node.is_null()) {
        variables.set(&bare.key, Node::null(place.clone()));
    }
    if !variables.entries.is_empty() {
        map.set("environment", Node::new(Value::Map(variables), place.clone()));
    }
}

/// Gives values the type that compose prints them with.
fn cast(service: &mut Map) {
    for key in BOOLEANS {
        recast(service, key, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" => Some(("true".to_owned(), Form::Bool)),
            "false" | "no" | "n" | "off" => Some(("false".to_owned(), Form::Bool)),
            _ => None,
        });
    }
    for key in AMOUNTS {
        recast(service, key, |text| {
            let bytes = text.parse::<common::quantity::Bytes>().ok()?;
            Some((bytes.0.to_string(), Form::Text))
        });
    }
    for item in service.get_mut("expose").and_then(Node::as_list_mut).into_iter().flatten() {
        if let Value::Scalar(Scalar { form, .. }) = &mut item.value {
            *form = Form::Text;
        }
    }
}

fn recast(map: &mut Map, key: &str, to: impl Fn(&str) -> Option<(String, Form)>) {
    if let Some(node) = map.get_mut(key)
        && let Some((text, form)) = node.as_text().and_then(to)
    {
        node.value = Value::Scalar(Scalar { text, form });
    }
}

/// A duration in Go's format: `90s` becomes `1m30s`.
fn duration(text: &str) -> Option<(String, Form)> {
    let millis = text.parse::<common::time::Span>().ok()?.0;
    let (hours, minutes, seconds) = (millis / 3_600_000, millis / 60_000 % 60, (millis % 60_000) as f64 / 1000.0);
    let spelled = match (hours, minutes) {
        (0, 0) if millis > 0 && millis < 1000 => format!("{millis}ms"),
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    };
    Some((spelled, Form::Text))
}

fn add_default_network(map: &mut Map, place: &Place) {
    if map.get("networks").is_none_or(Node::is_null) {
        map.set("networks", Node::new(Value::Map(Map::default()), place.clone()));
    }
    if let Some(networks) = map.get_mut("networks").and_then(Node::as_map_mut)
        && networks.get("default").is_none()
    {
        networks.set("default", Node::null(place.clone()));
    }
}

/// Adds compose's default names to the declarations in a section.
fn named(map: &mut Map, section: &str, project: &str) {
    let Some(declared) = map.get_mut(section).and_then(Node::as_map_mut) else { return };
    for entry in &mut declared.entries {
        if entry.node.is_null() {
            entry.node = Node::new(Value::Map(Map::default()), entry.node.place.clone());
        }
        let place = entry.node.place.clone();
        let is_external = entry.node.get("external").and_then(Node::as_text) == Some("true");
        let Some(map) = entry.node.as_map_mut() else { continue };
        if map.get("name").is_none() {
            let name = if is_external { entry.key.clone() } else { format!("{project}_{}", entry.key) };
            map.set("name", Node::text(name, place));
        }
    }
}

/// Sorts the keys of every mapping as compose does, with the name first.
fn sorted(node: &mut Node) {
    match &mut node.value {
        Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(sorted),
        Value::Map(map) => {
            map.entries.sort_by(|a, b| a.key.cmp(&b.key));
            map.entries.iter_mut().for_each(|entry| sorted(&mut entry.node));
        }
    }
}
