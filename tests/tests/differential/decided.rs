//! The intended differences between wharf and Docker Compose, and the equivalent notations.

use common::{quantity::Bytes, time::Span};
use serde_json::{Map, Value};

/// Refusals of Docker Compose that wharf does not follow, by a part of the message, and why not.
const ACCEPTED: &[(&str, &str)] = &[];

/// Whether wharf may accept what Docker Compose refuses for this reason.
pub fn may_accept(why: &str) -> bool {
    ACCEPTED.iter().any(|(part, _)| why.contains(part))
}

/// Removes equivalent notations and intended differences.
pub fn even_out(theirs: &mut Value, ours: &mut Value, home: &str) {
    for side in [&mut *theirs, &mut *ours] {
        each_service(side, service);
        without_unused(side);
        without_nothing(side);
    }
    // Extensions have no meaning for either, and Docker Compose drops some of them.
    without_extensions(theirs);
    without_extensions(ours);
    as_written(theirs, ours);
    home_of_the_host(theirs, ours, home);
}

/// `~` in a mount is a folder of the host that runs the container, not of the deploying machine: wharf keeps it, and
/// the conversion refuses it.
fn home_of_the_host(theirs: &mut Value, ours: &mut Value, home: &str) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter_mut().for_each(|(key, a)| b.get_mut(key).into_iter().for_each(|b| home_of_the_host(a, b, home)));
        }
        (Value::Array(a), Value::Array(b)) => a.iter_mut().zip(b).for_each(|(a, b)| home_of_the_host(a, b, home)),
        (Value::String(a), Value::String(b)) if b.starts_with("~/") && *a == b.replacen('~', home, 1) => {
            b.clone_from(a)
        }
        _ => {}
    }
}

fn each_service(value: &mut Value, change: fn(&mut Map<String, Value>)) {
    let services = value.get_mut("services").and_then(Value::as_object_mut);
    services.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut).for_each(change);
}

fn service(service: &mut Map<String, Value>) {
    for dependency in objects(service.get_mut("depends_on")) {
        dependency.entry("required").or_insert(true.into());
    }
    if let Some(build) = service.get_mut("build").and_then(Value::as_object_mut) {
        build.entry("dockerfile").or_insert("Dockerfile".into());
    }
    for secret in items(service.get_mut("secrets")) {
        let target =
            secret.get("target").or(secret.get("source")).and_then(Value::as_str).unwrap_or_default().to_owned();
        let absolute = if target.starts_with('/') { target } else { format!("/run/secrets/{target}") };
        secret.insert("target".to_owned(), absolute.into());
        modes(secret);
    }
    items(service.get_mut("configs")).for_each(modes);
    for mount in items(service.get_mut("volumes")) {
        // A trailing slash makes no difference for a folder.
        for key in ["source", "target"] {
            recast(mount, key, |path| Some(if path == "/" { path } else { path.trim_end_matches('/') }.to_owned()));
        }
        if let Some(tmpfs) = mount.get_mut("tmpfs").and_then(Value::as_object_mut) {
            modes(tmpfs);
            recast(tmpfs, "size", bytes);
        }
    }
    if let Some(hosts) = service.get("extra_hosts").and_then(Value::as_object) {
        let of_host = |(host, addresses): (&String, &Value)| -> Vec<String> {
            let addresses = addresses.as_array().cloned().unwrap_or_default();
            addresses.iter().filter_map(Value::as_str).map(|address| format!("{host}={address}")).collect()
        };
        let list: Vec<Value> = hosts.iter().flat_map(of_host).map(Value::from).collect();
        service.insert("extra_hosts".to_owned(), list.into());
    }
    // Docker Compose repeats items that two files spell the same.
    if let Some(hosts) = service.get_mut("extra_hosts").and_then(Value::as_array_mut) {
        hosts.sort_by_key(Value::to_string);
        hosts.dedup();
    }
    // An older key for the number of replicas.
    if let Some(scale) = service.remove("scale") {
        let deploy = service.entry("deploy").or_insert_with(|| Value::Object(Map::new()));
        if let Some(deploy) = deploy.as_object_mut() {
            deploy.entry("replicas").or_insert(scale);
        }
    }
    if let Some(deploy) = service.get_mut("deploy") {
        for kind in ["limits", "reservations"] {
            let resources = deploy.get_mut("resources").and_then(|resources| resources.get_mut(kind));
            resources.and_then(Value::as_object_mut).into_iter().for_each(|amounts| recast(amounts, "memory", bytes));
        }
        for key in ["restart_policy", "update_config", "rollback_config"] {
            if let Some(policy) = deploy.get_mut(key).and_then(Value::as_object_mut) {
                ["delay", "window", "monitor"].iter().for_each(|key| recast(policy, key, duration));
            }
        }
    }
}

