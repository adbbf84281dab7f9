//! The meaning of names, which depends on the asker: `web`, `web.shop`, `web.shop.default`, `tasks.web`, `2.web`, and the
//! same below the zone of the cluster. A container finds the services of its own environment.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use common::{
    directory::{Directory, Owner, Realm},
    id::{InstanceId, ServiceId, StackId},
    name::Name,
    network::{NetworkPlan, Subnet},
    spec::Protocol,
};

use crate::{metadata, network::Residents};

/// The zone below which everything has a whole name. `internal` is kept free for such uses (ICANN, 2024).
pub const ZONE: &str = "wharf.internal";

/// The sender of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// An instance.
    Instance(InstanceId),
    /// A host itself, which may ask for everything by its whole name.
    Host,
    /// A sender that the cluster does not know.
    Stranger,
}

/// The kind of record that a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Addresses.
    Address,
    /// Ports, with names that have addresses (RFC 2782).
    Service,
    /// The name of an address.
    Pointer,
    /// Anything else; no name of ours has it.
    Other,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// The one that asks.
    pub asker: &'a Asker,
    /// The name, without a dot at its end.
    pub name: &'a str,
    /// The kind of record that is wanted.
    pub kind: Kind,
}

/// A record of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An address.
    Address(Ipv4Addr),
    /// A port of an instance.
    Service {
        /// The port.
        port: u16,
        /// The instance's whole name.
        target: String,
        /// Its address.
        address: Ipv4Addr,
    },
    /// A whole name.
    Pointer(String),
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This; with no record if the name has others than were asked for.
    Known(Vec<Record>),
    /// There is no such name.
    Unknown,
    /// It is none of the cluster's names: other servers know.
    Elsewhere,
}

/// The part of a service that a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The service by its own address.
    Whole,
    /// `tasks.web`: the addresses of its instances that serve.
    Tasks,
    /// `2.web`: the instance that fills a slot, whether it serves or not.
    Slot(u32),
}

/// Answers a question.
pub fn answer(directory: &Directory, plan: &NetworkPlan, question: Question<'_>) -> Answer {
    let Question { asker, name, kind } = question;
    let name: Cow<'_, str> =
        if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() };
    if let Some(address) = reversed(&name) {
        return question.pointer(directory, plan, address);
    }
    let inside = name.strip_suffix(ZONE).and_then(|rest| rest.strip_suffix('.').or(rest.is_empty().then_some(rest)));
    let labels: Vec<&str> = inside.unwrap_or(&name).split('.').filter(|label| !label.is_empty()).collect();
    let is_whole = inside.is_some();
    let found = readings(&labels, asker, is_whole)
        .into_iter()
        .filter(|(_, service)| asker.sees(directory, service))
        .find_map(|(part, service)| records(directory, &service, part, kind));
    let found = found.or_else(|| question.called(directory, &labels, is_whole));
    match found {
        Some(records) => Answer::Known(records),
        None if is_metadata(&labels, is_whole) => {
            Answer::Known(if kind == Kind::Address { vec![Record::Address(metadata::ADDRESS)] } else { Vec::new() })
        }
        // The zone itself is there, and names above those that are.
        None if is_whole && labels.is_empty() => Answer::Known(Vec::new()),
        // No other server knows names of one label: a question would only disclose what runs here.
        None if is_whole || labels.len() < 2 => Answer::Unknown,
        None if is_below_a_stack(directory, &labels, asker) => Answer::Unknown,
        None => Answer::Elsewhere,
    }
}

impl Asker {
    /// Whether it may learn of a service.
    fn sees(&self, directory: &Directory, service: &ServiceId) -> bool {
        match self {
            Asker::Instance(own) => directory.are_together(own.service(), service),
            Asker::Host => true,
            Asker::Stranger => false,
        }
    }
}

