//! The metadata of programs and their neighbours, at the paths of `rancher-metadata`, so that its clients work. A program
//! sees its own environment and no other.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::Ipv4Addr,
};

use common::{
    directory::{Directory, Endpoint, HostListing, Listing},
    id::{InstanceId, ServiceId, StackId},
    name::Name,
};
use serde_json::{Map, Value, json};

use crate::names::name_of;

/// The address that containers ask.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 250);
/// The name by which Rancher's clients know it.
pub const RANCHERS_NAME: &str = "rancher-metadata";
/// The versions of the layout that clients ask for; their contents are the same here.
const VERSIONS: [&str; 4] = ["2015-07-25", "2015-12-19", "2016-07-29", "latest"];

/// The metadata that one instance sees.
pub struct Metadata<'a> {
    directory: &'a Directory,
    own: &'a InstanceId,
    address: Ipv4Addr,
}

impl<'a> Metadata<'a> {
    /// For the instance that has an address.
    pub fn new(directory: &'a Directory, own: &'a InstanceId, address: Ipv4Addr) -> Metadata<'a> {
        Metadata { directory, own, address }
    }

    /// The value at a path, if there is one. Parts of a path are keys, or numbers or names of the entries of a list.
    pub fn at(&self, path: &str) -> Option<Value> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let Some(version) = parts.next() else {
            return Some(
                VERSIONS.into_iter().map(|version| (version.to_owned(), json!({}))).collect::<Map<_, _>>().into(),
            );
        };
        if !VERSIONS.contains(&version) {
            return None;
        }
        let Some(first) = parts.next() else { return Some(self.outline()) };
        let whole = match first {
            "self" => self.of_itself(),
            "containers" => Value::Array(self.instances().map(|(id, endpoint)| self.container(id, endpoint)).collect()),
            "services" => Value::Array(self.services().map(|(id, listing)| self.service(id, listing)).collect()),
            "stacks" => Value::Array(self.stacks()),
            "hosts" => Value::Array(self.directory.hosts().map(|(_, host)| self::host(host)).collect()),
            "environment_name" => json!(self.environment()),
            "version" => json!(self.version()),
            _ => return None,
        };
        parts.try_fold(whole, step)
    }

    /// A hash that changes whenever any visible metadata changes.
    pub fn version(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (self.own, self.address).hash(&mut hasher);
        self.instances().for_each(|entry| entry.hash(&mut hasher));
        self.services().for_each(|entry| entry.hash(&mut hasher));
        self.directory.hosts().for_each(|entry| entry.hash(&mut hasher));
        format!("{:016x}", hasher.finish())
    }

    /// The keys of the first level, with as much below them as a list of keys shows.
    fn outline(&self) -> Value {
        let lists = ["containers", "hosts", "self", "services", "stacks"].map(|key| (key.to_owned(), json!({})));
        let mut outline: Map<String, Value> = lists.into_iter().collect();
        outline.insert("environment_name".to_owned(), json!(self.environment()));
        outline.insert("version".to_owned(), json!(self.version()));
        Value::Object(outline)
    }

    fn environment(&self) -> &Name {
        &self.own.stack().environment
    }

    fn services(&self) -> impl Iterator<Item = (&ServiceId, &Listing)> {
        self.directory.services().filter(|(id, _)| id.stack.environment == *self.environment())
    }

    fn instances(&self) -> impl Iterator<Item = (&InstanceId, &Endpoint)> {
        self.directory.instances().filter(|(id, _)| id.stack().environment == *self.environment())
    }

    fn of_itself(&self) -> Value {
        let unlisted = Endpoint { address: self.address, serves: false };
        let endpoint = self.directory.instance(self.own).unwrap_or(&unlisted);
        let service = self.own.service();
        let nothing = Listing::default();
        let listing = self.directory.service(service).unwrap_or(&nothing);
        let mut container = self.container(self.own, endpoint);
        if let Some(fields) = container.as_object_mut() {
            // The program that asks runs, whether or not callers are led to it.
            fields.insert("state".to_owned(), json!("running"));
        }
        json!({
            "container": container,
            "service": self.service(service, listing),
            "stack": self.stack(&service.stack),
            "host": self.directory.host_of(self.address).map(host).unwrap_or(json!({})),
        })
    }

    fn container(&self, id: &InstanceId, endpoint: &Endpoint) -> Value {
        let (service, listing) = (id.service(), self.directory.service(id.service()));
        let host = self.directory.host_of(endpoint.address);
        let (state, health) = if endpoint.serves { ("running", "healthy") } else { ("stopped", "unhealthy") };
        json!({
            "name": id.container_name(),
            "uuid": id.to_string(),
            "environment_name": service.stack.environment,
            "stack_name": service.stack.stack,
            "service_name": service.service,
            "service_index": id.slot.slot.to_string(),
            "create_index": id.incarnation,
            "incarnation": id.incarnation.to_string(),
            "primary_ip": endpoint.address,
            "ips": [endpoint.address],
            "host_uuid": host.map(|host| host.id.to_string()),
            "ports": listing.map(ports).unwrap_or_default(),
            "labels": listing.map(|listing| listing.labels.clone()).unwrap_or_default(),
            "state": state,
            "health_state": health,
        })
    }

    fn service(&self, id: &ServiceId, listing: &Listing) -> Value {
        let containers = self.directory.instances_of(id).map(|(id, endpoint)| self.container(id, endpoint));
        json!({
            "name": id.service,
            "uuid": id.to_string(),
            "environment_name": id.stack.environment,
            "stack_name": id.stack.stack,
            "kind": "service",
            "vip": listing.address,
            "fqdn": name_of(id),
            "scale": listing.replicas,
            "ports": ports(listing),
            "labels": listing.labels,
            "containers": containers.collect::<Vec<Value>>(),
            "links": {},
            "metadata": {},
            "sidekicks": [],
        })
    }

    fn stack(&self, id: &StackId) -> Value {
        let services = self.services().filter(|(service, _)| service.stack == *id);
        json!({
            "name": id.stack,
            "uuid": id.to_string(),
            "environment_name": id.environment,
            "services": services.map(|(id, listing)| self.service(id, listing)).collect::<Vec<Value>>(),
        })
    }

    fn stacks(&self) -> Vec<Value> {
        let mut ids: Vec<&StackId> = self.services().map(|(id, _)| &id.stack).collect();
        ids.dedup();
        ids.into_iter().map(|id| self.stack(id)).collect()
    }
}