fn objects(value: Option<&mut Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let map = value.and_then(Value::as_object_mut);
    map.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut)
}

fn items(value: Option<&mut Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    value.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn recast(map: &mut Map<String, Value>, key: &str, to: fn(&str) -> Option<String>) {
    let text = map.get(key).map(text);
    if let Some(new) = text.as_deref().and_then(to) {
        map.insert(key.to_owned(), new.into());
    }
}

/// Permission bits: `0o440`, `"0440"` and 288 are equal.
fn modes(map: &mut Map<String, Value>) {
    let bits = match map.get("mode") {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => u64::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
        _ => None,
    };
    if let Some(bits) = bits {
        map.insert("mode".to_owned(), bits.into());
    }
}

fn bytes(text: &str) -> Option<String> {
    Some(text.parse::<Bytes>().ok()?.0.to_string())
}

/// Go writes `2m0s` for `120s` in a file.
fn duration(text: &str) -> Option<String> {
    Some(text.parse::<Span>().ok()?.0.to_string())
}

/// Docker Compose drops declarations that no service uses; wharf shows them.
fn without_unused(value: &mut Value) {
    let services = value.get("services").map(Value::to_string).unwrap_or_default();
    for section in ["networks", "volumes", "configs", "secrets"] {
        if let Some(declared) = value.get_mut(section).and_then(Value::as_object_mut) {
            declared.retain(|name, _| services.contains(&format!("\"{name}\"")));
        }
    }
}

/// An absent key, a null value, an empty mapping or list and `false` are equal, except for variables and commands.
fn without_nothing(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let keeps = |key: &str| ["environment", "command", "entrypoint", "labels"].contains(&key);
            map.iter_mut().filter(|(key, _)| !keeps(key)).for_each(|(_, value)| without_nothing(value));
            map.retain(|key, value| match value {
                Value::Object(map) => !map.is_empty(),
                Value::Array(items) => keeps(key) || !items.is_empty(),
                Value::Bool(is) => *is,
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(without_nothing),
        _ => {}
    }
}

fn without_extensions(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|key, _| !key.starts_with("x-"));
        map.values_mut().for_each(without_extensions);
    }
}

/// wharf keeps the original text, where Docker Compose keeps YAML's number: `24.10` is not `24.1`, `0x1F` not 31, `1e3`
/// not 1000. Whether a value is a number or its text matters to neither.
fn as_written(theirs: &mut Value, ours: &mut Value) {
    match (&mut *theirs, &mut *ours) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter_mut().for_each(|(key, a)| b.get_mut(key).into_iter().for_each(|b| as_written(a, b)));
        }
        (Value::Array(a), Value::Array(b)) => a.iter_mut().zip(b).for_each(|(a, b)| as_written(a, b)),
        (Value::Object(_) | Value::Array(_) | Value::Null, _)
        | (_, Value::Object(_) | Value::Array(_) | Value::Null) => {}
        (a, b) => {
            let (of_a, of_b) = (number(&text(a)), number(&text(b)));
            if text(a) == text(b) || (of_a.is_some() && of_a == of_b) {
                *a = b.clone();
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The number that YAML 1.2 reads in a text.
fn number(text: &str) -> Option<f64> {
    let of_base = |prefix, base| text.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(digits, base).ok());
    of_base("0x", 16).or_else(|| of_base("0o", 8)).map(|number| number as f64).or_else(|| text.parse().ok())
}
