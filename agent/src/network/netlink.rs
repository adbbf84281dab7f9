//! Links, neighbours and routes of the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
};

use agent_core::network::{
    BRIDGE, Binding, Carrier, Change, HostNetwork, Observed, ObservedTunnel, PORT, PROTOCOL, Residents, Route, TUNNEL,
    Tunnel, Underlay, VNI, Vxlan,
};
use common::network::{NetworkPlan, Subnet};
use futures::{StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkUnspec, LinkVxlan, LinkWireguard, RouteMessageBuilder,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::AddressAttribute,
        link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        nsid::{NsidAttribute, NsidMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope},
    },
};
use tokio::task::JoinHandle;

use super::wireguard::{self, Shown};
use crate::tunnel;

/// "No such device", as the kernel says it.
const ENODEV: i32 = -19;
/// "Operation not supported": the kernel knows no such kind of link.
const EOPNOTSUPP: i32 = -95;
/// "No such file or directory", of neighbours, and "no such process", of routes.
const GONE: [i32; 3] = [ENODEV, -2, -3];

const UNREADABLE: &str = "the overlay cannot be read";

/// A conversation with the kernel.
pub(super) struct Netlink {
    handle: Handle,
    conversation: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.conversation.abort();
    }
}

/// The text of an error, with the request.
fn failed(what: &str) -> impl Fn(rtnetlink::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// Whether the kernel said one of those.
fn said(error: &rtnetlink::Error, codes: &[i32]) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if codes.contains(&message.raw_code()))
}

/// Whether the kernel said that there is no such thing.
fn is_gone(error: &rtnetlink::Error) -> bool {
    said(error, &GONE)
}