fn host(host: &HostListing) -> Value {
    json!({
        "name": host.name,
        "hostname": host.name,
        "uuid": host.id.to_string(),
        "agent_ip": host.address,
        "labels": host.labels,
    })
}

fn ports(listing: &Listing) -> Vec<String> {
    listing.ports.iter().map(|(port, protocol)| format!("{port}/{protocol}")).collect()
}

fn step(value: Value, key: &str) -> Option<Value> {
    match value {
        Value::Object(mut fields) => fields.remove(key),
        Value::Array(mut items) => {
            let is_named = |item: &Value| item.get("name").and_then(Value::as_str) == Some(key);
            let index = key.parse().ok().filter(|index| *index < items.len());
            let index = index.or_else(|| items.iter().position(is_named))?;
            Some(items.swap_remove(index))
        }
        _ => None,
    }
}

/// A value as plain text: itself, or what is below it, one a line; `name/` has more below it.
pub fn text(value: &Value) -> String {
    let has_more = |value: &Value| value.is_object() || value.is_array();
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Object(fields) => {
            let line = |(key, value): (&String, &Value)| format!("{key}{}\n", if has_more(value) { "/" } else { "" });
            fields.iter().map(line).collect()
        }
        Value::Array(items) => {
            let line = |(index, item): (usize, &Value)| match item.get("name").and_then(Value::as_str) {
                Some(name) => format!("{index}={name}\n"),
                None if has_more(item) => format!("{index}/\n"),
                None => format!("{index}\n"),
            };
            items.iter().enumerate().map(line).collect()
        }
    }
}

#[cfg(test)]
mod tests;
