//! The tables of rules, as `nft -f` takes them.

use std::{collections::BTreeSet, net::Ipv4Addr};

use common::network::{NetworkPlan, Overlay, Peers, Subnet};

use super::{BRIDGE, METADATA_PORT, PORT, TABLE, TUNNEL, bindings};
use crate::metadata::ADDRESS as METADATA;

/// Marks packets to services and to published ports: where the kernel shows bridged packets to the rules of IP
/// (br_netfilter), one that is led to a container of the same host goes on along the bridge.
const TO_SERVICE: &str = "0x01000000";

/// All of them. Each is replaced as a whole and in one transaction, so no packet meets half of them.
pub(super) fn tables(overlay: Overlay, peers: &Peers) -> String {
    let Overlay { plan, own } = overlay;
    let underlays = elements(peers.values().map(|peer| peer.underlay));
    let addresses: Vec<Ipv4Addr> = peers.keys().chain([&own]).map(|subnet| subnet.host()).collect();
    let (sets, chains, bound) = (sets(&underlays, &elements(addresses.iter())), chains(&plan, own), bindings::table());
    format!(
        "\
table bridge {TABLE} {{}}
delete table bridge {TABLE}
table bridge {TABLE} {{
{bound}    # Containers of a host reach each other by way of the host's routing: rules are in one place.
    chain forward {{
        type filter hook forward priority -200;
        meta mark & {TO_SERVICE} == {TO_SERVICE} accept
        ip saddr {own} drop
        ip daddr {own} drop
        arp daddr ip {own} drop
    }}
}}
table ip6 {TABLE} {{}}
delete table ip6 {TABLE}
table ip6 {TABLE} {{
    chain forward {{
        type filter hook forward priority -10;
        iifname {{ \"{BRIDGE}\", \"{TUNNEL}\" }} drop
    }}
}}
table ip {TABLE} {{}}
delete table ip {TABLE}
table ip {TABLE} {{
    {sets}    {chains}}}
"
    )
}

fn sets(underlays: &str, hosts: &str) -> String {
    format!(
        "\
    set peers {{
        type ipv4_addr
{underlays}    }}
    set hosts {{
        type ipv4_addr
{hosts}    }}
    # A container that is led to itself must not be answered around the host.
    set itself {{
        type ipv4_addr . ipv4_addr
    }}
    # What reaches nothing outside the cluster.
    set internal {{
        type ipv4_addr
    }}
    # What may call programs of the host.
    set callers {{
        type ipv4_addr
    }}
    # What services on hosts' own networks listen on.
    set host-ports {{
        type ipv4_addr . inet_proto . inet_service
    }}
    # The addresses of the cluster's hosts, and what is published there.
    set known-hosts {{
        type ipv4_addr
    }}
    set published-ports {{
        type ipv4_addr . inet_proto . inet_service
    }}
    map services {{
        type ipv4_addr : verdict
    }}
    map environments {{
        type ipv4_addr : verdict
    }}
"
    )
}

fn chains(plan: &NetworkPlan, own: Subnet) -> String {
    [led(plan, own), passed_on(plan), received(plan, own)].concat()
}