impl Netlink {
    pub(super) fn open() -> io::Result<Netlink> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Netlink { handle, conversation: tokio::spawn(connection) })
    }

    /// Where an address of this host is.
    pub(super) async fn underlay(&self, address: Ipv4Addr) -> Result<Underlay, String> {
        let what = failed("the host's addresses cannot be read");
        let all: Vec<_> = self.handle.address().get().execute().try_collect().await.map_err(&what)?;
        let has = |attribute: &AddressAttribute| *attribute == AddressAttribute::Address(IpAddr::V4(address));
        let found = all.iter().find(|message| message.attributes.iter().any(has));
        let link = found.map(|message| message.header.index).ok_or_else(|| {
            format!("no interface of this host has {address}, at which others reach it (--advertise sets that address)")
        })?;
        let mut links = self.handle.link().get().match_index(link).execute();
        let message = links.try_next().await.map_err(&what)?.ok_or("the network interface is gone")?;
        Ok(Underlay { link, address, mtu: mtu_of(&message) })
    }

    /// The addresses of this host, but for those that it has for itself alone.
    pub(super) async fn own_addresses(&self) -> Result<BTreeSet<Ipv4Addr>, String> {
        let what = failed("the host's addresses cannot be read");
        let all: Vec<_> = self.handle.address().get().execute().try_collect().await.map_err(&what)?;
        let local = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) if !address.is_loopback() => Some(*address),
            _ => None,
        };
        Ok(all.iter().flat_map(|message| &message.attributes).filter_map(local).collect())
    }

    /// Whether Docker's bridge is there.
    pub(super) async fn has_bridge(&self) -> Result<bool, String> {
        Ok(self.link(BRIDGE).await?.is_some())
    }

    async fn link(&self, name: &str) -> Result<Option<LinkMessage>, String> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found {
            Err(error) if is_gone(&error) => Ok(None),
            found => found.map_err(failed("network interfaces cannot be read")),
        }
    }

    async fn tunnel_index(&self) -> Result<u32, String> {
        let link = self.link(TUNNEL).await?.ok_or_else(|| format!("{TUNNEL} is gone"))?;
        Ok(link.header.index)
    }

    /// The bindings of the residents that run. One whose process has just ended has none.
    pub(super) async fn bindings(&self, residents: &Residents) -> Result<BTreeSet<Binding>, String> {
        let Some(bridge) = self.link(BRIDGE).await? else { return Ok(BTreeSet::new()) };
        let mut ports: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(failed("network interfaces cannot be read"))? {
            if let Some((namespace, name)) = port_of(&link, bridge.header.index) {
                ports.entry(namespace).or_default().push(name);
            }
        }
        let mut bindings = BTreeSet::new();
        for (address, resident) in residents {
            let Some(sender) = resident.sender else { continue };
            let Some(namespace) = self.namespace_of(sender.process).await? else { continue };
            let ports = ports.get(&namespace).into_iter().flatten();
            bindings.extend(ports.filter_map(|port| Binding::new(port, sender.hardware_address, *address)));
        }
        Ok(bindings)
    }

    /// The number by which this host's links say that their other end is in a process' network namespace.
    async fn namespace_of(&self, process: u32) -> Result<Option<i32>, String> {
        let what = failed("network namespaces cannot be read");
        let mut question = NsidMessage::default();
        question.attributes.push(NsidAttribute::Pid(process));
        let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
        question.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.clone().request(question).map_err(&what)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::Error(error) => {
                    let error = rtnetlink::Error::NetlinkError(error);
                    return if is_gone(&error) { Ok(None) } else { Err(what(error)) };
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) => {
                    let number = |attribute: &NsidAttribute| match attribute {
                        NsidAttribute::Id(number) => Some(*number),
                        _ => None,
                    };
                    return Ok(message.attributes.iter().find_map(number));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// The kernel's actual state, but for the rules. A link with that address is ready.
    pub(super) async fn observe(&self, own: Subnet) -> Result<Observed, String> {
        let mut observed = Observed::default();
        let Some(link) = self.link(TUNNEL).await? else { return Ok(observed) };
        let index = link.header.index;
        let what = failed(UNREADABLE);
        let addresses: Vec<_> =
            self.handle.address().get().set_link_index_filter(index).execute().try_collect().await.map_err(&what)?;
        let own = AddressAttribute::Address(IpAddr::V4(own.host()));
        let has_address = addresses.iter().flat_map(|message| &message.attributes).any(|attribute| *attribute == own);
        let is_up = link.header.flags.contains(LinkFlags::Up);
        let shown = if is_wireguard(&link) { wireguard::show().await? } else { None };
        let carrier = match &shown {
            Some(Shown { key, .. }) => Some(Carrier::Wireguard { key: *key }),
            None => vxlan_of(&link),
        };
        let is = carrier.map(|carrier| Tunnel { carrier, mtu: mtu_of(&link) });
        observed.tunnel = Some(ObservedTunnel { is, is_ready: is_up && has_address });
        observed.wireguard = shown.map(|shown| shown.peers).unwrap_or_default();
        observed.vxlan = self.vxlan(index).await?;
        let mut routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        while let Some(message) = routes.try_next().await.map_err(&what)? {
            observed.routes.extend(route_of(&message, index));
        }
        Ok(observed)
    }

    /// The peers that VXLAN knows by a link.
    async fn vxlan(&self, index: u32) -> Result<Vxlan, String> {
        let mut known = Vxlan::default();
        for family in [AddressFamily::Bridge, AddressFamily::Inet] {
            let mut entries = self.handle.neighbours().get().set_address_family(family).execute();
            while let Some(message) = entries.try_next().await.map_err(failed(UNREADABLE))? {
                // The kernel forwards frames by entries whatever their state; a neighbour that it has learnt by itself is
                // not ours.
                let counts = family == AddressFamily::Bridge || message.header.state == NeighbourState::Permanent;
                if message.header.ifindex != index || !counts {
                    continue;
                }
                let (Some(to), Some(hardware)) = (address_of(&message), hardware_of(&message)) else { continue };
                match (family, to) {
                    (AddressFamily::Bridge, to) => drop(known.forwarding.insert(hardware, to)),
                    (_, IpAddr::V4(to)) => drop(known.neighbours.insert(to, hardware)),
                    (_, IpAddr::V6(_)) => {}
                }
            }
        }
        Ok(known)
    }

    /// Makes one change, unless it is one of rules or of `wg`.
    pub(super) async fn apply(&self, change: &Change, wanted: &HostNetwork) -> Result<(), String> {
        let what = format!("{change:?}");
        let made = match change {
            Change::LoadRules | Change::Admit(_) | Change::Dismiss(_) => Ok(()),
            Change::RemoveTunnel => return self.remove_tunnel().await,
            Change::MakeTunnel => return self.make_tunnel(wanted.tunnel).await,
            Change::ReadyTunnel => return self.ready_tunnel(wanted.own).await,
            Change::Forward(subnet, underlay) => self.forward(self.tunnel_index().await?, *subnet, *underlay).await,
            Change::ForgetForward(hardware, underlay) => {
                let mut message = neighbour_message(self.tunnel_index().await?, AddressFamily::Bridge, *underlay);
                message.header.flags = NeighbourFlags::Own;
                message.attributes.push(NeighbourAttribute::LinkLayerAddress(hardware.to_vec()));
                self.handle.neighbours().del(message).execute().await
            }
            Change::Neighbour(subnet) => self.neighbour(self.tunnel_index().await?, *subnet).await,
            Change::ForgetNeighbour(address) => {
                let message = neighbour_message(self.tunnel_index().await?, AddressFamily::Inet, IpAddr::V4(*address));
                self.handle.neighbours().del(message).execute().await
            }
            Change::AddRoute(route) => {
                let message = route_message(*route, self.tunnel_index().await?, wanted.own);
                self.handle.route().add(message).replace().execute().await
            }
            Change::RemoveRoute(route) => {
                let message = route_message(*route, self.tunnel_index().await?, wanted.own);
                self.handle.route().del(message).execute().await
            }
        };
        let forgets = matches!(change, Change::ForgetForward(..) | Change::ForgetNeighbour(_) | Change::RemoveRoute(_));
        match made {
            Err(error) if forgets && is_gone(&error) => Ok(()),
            made => made.map_err(failed(&what)),
        }
    }

    /// Makes the overlay's link: of WireGuard without a key yet, by a process of our own if the kernel has none.
    async fn make_tunnel(&self, tunnel: Tunnel) -> Result<(), String> {
        let what = failed("the overlay's interface cannot be created");
        let message = match tunnel.carrier {
            Carrier::Vxlan { link, address, own } => {
                let vxlan = LinkVxlan::new(TUNNEL, VNI).dev(link).local(address).port(PORT).learning(false);
                vxlan.address(own.hardware_address().to_vec()).build()
            }
            Carrier::Wireguard { .. } => LinkWireguard::new(TUNNEL).build(),
        };
        match self.handle.link().add(message).execute().await {
            Err(error) if said(&error, &[EOPNOTSUPP]) && is_encrypted(tunnel) => tunnel::start(TUNNEL).await?,
            made => made.map_err(&what)?,
        }
        let sized = LinkUnspec::new_with_index(self.tunnel_index().await?).mtu(tunnel.mtu).build();
        self.handle.link().set(sized).execute().await.map_err(what)
    }

    /// Gives the overlay's link its address, and switches it on.
    async fn ready_tunnel(&self, own: Subnet) -> Result<(), String> {
        let what = failed("ReadyTunnel");
        let index = self.tunnel_index().await?;
        let own = IpAddr::V4(own.host());
        self.handle.address().add(index, own, 32).replace().execute().await.map_err(&what)?;
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.map_err(what)
    }

    /// Sets the address to which a link sends frames for a peer.
    async fn forward(&self, link: u32, peer: Subnet, underlay: IpAddr) -> Result<(), rtnetlink::Error> {
        let hardware = peer.hardware_address();
        let entry = self.handle.neighbours().add_bridge(link, &hardware).destination(underlay);
        entry.flags(NeighbourFlags::Own).replace().execute().await
    }

    /// Sets the hardware address of a peer.
    async fn neighbour(&self, link: u32, peer: Subnet) -> Result<(), rtnetlink::Error> {
        let entry = self.handle.neighbours().add(link, IpAddr::V4(peer.host()));
        entry.link_layer_address(&peer.hardware_address()).replace().execute().await
    }

    /// Removes the overlay's link, and with it all peers and routes.
    pub(super) async fn remove_tunnel(&self) -> Result<(), String> {
        let Some(link) = self.link(TUNNEL).await? else { return Ok(()) };
        match self.handle.link().del(link.header.index).execute().await {
            Err(error) if is_gone(&error) => Ok(()),
            removed => removed.map_err(failed("the overlay's interface cannot be removed")),
        }
    }
}

fn mtu_of(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None });
    mtu.unwrap_or(1500)
}

