//! Limits on work that is under way at the same time, in all and for each source address. One asker cannot exhaust them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of all askers together.
    pub all: usize,
    /// Of one address.
    pub of_address: usize,
}

/// The places, and who has them.
pub(super) struct Places {
    limits: Limits,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of_address: HashMap<IpAddr, usize>,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    /// Places that are all free.
    pub(super) fn new(limits: Limits) -> Places {
        Places { limits, taken: Arc::default() }
    }

    /// A place for this address, unless all are taken or the address has its part of them.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let own = taken.of_address.get(&address).copied().unwrap_or_default();
        if taken.all >= self.limits.all || own >= self.limits.of_address {
            return None;
        }
        taken.all += 1;
        taken.of_address.insert(address, own + 1);
        Some(Place { address, taken: self.taken.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        if let Some(own) = taken.of_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                taken.of_address.remove(&self.address);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().expect("no panic while it is held")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_part_and_no_more() {
        let places = Places::new(Limits { all: 3, of_address: 2 });
        let take = |last: u8| places.take([10, 42, 0, last].into());
        let (first, second) = (take(2).expect("a place"), take(2).expect("a place"));
        assert!(take(2).is_none(), "it has its part");
        let third = take(3).expect("a place");
        assert!(take(4).is_none(), "all are taken");
        drop(first);
        let fourth = take(2).expect("a place is free again");
        drop((second, third, fourth));
        let taken = lock(&places.taken);
        assert_eq!((taken.all, taken.of_address.len()), (0, 0), "nothing is kept of who has gone");
    }
}
