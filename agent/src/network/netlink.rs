//! Links, neighbours and routes of the kernel.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use agent_core::network::{
    BRIDGE, Change, OVERHEAD, Observed, ObservedTunnel, PORT, PROTOCOL, Route, TUNNEL, Tunnel, Underlay, VNI,
};
use common::network::{NetworkPlan, Subnet};
use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope},
    },
};
use tokio::task::JoinHandle;

/// "No such device", as the kernel says it.
const ENODEV: i32 = -19;
/// "No such file or directory", of neighbours, and "no such process", of routes.
const GONE: [i32; 3] = [ENODEV, -2, -3];

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

/// What went wrong, with what was asked.
fn failed(what: &str) -> impl Fn(rtnetlink::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// Whether the kernel said that there is no such thing.
fn is_gone(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if GONE.contains(&message.raw_code()))
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
            format!(
                "no link of this host has {address}, under which others reach it (--advertise says which one it is)"
            )
        })?;
        let mut links = self.handle.link().get().match_index(link).execute();
        let message = links.try_next().await.map_err(&what)?.ok_or("the link is gone")?;
        Ok(Underlay { link, address, mtu: mtu_of(&message) })
    }

    /// Whether Docker's bridge is there.
    pub(super) async fn has_bridge(&self) -> Result<bool, String> {
        Ok(self.link(BRIDGE).await?.is_some())
    }

    async fn link(&self, name: &str) -> Result<Option<LinkMessage>, String> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found {
            Err(error) if is_gone(&error) => Ok(None),
            found => found.map_err(failed("links cannot be read")),
        }
    }

    async fn tunnel_index(&self) -> Result<u32, String> {
        let link = self.link(TUNNEL).await?.ok_or_else(|| format!("{TUNNEL} is gone"))?;
        Ok(link.header.index)
    }

    /// What the kernel holds of ours, but for the rules.
    pub(super) async fn observe(&self) -> Result<Observed, String> {
        let mut observed = Observed::default();
        let Some(link) = self.link(TUNNEL).await? else { return Ok(observed) };
        let index = link.header.index;
        let is = tunnel_of(&link);
        let what = failed("the overlay cannot be read");
        let addresses: Vec<_> =
            self.handle.address().get().set_link_index_filter(index).execute().try_collect().await.map_err(&what)?;
        let own = is.map(|tunnel| AddressAttribute::Address(IpAddr::V4(tunnel.own.host())));
        let has_address = addresses.iter().flat_map(|message| &message.attributes).any(|a| Some(a) == own.as_ref());
        let is_up = link.header.flags.contains(LinkFlags::Up);
        observed.tunnel = Some(ObservedTunnel { is, is_ready: is_up && has_address });

        for family in [AddressFamily::Bridge, AddressFamily::Inet] {
            let mut entries = self.handle.neighbours().get().set_address_family(family).execute();
            while let Some(message) = entries.try_next().await.map_err(&what)? {
                // Frames are forwarded by entries whatever their state; a neighbour that the kernel has learnt by
                // itself is not ours.
                let counts = family == AddressFamily::Bridge || message.header.state == NeighbourState::Permanent;
                if message.header.ifindex != index || !counts {
                    continue;
                }
                let (Some(to), Some(hardware)) = (address_of(&message), hardware_of(&message)) else { continue };
                match (family, to) {
                    (AddressFamily::Bridge, to) => drop(observed.forwarding.insert(hardware, to)),
                    (_, IpAddr::V4(to)) => drop(observed.neighbours.insert(to, hardware)),
                    (_, IpAddr::V6(_)) => {}
                }
            }
        }
        let mut routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        while let Some(message) = routes.try_next().await.map_err(&what)? {
            observed.routes.extend(route_of(&message, index));
        }
        Ok(observed)
    }

    /// Makes one change; the rules are not netlink's.
    pub(super) async fn apply(&self, change: &Change, tunnel: Tunnel) -> Result<(), String> {
        let what = format!("{change:?}");
        let made = match change {
            Change::LoadRules => Ok(()),
            Change::RemoveTunnel => return self.remove_tunnel().await,
            Change::MakeTunnel => self.handle.link().add(link_message(tunnel)).execute().await,
            Change::ReadyTunnel => {
                let index = self.tunnel_index().await?;
                let own = IpAddr::V4(tunnel.own.host());
                self.handle.address().add(index, own, 32).replace().execute().await.map_err(failed(&what))?;
                let up = LinkUnspec::new_with_index(index).up().build();
                self.handle.link().set(up).execute().await
            }
            Change::Forward(subnet, underlay) => {
                let index = self.tunnel_index().await?;
                let hardware = subnet.hardware_address();
                let entry = self.handle.neighbours().add_bridge(index, &hardware).destination(*underlay);
                entry.flags(NeighbourFlags::Own).replace().execute().await
            }
            Change::ForgetForward(hardware, underlay) => {
                let mut message = neighbour_message(self.tunnel_index().await?, AddressFamily::Bridge, *underlay);
                message.header.flags = NeighbourFlags::Own;
                message.attributes.push(NeighbourAttribute::LinkLayerAddress(hardware.to_vec()));
                self.handle.neighbours().del(message).execute().await
            }
            Change::Neighbour(subnet) => {
                let index = self.tunnel_index().await?;
                let entry = self.handle.neighbours().add(index, IpAddr::V4(subnet.host()));
                entry.link_layer_address(&subnet.hardware_address()).replace().execute().await
            }
            Change::ForgetNeighbour(address) => {
                let message = neighbour_message(self.tunnel_index().await?, AddressFamily::Inet, IpAddr::V4(*address));
                self.handle.neighbours().del(message).execute().await
            }
            Change::AddRoute(route) => {
                let message = route_message(*route, self.tunnel_index().await?, tunnel);
                self.handle.route().add(message).replace().execute().await
            }
            Change::RemoveRoute(route) => {
                let message = route_message(*route, self.tunnel_index().await?, tunnel);
                self.handle.route().del(message).execute().await
            }
        };
        let forgets = matches!(change, Change::ForgetForward(..) | Change::ForgetNeighbour(_) | Change::RemoveRoute(_));
        match made {
            Err(error) if forgets && is_gone(&error) => Ok(()),
            made => made.map_err(failed(&what)),
        }
    }

    /// Removes the overlay's link, and with it all that leads into it.
    pub(super) async fn remove_tunnel(&self) -> Result<(), String> {
        let Some(link) = self.link(TUNNEL).await? else { return Ok(()) };
        match self.handle.link().del(link.header.index).execute().await {
            Err(error) if is_gone(&error) => Ok(()),
            removed => removed.map_err(failed("the overlay's link cannot be removed")),
        }
    }
}