/// A port of a bridge, with the number of the network namespace where its other end is.
fn port_of(link: &LinkMessage, bridge: u32) -> Option<(i32, String)> {
    if !link.attributes.contains(&LinkAttribute::Controller(bridge)) {
        return None;
    }
    let namespace =
        link.attributes.iter().find_map(|a| if let LinkAttribute::LinkNetNsId(n) = a { Some(*n) } else { None });
    let name =
        link.attributes.iter().find_map(|a| if let LinkAttribute::IfName(n) = a { Some(n.clone()) } else { None });
    Some((namespace?, name?))
}

fn is_encrypted(tunnel: Tunnel) -> bool {
    matches!(tunnel.carrier, Carrier::Wireguard { .. })
}

fn infos_of(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes.iter().flat_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.as_slice(),
        _ => &[],
    })
}

/// Whether a link may be WireGuard's: the kernel's, or that of a process.
fn is_wireguard(link: &LinkMessage) -> bool {
    infos_of(link).any(|info| matches!(info, LinkInfo::Kind(InfoKind::Wireguard | InfoKind::Tun)))
}

/// The carrier of a link, if it is one of VXLAN as we make it.
fn vxlan_of(link: &LinkMessage) -> Option<Carrier> {
    let vxlan = infos_of(link).find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(vxlan)) => Some(vxlan),
        _ => None,
    })?;
    let is_ours = [InfoVxlan::Id(VNI), InfoVxlan::Port(PORT), InfoVxlan::Learning(false)];
    if !is_ours.iter().all(|wanted| vxlan.contains(wanted)) {
        return None;
    }
    let over = vxlan.iter().find_map(|v| if let InfoVxlan::Link(link) = v { Some(*link) } else { None })?;
    let address = vxlan.iter().find_map(|v| if let InfoVxlan::Local(address) = v { Some(*address) } else { None })?;
    let hardware = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    })?;
    let own =
        Subnet(Ipv4Net::new([hardware[2], hardware[3], hardware[4], hardware[5]].into(), NetworkPlan::SUBNET).ok()?);
    (own.hardware_address() == hardware).then_some(Carrier::Vxlan { link: over, address, own })
}

