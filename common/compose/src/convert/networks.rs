//! Networks. External ones are other environments, which a service joins; the others determine which services of the
//! stack reach each other.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    name::Name,
    spec::{Alias, Attachment, NetworkMode, ServiceSpec, default_network},
};

use super::{adapted, name_of};
use crate::field::Field;

/// A network in a file.
pub(super) enum Network {
    /// Another environment.
    Environment(Name),
    /// A network with an error, which was reported.
    Unreadable,
    /// A network of the stack.
    Own {
        /// Its name in the stack.
        name: Name,
        /// Whether it leads nowhere outside the cluster.
        internal: bool,
    },
}

/// The networks in a file, by the key as written.
pub(super) type Networks = BTreeMap<String, Network>;

/// The network of all services that name none; it need not be declared.
const DEFAULT: &str = "default";

/// Reads the top-level networks.
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
            field.problem(format!("two networks have the name {name} in wharf: rename one of them"));
        }
        found.insert(key.to_owned(), Network::Own { name, internal: is_given && field.is("internal") });
    }
    found
}

fn check_driver(driver: &Field<'_>) {
    match driver.text().as_deref() {
        None | Some("bridge" | "overlay" | "default" | "") => {}
        Some(mode @ ("host" | "none")) => {
            driver.problem(format!("set network_mode: {mode} in the service, and remove the network"));
        }
        Some(other) => driver.problem(format!(
            "{other:?} is not supported: use bridge or overlay, which both mean the cluster's overlay"
        )),
    }
}

/// Reads the networks of a service and its aliases there.
pub(super) fn read(service: &Field<'_>, declared: &Networks, spec: &mut ServiceSpec) {
    spec.network_mode = mode(service);
    if let Some(networks) = service.get("networks") {
        if spec.network_mode != NetworkMode::Cluster {
            return networks.problem("network_mode excludes networks: remove one of them");
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
                field.problem("aliases have no effect in another environment, where its name is service.stack");
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
                "containers outside of wharf cannot share their network: make it a service, and write service:<name>",
            );
            NetworkMode::Cluster
        }
        Some(_) => {
            field.problem("it must be none, host, bridge or service:<name>; list networks under networks");
            NetworkMode::Cluster
        }
    }
}

/// Adds an alias to a service on all its networks.
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
