//! Networks: those that are external are other environments, which a service joins; the others say who of the stack
//! reaches whom.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    name::Name,
    spec::{Alias, Attachment, NetworkMode, ServiceSpec, default_network},
};

use super::{adapted, name_of};
use crate::field::Field;

/// A network that a file declares.
pub(super) enum Network {
    /// Another environment.
    Environment(Name),
    /// One that is refused.
    Unreadable,
    /// One of the stack's own.
    Own {
        /// Its name.
        name: Name,
        /// Whether it leads nowhere outside.
        internal: bool,
    },
}

/// The networks that a file declares, by the key that people wrote.
pub(super) type Networks = BTreeMap<String, Network>;

/// The network that every service is on that names none, whether or not a file declares it.
const DEFAULT: &str = "default";

/// Reads the file's networks.
pub(super) fn declared(root: &Field<'_>) -> Networks {
    let mut found = Networks::new();
    let mut names = BTreeSet::new();
    for (key, field) in root.entries_of("networks") {
        let is_given = field.is_mapping();
        if !is_given && !field.node.is_null() {
            field.expected("a mapping");
            continue;
        }
        if is_given && field.is("external") {
            let name = field.get("name");
            let of = name.as_ref().map_or_else(|| Some(key.to_owned()), |name| name.text());
            let environment = of.and_then(|of| name_of(&of, name.as_ref().unwrap_or(&field)));
            found.insert(key.to_owned(), environment.map_or(Network::Unreadable, Network::Environment));
            continue;
        }
        if let Some(driver) = field.get("driver") {
            check_driver(&driver);
        }
        let Some(name) = adapted(key, &field) else { continue };
        if !names.insert(name.clone()) {
            field.problem(format!("two networks become {name} here; rename one of them"));
        }
        found.insert(key.to_owned(), Network::Own { name, internal: is_given && field.is("internal") });
    }
    found
}

fn check_driver(driver: &Field<'_>) {
    match driver.text().as_deref() {
        None | Some("bridge" | "overlay" | "default" | "") => {}
        Some(mode @ ("host" | "none")) => {
            driver.problem(format!("say network_mode: {mode} in the service, and take the network away"));
        }
        Some(other) => driver.problem(format!(
            "{other:?} is not known; there are bridge and overlay, and both are the cluster's overlay"
        )),
    }
}

/// Reads which networks a service is on and how it is called there.
pub(super) fn read(service: &Field<'_>, declared: &Networks, spec: &mut ServiceSpec) {
    spec.network_mode = mode(service);
    if let Some(networks) = service.get("networks") {
        if spec.network_mode != NetworkMode::Cluster {
            return networks.problem("network_mode leaves no network; take one of the two away");
        }
        for (key, field) in networks.entries() {
            attach(key, &field, declared, spec);
        }
    } else if spec.network_mode == NetworkMode::Cluster {
        match declared.get(DEFAULT) {
            Some(Network::Environment(environment)) => {
                spec.joins.insert(environment.clone());
            }
            Some(Network::Own { name, internal: true }) => {
                spec.networks.insert(name.clone(), Attachment { internal: true, aliases: BTreeSet::new() });
            }
            Some(Network::Own { .. } | Network::Unreadable) | None => {}
        }
    }
}

fn attach(key: &str, field: &Field<'_>, declared: &Networks, spec: &mut ServiceSpec) {
    let aliases: BTreeSet<Alias> = match field.is_mapping() {
        true => field.items_of("aliases").iter().filter_map(Field::parse).collect(),
        false => BTreeSet::new(),
    };
    match declared.get(key) {
        Some(Network::Environment(environment)) => {
            if !aliases.is_empty() {
                field.problem("in another environment it is called by its own name, with the stack's behind it");
            }
            spec.joins.insert(environment.clone());
        }
        Some(Network::Own { name, internal }) => {
            spec.networks.insert(name.clone(), Attachment { internal: *internal, aliases });
        }
        Some(Network::Unreadable) => {}
        None if key == DEFAULT => {
            spec.networks.insert(default_network(), Attachment { internal: false, aliases });
        }
        None => field.problem(format!("there is no network {key} in this file")),
    }
}

fn mode(service: &Field<'_>) -> NetworkMode {
    let Some(field) = service.get("network_mode") else { return NetworkMode::Cluster };
    match field.text().as_deref() {
        None | Some("bridge" | "default" | "") => NetworkMode::Cluster,
        Some("none") => NetworkMode::None,
        Some("host") => NetworkMode::Host,
        Some(text) if text.starts_with("service:") => NetworkMode::Cluster,
        Some(text) if text.starts_with("container:") => {
            field.problem(
                "containers that wharf did not make cannot be joined; make it a service, and say service:<name>",
            );
            NetworkMode::Cluster
        }
        Some(_) => {
            field.problem("it is none, host, bridge or service:<name>; networks are named under networks");
            NetworkMode::Cluster
        }
    }
}

/// Gives a service a further name on every network that it is on.
pub(super) fn call(spec: &mut ServiceSpec, alias: Alias) {
    if spec.network_mode != NetworkMode::Cluster {
        return;
    }
    if spec.networks.is_empty() {
        spec.networks.insert(default_network(), Attachment::default());
    }
    for attachment in spec.networks.values_mut() {
        attachment.aliases.insert(alias.clone());
    }
}
