//! Which service has which address on the overlay.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use common::{
    error::{Code, Problem},
    id::StackId,
    name::Name,
    network::Backend,
    spec::StackSpec,
};

use super::State;

impl State {
    /// An address for each service of a stack that is new to it; none where there is no overlay.
    pub(in crate::state) fn lease_addresses(
        &self,
        id: &StackId,
        spec: &StackSpec,
    ) -> Result<BTreeMap<Name, Ipv4Addr>, Problem> {
        let earlier = self.work.stacks.get(id).map(|stack| &stack.services);
        let has_one = |name: &Name| earlier.is_some_and(|services| services.contains_key(name));
        let new: Vec<&Name> = spec.services.keys().filter(|name| !has_one(name)).collect();
        if new.is_empty() || self.basics.network.backend == Backend::None {
            return Ok(BTreeMap::new());
        }
        let range = self.basics.network.services;
        let services = self.work.stacks.values().flat_map(|stack| stack.services.values());
        let taken: BTreeSet<Ipv4Addr> = services.filter_map(|service| service.address).collect();
        // Neither the first address of the range nor its last one.
        let (first, count) = (u32::from(range.network()) + 1, (1_u32 << (32 - range.prefix_len())) - 2);
        let next = self.work.last_service_address.map_or(0, |last| u32::from(last) - first + 1);
        let in_turn = (0..count).map(|step| Ipv4Addr::from(first + (next + step) % count));
        let free: Vec<Ipv4Addr> = in_turn.filter(|address| !taken.contains(address)).take(new.len()).collect();
        if free.len() < new.len() {
            return Err(Problem::new(Code::Conflict, format!("Stack {id} was not deployed"))
                .why(format!("the range {range} for services has {count} addresses, of which {} are free", free.len()))
                .fix("Remove unused stacks, or create a cluster with a larger --service-cidr"));
        }
        Ok(new.into_iter().cloned().zip(free).collect())
    }
}