impl Question<'_> {
    /// The answer to a question for an address.
    fn pointer(self, directory: &Directory, plan: &NetworkPlan, address: Ipv4Addr) -> Answer {
        if !plan.containers.contains(&address) && !plan.services.contains(&address) {
            return Answer::Elsewhere;
        }
        let (service, name) = match directory.owner(address) {
            None => return Answer::Unknown,
            Some(Owner::Service(service)) => (service, name_of(service)),
            Some(Owner::Instance(id)) => (id.service(), format!("{}.{}", id.slot.slot, name_of(id.service()))),
        };
        if !self.asker.sees(directory, service) {
            return Answer::Unknown;
        }
        Answer::Known(if self.kind == Kind::Pointer { vec![Record::Pointer(name)] } else { Vec::new() })
    }

    /// The records of a further name of services. Such a name holds in the environment or network that it was given in,
    /// for the members of that.
    fn called(self, directory: &Directory, labels: &[&str], is_whole: bool) -> Option<Vec<Record>> {
        let (alias, stack) = match (self.asker, is_whole) {
            (Asker::Instance(own), false) => (labels.join("."), own.stack().clone()),
            (Asker::Instance(_) | Asker::Host, true) => {
                let [alias @ .., stack, environment] = labels else { return None };
                let (environment, stack) = (Name::parse(environment).ok()?, Name::parse(stack).ok()?);
                (alias.join("."), StackId { environment, stack })
            }
            (Asker::Host, false) | (Asker::Stranger, _) => return None,
        };
        let sees = |realm: &Realm| match self.asker {
            Asker::Instance(own) => directory.realms_of(own.service()).any(|mine| mine == *realm),
            Asker::Host => true,
            Asker::Stranger => false,
        };
        let services: BTreeSet<&ServiceId> =
            directory.called(&stack, &alias).filter(|(_, realm)| sees(realm)).map(|(service, _)| service).collect();
        let of = |service: &&ServiceId| records(directory, service, Part::Whole, self.kind);
        let found: Vec<Record> = services.iter().filter_map(of).flatten().collect();
        (!services.is_empty()).then_some(found)
    }
}

/// Whether a name that is not whole, and that does not exist, is one of the cluster's own all the same: it ends with an
/// existing stack, or asks for an instance of an existing service. The agent does not ask other servers for it. A stack
/// called `com` keeps its environment from asking for `example.com`.
fn is_below_a_stack(directory: &Directory, labels: &[&str], asker: &Asker) -> bool {
    let names_a_stack = |labels: &[&str]| {
        let of = |stack: &str, environment: &Name| {
            let stack = Name::parse(stack).map(|stack| StackId { environment: environment.clone(), stack });
            stack.is_ok_and(|stack| directory.has_stack(&stack))
        };
        match (labels, asker) {
            ([_, stack], Asker::Instance(own)) => of(stack, &own.stack().environment),
            ([_, stack, environment], _) => Name::parse(environment).is_ok_and(|environment| of(stack, &environment)),
            _ => false,
        }
    };
    let is_part = |first: &str| first == "tasks" || first.parse::<u32>().is_ok();
    let of_part = labels.split_first().filter(|(first, _)| is_part(first)).map(|(_, rest)| rest);
    names_a_stack(labels)
        || of_part.is_some_and(names_a_stack)
        || readings(labels, asker, false).into_iter().any(|(_, service)| directory.service(&service).is_some())
}

/// Whether a name is that of the metadata service. Docker's resolver asks for one of a single label below the search
/// domain alone.
fn is_metadata(labels: &[&str], is_whole: bool) -> bool {
    matches!(
        (is_whole, labels),
        (true, ["metadata"] | [metadata::RANCHERS_NAME, _, _])
            | (false, [metadata::RANCHERS_NAME] | [metadata::RANCHERS_NAME, "rancher", "internal"])
    )
}

/// The whole name of a service, below which its instances have theirs.
pub fn name_of(service: &ServiceId) -> String {
    format!("{}.{}", service.service, search_domain(&service.stack))
}