fn address_of(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        // The family of a forwarding entry is not that of its address.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            let short = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            short.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        }
        _ => None,
    })
}

fn hardware_of(message: &NeighbourMessage) -> Option<[u8; 6]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

fn neighbour_message(link: u32, family: AddressFamily, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message
}

fn route_message(route: Route, link: u32, own: Subnet) -> RouteMessage {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.to.network(), route.to.prefix_len())
        .output_interface(link)
        .protocol(RouteProtocol::Other(PROTOCOL));
    match route.through {
        Some(gateway) => message.gateway(gateway).onlink().build(),
        None => message.pref_source(own.host()).scope(RouteScope::Link).build(),
    }
}

/// A route of ours into the overlay's link.
fn route_of(message: &RouteMessage, link: u32) -> Option<Route> {
    if message.header.protocol != RouteProtocol::Other(PROTOCOL)
        || !message.attributes.contains(&RouteAttribute::Oif(link))
    {
        return None;
    }
    let inet = |address: &RouteAddress| if let RouteAddress::Inet(address) = address { Some(*address) } else { None };
    let (mut to, mut through) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = inet(address),
            RouteAttribute::Gateway(address) => through = inet(address),
            _ => {}
        }
    }
    let to = Ipv4Net::new(to?, message.header.destination_prefix_length).ok()?;
    Some(Route { to, through })
}
