//! Several files become one, by the rules of the compose specification for `-f` given twice.

use serde_norway::{Mapping, Value};

/// Keys of a service whose list form `KEY=value` and mapping form mean the same.
const PAIRS: [&str; 2] = ["environment", "labels"];
/// Keys of a service whose list form names the keys of the mapping form.
const NAMED: [&str; 2] = ["depends_on", "networks"];
/// Lists that a later file replaces instead of adding to.
const REPLACED: [&str; 4] = ["command", "entrypoint", "test", "env_file"];

/// Brings `environment`, `labels`, `depends_on` and `networks` of every service into their mapping form.
pub(super) fn normalise(file: &mut Value) {
    let Some(services) = file.get_mut("services").and_then(Value::as_mapping_mut) else { return };
    for (_, service) in services.iter_mut() {
        for key in PAIRS {
            if let Some(value) = service.get_mut(key) {
                pairs_to_mapping(value);
            }
        }
        for key in NAMED {
            if let Some(value) = service.get_mut(key)
                && let Value::Sequence(names) = value
            {
                let named = names.iter().map(|name| (name.clone(), Value::Mapping(Mapping::new())));
                *value = Value::Mapping(named.collect());
            }
        }
    }
}

fn pairs_to_mapping(value: &mut Value) {
    let Value::Sequence(items) = value else { return };
    let pair = |item: &Value| {
        let text = item.as_str()?;
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Value::String(value.to_owned())),
            None => (text, Value::Null),
        };
        Some((Value::String(key.to_owned()), value))
    };
    // An item that is no text stays in the list, and the conversion names its place.
    if let Some(mapping) = items.iter().map(pair).collect::<Option<Mapping>>() {
        *value = Value::Mapping(mapping);
    }
}

/// Lays `over` upon `base`: mappings merge, lists grow, everything else is replaced.
pub(super) fn merge(base: &mut Value, over: Value, key: &str) {
    match (base, over) {
        (Value::Mapping(base), Value::Mapping(over)) => {
            for (key, value) in over {
                let name = key.as_str().unwrap_or_default().to_owned();
                match base.get_mut(&key) {
                    Some(existing) => merge(existing, value, &name),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (Value::Sequence(base), Value::Sequence(over)) if !REPLACED.contains(&key) => {
            for item in over {
                let target = mount_target(&item);
                let same_target = |b: &&mut Value| target.is_some() && key == "volumes" && mount_target(b) == target;
                if let Some(existing) = base.iter_mut().find(same_target) {
                    *existing = item;
                } else if !base.contains(&item) {
                    base.push(item);
                }
            }
        }
        (base, over) => *base = over,
    }
}

/// Where a volume entry is mounted: two files that mount at one place mean the later one.
fn mount_target(item: &Value) -> Option<String> {
    match item {
        Value::String(text) => {
            let mut parts = text.split(':');
            let first = parts.next()?;
            Some(parts.next().unwrap_or(first).to_owned())
        }
        Value::Mapping(map) => Some(map.get("target")?.as_str()?.to_owned()),
        _ => None,
    }
}