/// The name of a stack, below which a container looks for names of one label. It needs no others: what else is
/// not whole is understood here.
pub fn search_domain(of: &StackId) -> String {
    let StackId { environment, stack } = of;
    format!("{stack}.{environment}.{ZONE}")
}

/// The possible meanings of a name's labels, the likeliest first.
fn readings(labels: &[&str], asker: &Asker, is_whole: bool) -> Vec<(Part, ServiceId)> {
    let own = match asker {
        Asker::Instance(own) if !is_whole => Some(own.stack()),
        _ => None,
    };
    let service = |labels: &[&str]| -> Option<ServiceId> {
        let names: Vec<Name> = labels.iter().map(|label| Name::parse(label).ok()).collect::<Option<_>>()?;
        let (service, stack, environment) = match (names.as_slice(), own) {
            ([service], Some(own)) => (service, &own.stack, &own.environment),
            ([service, stack], Some(own)) => (service, stack, &own.environment),
            ([service, stack, environment], _) => (service, stack, environment),
            _ => return None,
        };
        let stack = StackId { environment: environment.clone(), stack: stack.clone() };
        Some(stack.service(service.clone()))
    };
    let whole = service(labels).map(|service| (Part::Whole, service));
    let part = labels.split_first().and_then(|(first, rest)| {
        let part = if *first == "tasks" { Part::Tasks } else { Part::Slot(first.parse().ok()?) };
        Some((part, service(rest)?))
    });
    whole.into_iter().chain(part).collect()
}

/// The records of a part of a service; none if there is no such part.
fn records(directory: &Directory, service: &ServiceId, part: Part, kind: Kind) -> Option<Vec<Record>> {
    let listing = directory.service(service)?;
    let instances = directory.instances_of(service).filter(|(id, endpoint)| match part {
        Part::Whole | Part::Tasks => endpoint.serves,
        Part::Slot(slot) => id.slot.slot == slot,
    });
    let mut instances: Vec<_> = instances.collect();
    if let Part::Slot(_) = part {
        // The one that was made last.
        instances = instances.pop().into_iter().collect();
        if instances.is_empty() {
            return None;
        }
    }
    Some(match (kind, part, listing.address) {
        (Kind::Address, Part::Whole, Some(address)) => vec![Record::Address(address)],
        (Kind::Address, ..) => instances.iter().map(|(_, endpoint)| Record::Address(endpoint.address)).collect(),
        (Kind::Service, ..) => {
            let ports = || listing.ports.iter().filter(|(_, protocol)| *protocol == Protocol::Tcp);
            let of = |(id, endpoint): &(&InstanceId, &common::directory::Endpoint)| {
                let (target, address) = (format!("{}.{}", id.slot.slot, name_of(service)), endpoint.address);
                ports().map(move |(port, _)| Record::Service { port: *port, target: target.clone(), address })
            };
            instances.iter().flat_map(|found| of(found).collect::<Vec<_>>()).collect()
        }
        (Kind::Pointer | Kind::Other, ..) => Vec::new(),
    })
}

/// The address whose name is asked for (RFC 1035, section 3.5).
fn reversed(name: &str) -> Option<Ipv4Addr> {
    let mut parts: Vec<&str> = name.strip_suffix(".in-addr.arpa")?.split('.').collect();
    parts.reverse();
    parts.join(".").parse().ok()
}

/// The owner of an address that asks. The host knows its own instances before the directory does.
pub fn asker(directory: &Directory, residents: &Residents, plan: &NetworkPlan, from: IpAddr) -> Asker {
    let IpAddr::V4(from) = from else { return Asker::Stranger };
    if let Some(resident) = residents.get(&from) {
        return Asker::Instance(resident.instance.clone());
    }
    match directory.owner(from) {
        Some(Owner::Instance(id)) => Asker::Instance(id.clone()),
        _ if plan.containers.contains(&from) && Subnet::of(from).is_own(from) => Asker::Host,
        _ => Asker::Stranger,
    }
}

#[cfg(test)]
mod tests;
