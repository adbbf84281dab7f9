//! Services that are sidekicks of others: `x-group: web`, or `network_mode: service:web`. Both mean the same in wharf,
//! because the parts of an instance share its host and its network.

use std::collections::BTreeMap;

use common::{
    name::Name,
    spec::{Condition, ContainerSpec, ServiceSpec, Sidekick},
};

use crate::field::Field;

/// Keys that a sidekick cannot have.
const OF_THE_SERVICE: [&str; 7] =
    ["ports", "scale", "pre_start", "networks", "x-cron", "x-sticky", "x-strict-singleton"];

/// A service in the file that is a sidekick.
pub(super) struct Grouped {
    pub(super) container: ContainerSpec,
    pub(super) depends_on: BTreeMap<Name, Condition>,
}

/// The service that each sidekick belongs to.
pub(super) type Leaders = BTreeMap<Name, Name>;

/// The service that this one wants to be a sidekick of.
pub(super) fn leader(service: &Field<'_>) -> Option<String> {
    let by_network =
        service.get("network_mode").and_then(|mode| mode.text()?.strip_prefix("service:").map(str::to_owned));
    service.text_of("x-group").or(by_network)
}

/// Reports settings that only the main service can have.
pub(super) fn check_sidekick(service: &Field<'_>, leader: &Name) {
    let refuse = |value: &Field<'_>| {
        value.problem(format!("it is a sidekick of {leader}: set this in {leader}, for all its containers"));
    };
    OF_THE_SERVICE.iter().filter_map(|key| service.get(key)).for_each(|value| refuse(&value));
    for (key, value) in service.entries_of("deploy") {
        if !["resources", "restart_policy"].contains(&key) {
            refuse(&value);
        }
    }
}

/// Follows sidekicks of sidekicks to their main service; the error is a name on a cycle.
pub(super) fn root<'a>(leaders: &'a Leaders, of: &'a Name) -> Result<&'a Name, &'a Name> {
    let mut at = of;
    for _ in 0..=leaders.len() {
        match leaders.get(at) {
            Some(next) => at = next,
            None => return Ok(at),
        }
    }
    Err(at)
}

/// Moves the sidekicks into the services that they belong to.
pub(super) fn join(services: &mut BTreeMap<Name, ServiceSpec>, grouped: BTreeMap<Name, (Name, Grouped)>) {
    let leaders: BTreeMap<Name, Name> =
        grouped.iter().map(|(name, (leader, _))| (name.clone(), leader.clone())).collect();
    for (name, (leader, Grouped { container, depends_on })) in grouped {
        let Some(service) = services.get_mut(&leader) else { continue };
        let is_peer = |on: &Name| *on == leader || leaders.get(on) == Some(&leader);
        let (inside, outside) = depends_on.into_iter().partition(|(on, _)| is_peer(on));
        // If one part waits for another service, the whole instance waits for it.
        let outside: BTreeMap<Name, Condition> = outside;
        service.depends_on.extend(outside);
        service.sidekicks.insert(name, Sidekick { container, depends_on: inside });
    }
    for (name, service) in services.iter_mut() {
        // Waiting for a sidekick of another service means waiting for that service's instances.
        let named = std::mem::take(&mut service.depends_on).into_iter();
        service.depends_on = named
            .map(|(on, condition)| match leaders.get(&on) {
                Some(leader) if leader != name => (leader.clone(), condition),
                _ => (on, condition),
            })
            .collect();
    }
}