/// Where packets come in or begin: which source addresses are genuine, and where services and published ports lead.
fn led(plan: &NetworkPlan, own: Subnet) -> String {
    let (containers, services, host, gateway) = (plan.containers, plan.services, own.host(), own.gateway());
    format!(
        "\
    # A packet must come from the side on which the owner of its source address lives.
    chain raw-in {{
        type filter hook prerouting priority -300;
        iifname != \"lo\" udp dport {PORT} ip saddr != @peers drop
        iifname \"{BRIDGE}\" ip saddr != {own} drop
        iifname \"{BRIDGE}\" ip saddr {{ {host}, {gateway} }} drop
        iifname != {{ \"lo\", \"{BRIDGE}\", \"{TUNNEL}\" }} ip saddr {containers} drop
        iifname \"{TUNNEL}\" ip saddr {own} drop
        iifname \"{BRIDGE}\" ip daddr {services} meta mark set meta mark | {TO_SERVICE}
        iifname \"{BRIDGE}\" fib daddr type local meta mark set meta mark | {TO_SERVICE}
    }}
    # A connection to a service is led to an instance on the host where it begins.
    chain to-service {{
        type nat hook prerouting priority -100;
        iifname \"{BRIDGE}\" ip daddr vmap @services
        iifname \"{BRIDGE}\" ip daddr {METADATA} tcp dport 80 dnat to {gateway}:{METADATA_PORT}
        iifname \"{BRIDGE}\" ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
        iifname \"{BRIDGE}\" fib daddr type local goto published
    }}
    # A connection to a published port of its own host keeps its source address, whether Docker has a proxy or not.
    chain published {{
    }}
    chain own-to-service {{
        type nat hook output priority -100;
        ip daddr vmap @services
    }}
    chain output {{
        type filter hook output priority -10;
        ip daddr {services} reject with tcp reset
        ip daddr {services} reject
        # While no route leads through the overlay, packets for containers do not leave by another.
        oifname != {{ \"lo\", \"{BRIDGE}\", \"{TUNNEL}\" }} ip daddr {containers} reject with icmp net-unreachable
    }}
"
    )
}

/// The rules for packets that pass through the host, from containers and to them.
fn passed_on(plan: &NetworkPlan) -> String {
    let (containers, services) = (plan.containers, plan.services);
    format!(
        "\
    chain forward {{
        type filter hook forward priority -10;
        tcp flags syn tcp option maxseg size set rt mtu
        ct state established,related accept
        iifname \"{BRIDGE}\" ip saddr @internal oifname != {{ \"{BRIDGE}\", \"{TUNNEL}\" }} goto inside
        iifname \"{BRIDGE}\" ip saddr @internal ct status & dnat == dnat ct original ip daddr != {services} goto inside
        iifname {{ \"{BRIDGE}\", \"{TUNNEL}\" }} ip daddr @known-hosts goto to-host
        iifname {{ \"{BRIDGE}\", \"{TUNNEL}\" }} oifname {{ \"{BRIDGE}\", \"{TUNNEL}\" }} ip daddr {containers} goto between
        ip daddr {services} reject with tcp reset
        ip daddr {services} reject
        # No other way leads to a container: a packet that reaches none of ours does not leave.
        iifname {{ \"{BRIDGE}\", \"{TUNNEL}\" }} ip daddr {containers} reject with icmp net-unreachable
        oifname \"{BRIDGE}\" ct status & dnat == dnat accept
        oifname \"{BRIDGE}\" drop
    }}
    # An instance that may reach nothing outside the cluster gets a refusal.
    chain inside {{
        meta l4proto tcp reject with tcp reset
        reject with icmp admin-prohibited
    }}
    # Of another host, containers reach what is published there, as they do of their own.
    chain to-host {{
        ip daddr . meta l4proto . th dport @published-ports accept
        ip daddr . meta l4proto . th dport @host-ports accept
        icmp type echo-request accept
        drop
    }}
    # An instance of no environment yet gets no answer, so that it asks again; one of another environment is refused.
    chain between {{
        ip saddr @hosts accept
        ip daddr & 0.0.0.255 == 0.0.0.1 meta l4proto {{ tcp, udp }} th dport 53 accept
        ct status & dnat == dnat ct original ip daddr != {services} accept
        ip saddr vmap @environments
        drop
    }}
"
    )
}

/// The rules for packets that the host itself receives, and the source address of those that leave it.
fn received(plan: &NetworkPlan, own: Subnet) -> String {
    let (containers, services, gateway) = (plan.containers, plan.services, own.gateway());
    format!(
        "\
    # Of a host, containers reach DNS and what is published.
    chain input {{
        type filter hook input priority -10;
        iifname != {{ \"{BRIDGE}\", \"{TUNNEL}\" }} accept
        iifname \"{TUNNEL}\" ip saddr @hosts accept
        ct state established,related accept
        ct status & dnat == dnat accept
        ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
        ip daddr {gateway} icmp type echo-request accept
        ip saddr @callers ip daddr {gateway} accept
        ip saddr != @internal ip daddr . meta l4proto . th dport @host-ports accept
        drop
    }}
    chain post {{
        type nat hook postrouting priority 100;
        ip saddr . ip daddr @itself masquerade
        ip saddr {own} ip daddr != {{ {containers}, {services} }} oifname != {{ \"{BRIDGE}\", \"{TUNNEL}\" }} masquerade
    }}
"
    )
}

/// The elements of a set: none has no such line.
fn elements<A: Ord + ToString>(addresses: impl Iterator<Item = A>) -> String {
    let sorted: BTreeSet<A> = addresses.collect();
    if sorted.is_empty() {
        return String::new();
    }
    let list: Vec<String> = sorted.iter().map(A::to_string).collect();
    format!("        elements = {{ {} }}\n", list.join(", "))
}
