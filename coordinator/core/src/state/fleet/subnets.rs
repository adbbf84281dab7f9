//! Which host has which part of the containers' addresses.

use common::{
    error::{Code, Problem},
    network::Subnet,
    time::{Span, Timestamp},
};

use super::State;

/// How long a subnet is kept back after its host was removed.
const QUARANTINE: Span = Span::minutes(24 * 60);

impl State {
    /// The lowest subnet that no host has; of those that were given back lately the one that was first, if there
    /// is no other.
    pub(super) fn lease_subnet(&mut self) -> Result<Subnet, Problem> {
        let is_over = |at: &Timestamp| self.basics.clock.since(*at) >= QUARANTINE;
        let lowest_released = self.fleet.released_subnets.iter().find(|(_, at)| is_over(at)).map(|(subnet, _)| *subnet);
        let never_leased = || self.basics.network.subnets().find(|subnet| Some(*subnet) > self.fleet.last_subnet);
        let oldest_released =
            || self.fleet.released_subnets.iter().min_by_key(|(_, at)| **at).map(|(subnet, _)| *subnet);
        let subnet = lowest_released.or_else(never_leased).or_else(oldest_released).ok_or_else(|| {
            Problem::new(Code::Conflict, "The host was not admitted")
                .why(format!("all {} subnets of {} are in use", self.fleet.hosts.len(), self.basics.network.containers))
                .fix("Remove hosts that are gone (wharf host rm), or create a cluster with a larger --cluster-cidr")
        })?;
        self.fleet.released_subnets.remove(&subnet);
        self.fleet.last_subnet = self.fleet.last_subnet.max(Some(subnet));
        Ok(subnet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Command,
        testing::{Fixture, admission, host},
    };

    /// The third bytes of the hosts' subnets.
    fn subnets(fixture: &Fixture) -> Vec<u8> {
        let mut numbers: Vec<u8> = fixture.cluster.hosts().values().map(|h| h.subnet.host().octets()[2]).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn a_host_has_its_subnet_for_life_and_nobody_gets_it_soon_after() {
        let mut fixture = Fixture::of_hosts(3);
        assert_eq!(subnets(&fixture), [0, 1, 2]);
        fixture.done(Command::RemoveHost(host(2)));
        fixture.apply(Command::Admit(Box::new(admission(4))));
        assert_eq!(subnets(&fixture), [0, 2, 3], "what was just given back is kept back");
        fixture.now = fixture.now + QUARANTINE;
        fixture.apply(Command::Admit(Box::new(admission(5))));
        assert_eq!(subnets(&fixture), [0, 1, 2, 3]);
    }

    #[test]
    fn a_cluster_without_free_subnets_admits_nobody() {
        let mut fixture = Fixture::of_hosts(1);
        fixture.cluster.basics.network.containers = "10.42.0.0/23".parse().expect("a range");
        fixture.apply(Command::Admit(Box::new(admission(2))));
        let refused = fixture.refused(Command::Admit(Box::new(admission(3))));
        assert!(refused.contains("all 2 subnets of 10.42.0.0/23 are in use"), "{refused}");
        // One that is kept back is better than none.
        fixture.done(Command::RemoveHost(host(2)));
        fixture.apply(Command::Admit(Box::new(admission(3))));
        assert_eq!(subnets(&fixture), [0, 1]);
    }
}
