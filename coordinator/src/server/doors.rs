//! Limits on HTTPS connections, in all and for each source address. A client that opens silent connections cannot exhaust
//! them.
//!
//! A connection counts for its address from the first packet on. Before its handshake is over it counts among
//! handshakes, and then at its door: hosts that join do not wait for people, nor people for hosts.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Door;

/// The connections that are allowed at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of one address, or of one network of IPv6.
    pub of_address: usize,
    /// Whose handshake is not over.
    pub handshakes: usize,
    /// Of the API.
    pub api: usize,
    /// Of joining hosts.
    pub join: usize,
}

/// More of one address than a proxy needs, and fewer than there may be at any door.
pub const LIMITS: Limits = Limits { of_address: 512, handshakes: 1024, api: 2048, join: 1024 };

/// What is open now.
#[derive(Clone)]
pub struct Doors {
    limits: Limits,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
    handshakes: Arc<Semaphore>,
    api: Arc<Semaphore>,
    join: Arc<Semaphore>,
}

/// The place of a connection; it is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    address: IpAddr,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
    permit: OwnedSemaphorePermit,
}

impl Doors {
    /// Doors with nobody at them.
    pub fn new(limits: Limits) -> Doors {
        let of = |count| Arc::new(Semaphore::new(count));
        let (handshakes, api, join) = (of(limits.handshakes), of(limits.api), of(limits.join));
        Doors { limits, addresses: Arc::default(), handshakes, api, join }
    }

    /// A place for a connection that begins; an error says what there is too much of.
    pub fn arrive(&self, from: IpAddr) -> Result<Place, &'static str> {
        let permit = self.handshakes.clone().try_acquire_owned().map_err(|_| "too many handshakes")?;
        let address = network_of(from);
        let mut addresses = lock(&self.addresses);
        let count = addresses.entry(address).or_default();
        if *count >= self.limits.of_address {
            return Err("too many connections of its address");
        }
        *count += 1;
        drop(addresses);
        Ok(Place { address, addresses: self.addresses.clone(), permit })
    }

    /// Lets a connection whose handshake is over through a door.
    pub fn enter(&self, place: &mut Place, door: Door) -> Result<(), &'static str> {
        let (room, what) = match door {
            Door::Api => (&self.api, "too many connections of the API"),
            Door::Join => (&self.join, "too many hosts are joining"),
        };
        place.permit = room.clone().try_acquire_owned().map_err(|_| what)?;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut addresses = lock(&self.addresses);
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

fn lock(addresses: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    addresses.lock().expect("no panic while it is held")
}

/// Whoever has one address of IPv6 usually has the 64 bits behind it.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        canonical => canonical,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places() {
        let doors = Doors::new(Limits { of_address: 2, handshakes: 5, api: 2, join: 1 });
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let arrive = |text: &str| doors.arrive(address(text));
        let mut first = arrive("10.0.0.1").expect("there is room");
        let second = arrive("::ffff:10.0.0.1").expect("there is room");
        assert_eq!(arrive("10.0.0.1").err(), Some("too many connections of its address"));
        let mut others = [arrive("2001:db8::1").expect("room"), arrive("2001:db8::2").expect("room")];
        assert_eq!(arrive("2001:db8::3").err(), Some("too many connections of its address"), "the same network");
        let mut third = arrive("2001:db8:0:1::1").expect("another network");
        assert_eq!(arrive("10.0.0.3").err(), Some("too many handshakes"));
        assert_eq!(doors.enter(&mut first, Door::Api), Ok(()));
        assert_eq!(doors.enter(&mut others[0], Door::Api), Ok(()));
        assert_eq!(doors.enter(&mut others[1], Door::Api), Err("too many connections of the API"));
        assert_eq!(doors.enter(&mut third, Door::Join), Ok(()), "who joins does not wait for people");
        assert_eq!(doors.enter(&mut others[1], Door::Join), Err("too many hosts are joining"));
        drop((first, second, others, third));
        assert!(lock(&doors.addresses).is_empty());
        assert_eq!((doors.handshakes.available_permits(), doors.api.available_permits()), (5, 2));
    }
}
