//! The services of a document.

use std::collections::BTreeMap;

use common::{
    name::Name,
    spec::{Alias, Condition, ContainerSpec, ExposedPort, PortSpec, Protocol, ServiceSpec},
};

use super::{
    Context, Declared, DifferentDefault, adapted, container, defaults, deploy, networks,
    unit::{self, Grouped, Leaders},
};
use crate::{field::Field, short};

const CONDITIONS: [(&str, Condition); 3] = [
    ("service_started", Condition::Started),
    ("service_healthy", Condition::Healthy),
    ("service_completed_successfully", Condition::Completed),
];
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

/// A service in the file.
struct Written<'a> {
    /// The key as written.
    key: &'a str,
    field: Field<'a>,
}

/// The services in a file, by their names in wharf.
type All<'a> = BTreeMap<Name, Written<'a>>;

pub(super) fn services(
    field: &Field<'_>,
    context: &Context<'_>,
    declared: &Declared,
    defaults: &mut Vec<DifferentDefault>,
) -> BTreeMap<Name, ServiceSpec> {
    let all = written(field);
    let leaders: Leaders = all
        .iter()
        .filter_map(|(name, written)| Some((name.clone(), adapted(&unit::leader(&written.field)?, &written.field)?)))
        .collect();
    let (mut services, mut grouped) = (BTreeMap::new(), BTreeMap::new());
    for (name, Written { field, .. }) in &all {
        let Some(container) = container::container(field, context, declared) else { continue };
        let depends_on = dependencies(field, &all, context);
        match unit::root(&leaders, name) {
            Ok(root) if root == name => {
                let mut spec = service(field, context, container);
                networks::read(field, &declared.networks, &mut spec);
                spec.depends_on = depends_on;
                defaults::of_service(name, field, &spec, defaults);
                services.insert(name.clone(), spec);
            }
            Ok(root) if all.contains_key(root) => {
                unit::check_sidekick(field, root);
                grouped.insert(name.clone(), (root.clone(), Grouped { container, depends_on }));
            }
            Ok(root) => field.problem(format!("it is a sidekick of {root}, but there is no service {root}")),
            Err(at) => field.problem(format!("it is a sidekick of itself, through {at}")),
        }
    }
    names(&all, &mut services);
    unit::join(&mut services, grouped);
    services
}

/// The services by their names in wharf, which are DNS labels. Compose allows more.
fn written<'a>(field: &Field<'a>) -> All<'a> {
    let mut all = All::new();
    for (key, field) in field.entries() {
        let Some(name) = adapted(key, &field) else { continue };
        if !field.is_mapping() {
            field.problem("a service must be a mapping");
            continue;
        }
        if let Some(twin) = all.get(&name) {
            field.problem(format!("{} and {key} both have the name {name} in wharf: rename one of them", twin.key));
            continue;
        }
        all.insert(name, Written { key, field });
    }
    all
}

/// Adds aliases: the name as written, the container name, and the names that others use in `links`.
fn names(all: &All<'_>, services: &mut BTreeMap<Name, ServiceSpec>) {
    for (name, Written { key, field }) in all {
        let mut wanted = Vec::new();
        if name.as_str() != *key {
            wanted.push((field.clone(), (*key).to_owned(), name.clone()));
        }
        if let Some(own) = field.get("container_name")
            && let Some(text) = own.text().filter(|text| *text != name.as_str())
        {
            wanted.push((own, text, name.clone()));
        }
        for link in field.items_of("links") {
            let Some(text) = link.text() else { continue };
            let Some((service, alias)) = text.split_once(':') else { continue };
            wanted.extend(adapted(service, &link).map(|service| (link.clone(), alias.to_owned(), service)));
        }
        for (at, alias, service) in wanted {
            let Some(spec) = services.get_mut(&service) else { continue };
            match Alias::parse(&alias) {
                Ok(alias) => networks::call(spec, alias),
                Err(error) => at.problem(error),
            }
        }
    }
}

fn service(field: &Field<'_>, context: &Context<'_>, container: ContainerSpec) -> ServiceSpec {
    let mut spec = ServiceSpec::of_image(&container.image);
    spec.pre_start = container::steps(field, context, &container);
    spec.container = container;
    spec.ports = field.items_of("ports").iter().filter_map(port).collect();
    spec.expose = field.items_of("expose").iter().flat_map(exposed).collect();
    spec.strict_singleton = field.is("x-strict-singleton");
    deploy::read(field, &mut spec);
    spec
}

fn port(field: &Field<'_>) -> Option<PortSpec> {
    if !field.is_mapping() {
        field.expected("text or a mapping");
        return None;
    }
    let Some(target) = field.get("target") else {
        field.problem("target is missing: the port in the container");
        return None;
    };
    if let Some(mode) = field.get("mode") {
        mode.word(&[("host", ()), ("ingress", ())])?;
    }
    let protocol = field.get("protocol").map_or(Some(Protocol::Tcp), |protocol| protocol.word(&PROTOCOLS))?;
    let published = match field.get("published").filter(|field| field.node.as_text() != Some("")) {
        None => None,
        Some(field) if field.text()?.contains('-') => {
            field.problem("a range of host ports is not supported: write one port, or none to get a free one");
            return None;
        }
        Some(field) => Some(field.number()?),
    };
    Some(PortSpec { container: target.number()?, published, protocol, host_ip: field.parse_of("host_ip") })
}

fn exposed(field: &Field<'_>) -> Vec<ExposedPort> {
    let Some(text) = field.text() else { return Vec::new() };
    if text.contains(':') {
        field.problem(format!("{text:?} is not just a container port: to publish it on the host, use \"ports\""));
        return Vec::new();
    }
    let port = |port: short::Port| {
        let protocol = if port.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
        ExposedPort { container: port.target, protocol }
    };
    match short::ports(&text) {
        Ok(ports) => ports.into_iter().map(port).collect(),
        Err(error) => {
            field.problem(error);
            Vec::new()
        }
    }
}

/// The dependencies of a service: `depends_on`, and the services in its `links`.
fn dependencies(service: &Field<'_>, all: &All<'_>, context: &Context<'_>) -> BTreeMap<Name, Condition> {
    let (mut found, others) = (BTreeMap::new(), Others { all, context });
    for (key, field) in service.entries_of("depends_on") {
        let given = field.get("condition").map_or(Some(Condition::Started), |field| field.word(&CONDITIONS));
        let is_required = field.get("required").and_then(|required| required.boolean()).unwrap_or(true);
        if let (Some(name), Some(condition)) = (others.known(key, &field, is_required), given) {
            found.insert(name, condition);
        }
    }
    for link in service.items_of("links") {
        let Some(text) = link.text() else { continue };
        let key = text.split(':').next().unwrap_or(&text);
        if let Some(name) = others.known(key, &link, true) {
            found.entry(name).or_insert(Condition::Started);
        }
    }
    found
}

/// The services that one may depend on.
struct Others<'a> {
    all: &'a All<'a>,
    context: &'a Context<'a>,
}

impl Others<'_> {
    /// The name of another service, if there is one of it.
    fn known(&self, key: &str, field: &Field<'_>, is_required: bool) -> Option<Name> {
        let name = adapted(key, field)?;
        if self.all.contains_key(&name) {
            return Some(name);
        }
        match self.context.off.get(key) {
            _ if !is_required => {}
            Some(profiles) => field.problem(format!(
                "{key} is not enabled, because none of its profiles is: enable one with --profile {}",
                profiles.first().map_or("NAME", String::as_str)
            )),
            None => field.problem(format!("there is no service {key} in these files")),
        }
        None
    }
}