fn mtu_of(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None });
    mtu.unwrap_or(1500)
}

fn link_message(tunnel: Tunnel) -> LinkMessage {
    LinkVxlan::new(TUNNEL, VNI)
        .dev(tunnel.underlay.link)
        .local(tunnel.underlay.address)
        .port(PORT)
        .learning(false)
        .mtu(tunnel.mtu())
        .address(tunnel.own.hardware_address().to_vec())
        .build()
}

/// What a link is, if it is an overlay's as we make it.
fn tunnel_of(link: &LinkMessage) -> Option<Tunnel> {
    let infos = link.attributes.iter().find_map(|a| if let LinkAttribute::LinkInfo(i) = a { Some(i) } else { None })?;
    let vxlan = infos.iter().find_map(|info| match info {
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
    let underlay = Underlay { link: over, address, mtu: mtu_of(link) + OVERHEAD };
    (own.hardware_address() == hardware).then_some(Tunnel { underlay, own })
}

fn address_of(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        // Of a forwarding entry the family says nothing of the address.
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

fn route_message(route: Route, link: u32, tunnel: Tunnel) -> RouteMessage {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.to.network(), route.to.prefix_len())
        .output_interface(link)
        .protocol(RouteProtocol::Other(PROTOCOL));
    match route.through {
        Some(gateway) => message.gateway(gateway).onlink().build(),
        None => message.pref_source(tunnel.own.host()).scope(RouteScope::Link).build(),
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
