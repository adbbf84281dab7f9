//! The section as the feature levels before [`level::HOST_CLAIMS`](crate::level::HOST_CLAIMS) store it: a host's facts
//! are what its agent says.

use std::collections::BTreeMap;

use common::{
    host::{Availability, HostCondition, HostFacts, HostLabels, Liveness, Oversubscription},
    id::{HostId, MemberId},
    name::Name,
    network::Subnet,
    time::Timestamp,
};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::{Claims, Fleet, Member};

/// All of it.
#[derive(Serialize, Deserialize)]
pub(in crate::state) struct Version1 {
    hosts: OrdMap<HostId, Host>,
    host_names: OrdSet<Name>,
    last_host: u32,
    removed_hosts: OrdMap<HostId, Timestamp>,
    members: OrdMap<MemberId, Member>,
    last_member: u64,
    last_subnet: Option<Subnet>,
    released_subnets: OrdMap<Subnet, Timestamp>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Host {
    name: Name,
    number: u32,
    availability: Availability,
    liveness: Liveness,
    left_at: Option<Timestamp>,
    returns: Vec<Timestamp>,
    conditions: Vec<HostCondition>,
    unprepared: BTreeMap<String, Timestamp>,
    labels: HostLabels,
    facts: Option<HostFacts>,
    oversubscription: Oversubscription,
    machine: Option<[u8; 16]>,
    joined_at: Timestamp,
    subnet: Subnet,
}

/// Moves all fields from one of the two structs to the other.
macro_rules! moved {
    ($from:expr => $to:ident { $($field:ident),* } $($rest:tt)*) => {
        $to { $($field: $from.$field,)* $($rest)* }
    };
}

impl From<Host> for super::Host {
    fn from(host: Host) -> super::Host {
        use super::Host as Now;
        moved!(host => Now {
            name, number, availability, liveness, left_at, returns, conditions, unprepared, labels, facts,
            oversubscription, machine, joined_at, subnet
        } claims: Claims::default())
    }
}

impl From<super::Host> for Host {
    fn from(host: super::Host) -> Host {
        moved!(host => Host {
            name, number, availability, liveness, left_at, returns, conditions, unprepared, labels, facts,
            oversubscription, machine, joined_at, subnet
        })
    }
}

impl From<Version1> for Fleet {
    fn from(stored: Version1) -> Fleet {
        let hosts = stored.hosts.into_iter().map(|(id, host)| (id, super::Host::from(host))).collect();
        moved!(stored => Fleet {
            host_names, last_host, removed_hosts, members, last_member, last_subnet, released_subnets
        } hosts)
    }
}

impl From<&Fleet> for Version1 {
    fn from(section: &Fleet) -> Version1 {
        let hosts = section.hosts.iter().map(|(id, host)| (*id, Host::from(host.clone()))).collect();
        let section = section.clone();
        moved!(section => Version1 {
            host_names, last_host, removed_hosts, members, last_member, last_subnet, released_subnets
        } hosts)
    }
}
