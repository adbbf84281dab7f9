//! Messages to a host's DNS: whatever comes from a container, deciding what to answer does not panic, and an answer is
//! one that resolvers take.
//!
//! The first byte says whence and how it came; the others are the message.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use agent::{
    dns::{Asked, Reply, decide},
    known::Known,
};
use common::{
    assignment::Assignment,
    directory::{Directory, Endpoint, Listing, Reach},
    id::{ClusterId, HostId},
    network::{Network, NetworkPlan, Overlay},
};
use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;
use tokio::sync::watch;

/// More than answers by UDP may have.
const LARGEST_BY_UDP: usize = 1232;

thread_local! {
    static KNOWN: Known = known();
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, message)) = bytes.split_first() else { return };
    let by = if how & 1 == 0 { Asked::ByUdp } else { Asked::ByTcp };
    // An instance, one that reaches nothing outside, a stranger of the overlay, a stranger.
    let froms = [[10, 42, 0, 2], [10, 42, 0, 251], [10, 42, 9, 9], [192, 168, 0, 9]];
    let from = IpAddr::from(froms[usize::from(how >> 1) % froms.len()]);
    let answer = match KNOWN.with(|known| decide(known, message, from, by)) {
        Reply::Silence => return,
        Reply::Answer(answer) => answer,
        Reply::Elsewhere(elsewhere) => elsewhere.unanswered,
    };
    let largest = if by == Asked::ByUdp { LARGEST_BY_UDP } else { usize::from(u16::MAX) };
    assert!(answer.len() <= largest, "an answer of {} bytes", answer.len());
    assert_eq!(answer[..2], message[..2], "it has the question's id");
    assert!(answer[2] & 0x80 != 0, "it is an answer");
    let read = Message::from_vec(&answer).expect("it can be read");
    assert!(read.queries.len() <= 1 || read.answers.is_empty(), "one question is answered");
});

/// Two services of one stack: one with many instances, and one that reaches nothing outside.
fn known() -> Known {
    let mut directory = Directory::default();
    let web = Listing { ports: vec![(80, common::spec::Protocol::Tcp)], replicas: Some(200), ..Listing::default() };
    directory.put_service("default/shop/web".parse().expect("an id"), Some(web));
    let inside = Listing { reach: Reach { is_internal: true, ..Reach::default() }, ..Listing::default() };
    directory.put_service("default/shop/db".parse().expect("an id"), Some(inside));
    for number in 0..200u8 {
        let endpoint = Endpoint { address: Ipv4Addr::new(10, 42, 0, 2 + number), serves: true };
        let id = format!("default/shop/web/{}.1", number + 1).parse().expect("an id");
        directory.put_instance(id, Some(endpoint));
    }
    let endpoint = Endpoint { address: Ipv4Addr::new(10, 42, 0, 251), serves: true };
    directory.put_instance("default/shop/db/1.1".parse().expect("an id"), Some(endpoint));
    let plan = NetworkPlan::default();
    let own = plan.subnets().next().expect("it has some");
    let mut assignment = Assignment::nothing(ClusterId([1; 10]), HostId([2; 10]));
    assignment.generation = 1;
    assignment.network = Network::Overlay(Overlay { plan, own });
    // Whoever has a receiver keeps the last value also without its sender.
    Known {
        assignment: watch::channel(assignment).1,
        directory: watch::channel(directory).1,
        residents: watch::channel(None).1,
    }
}
