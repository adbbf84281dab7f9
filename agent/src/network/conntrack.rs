//! The connections that the kernel remembers, by ctnetlink (linux/netfilter/nfnetlink_conntrack.h). The agent looks
//! through them when rules have become stricter. All calls block.

use std::{io, net::Ipv4Addr, time::Duration};

use agent_core::network::Flow;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, netlink::SocketAddrNetlink, recv,
        send, socket_with, sockopt,
    },
};

/// `NFNL_SUBSYS_CTNETLINK`, as it stands in a message's type.
const CTNETLINK: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST`, `NLM_F_ACK` and `NLM_F_DUMP`.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
/// The attributes that the agent reads.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const SOURCE: u16 = 1;
const DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// Flags in an attribute's type.
const ATTRIBUTE_FLAGS: u16 = 0xc000;
/// The lengths of a netlink message's header, and of netfilter's after it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
/// The room for one answer of the kernel, in bytes.
const BUFFER: usize = 64 << 10;
/// The kernel answers at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Has the kernel forget the connections over IPv4 that are stale; returns their number.
pub(super) fn forget(is_stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let kernel = Kernel::open()?;
    let mut stale = Vec::new();
    kernel.ask(GET, REQUEST | DUMP, &[], |message| {
        if let Some((flow, name)) = connection(message)
            && is_stale(&flow)
        {
            stale.push(name);
        }
    })?;
    for name in &stale {
        match kernel.ask(DELETE, REQUEST | ACKNOWLEDGE, name, |_| {}) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
            other => other?,
        }
    }
    Ok(stale.len())
}

struct Kernel(rustix::fd::OwnedFd);

impl Kernel {
    fn open() -> io::Result<Kernel> {
        let (family, kind, protocol) = (AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER));
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(TIMEOUT))?;
        Ok(Kernel(socket))
    }

    /// Sends a request, and passes on the parts of the answer until the last one.
    fn ask(&self, kind: u16, flags: u16, attributes: &[u8], mut hear: impl FnMut(&[u8])) -> io::Result<()> {
        let length = u32::try_from(HEADER + FAMILY_HEADER + attributes.len()).map_err(io::Error::other)?;
        let mut request = Vec::new();
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend([0; 8]);
        let family = u8::try_from(AddressFamily::INET.as_raw()).map_err(io::Error::other)?;
        request.extend([family, 0, 0, 0]);
        request.extend(attributes);
        send(&self.0, &request, SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let (received, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            for message in Parts::messages(&buffer[..received]) {
                match message {
                    (DONE, _) => return Ok(()),
                    (ERROR, rest) => return acknowledged(rest),
                    (_, rest) => hear(rest.get(FAMILY_HEADER..).unwrap_or_default()),
                }
            }
        }
    }
}

/// The error in an answer of the type `NLMSG_ERROR`: 0 is none.
fn acknowledged(rest: &[u8]) -> io::Result<()> {
    let code = rest.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

/// A connection of a dump, and the attributes that name it.
fn connection(message: &[u8]) -> Option<(Flow, Vec<u8>)> {
    let find = |wanted: u16| Parts::attributes(message).find(|(kind, _)| kind & !ATTRIBUTE_FLAGS == wanted);
    let ((_, original), (_, reply)) = (find(TUPLE_ORIGINAL)?, find(TUPLE_REPLY)?);
    let flow = Flow {
        from: address(original, SOURCE)?,
        to: address(original, DESTINATION)?,
        to_port: port(original, DESTINATION_PORT),
        answered_by: address(reply, SOURCE)?,
        answering_port: port(reply, SOURCE_PORT),
        protocol: *nested(nested(original, TUPLE_PROTOCOL)?, PROTOCOL_NUMBER)?.first()?,
    };
    let mut name = Vec::new();
    for (kind, content) in [TUPLE_ORIGINAL, ZONE, ID].into_iter().filter_map(find) {
        let length = u16::try_from(content.len() + 4).ok()?;
        name.extend(length.to_ne_bytes());
        name.extend(kind.to_ne_bytes());
        name.extend(content);
        name.resize(name.len().next_multiple_of(4), 0);
    }
    Some((flow, name))
}

fn nested(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut found = Parts::attributes(attributes).filter(|(kind, _)| kind & !ATTRIBUTE_FLAGS == wanted);
    found.next().map(|(_, content)| content)
}

fn address(tuple: &[u8], which: u16) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = nested(nested(tuple, TUPLE_ADDRESSES)?, which)?.try_into().ok()?;
    Some(bytes.into())
}

/// A port, which not every protocol has; they come in the order of the network.
fn port(tuple: &[u8], which: u16) -> u16 {
    let content = nested(tuple, TUPLE_PROTOCOL).and_then(|protocol| nested(protocol, which));
    content.and_then(|content| content.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

/// Parts that follow each other, each with its length and type before it, at steps of four bytes.
struct Parts<'a> {
    rest: &'a [u8],
    /// How many bytes the length has: four of a message, two of an attribute.
    width: usize,
    header: usize,
}

impl<'a> Parts<'a> {
    fn messages(rest: &'a [u8]) -> Parts<'a> {
        Parts { rest, width: 4, header: HEADER }
    }

    fn attributes(rest: &'a [u8]) -> Parts<'a> {
        Parts { rest, width: 2, header: 4 }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = match self.width {
            4 => usize::try_from(u32::from_ne_bytes(*self.rest.first_chunk()?)).ok()?,
            _ => usize::from(u16::from_ne_bytes(*self.rest.first_chunk()?)),
        };
        let kind = u16::from_ne_bytes(*self.rest.get(self.width..)?.first_chunk()?);
        // A part that claims to be shorter than its own header would never end.
        let content = self.rest.get(self.header..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(content.len() + 4).expect("it is short").to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(kind: u16, (from, from_port): ([u8; 4], u16), (to, to_port): ([u8; 4], u16)) -> Vec<u8> {
        let addresses = [attribute(SOURCE, &from), attribute(DESTINATION, &to)].concat();
        let port = |which, port: u16| attribute(which, &port.to_be_bytes());
        let ports = [port(SOURCE_PORT, from_port), port(DESTINATION_PORT, to_port)].concat();
        let protocol = [attribute(PROTOCOL_NUMBER, &[17]), ports].concat();
        let nested = 0x8000;
        attribute(
            kind | nested,
            &[attribute(TUPLE_ADDRESSES | nested, &addresses), attribute(TUPLE_PROTOCOL | nested, &protocol)].concat(),
        )
    }

    #[test]
    fn a_connection_is_read_and_named() {
        let (from, to, by) = ([10, 42, 0, 2], [10, 43, 0, 1], [10, 42, 1, 3]);
        let (original, id) = (tuple(TUPLE_ORIGINAL, (from, 9), (to, 5300)), attribute(ID, &[1, 2, 3, 4]));
        let reply = tuple(TUPLE_REPLY, (by, 53), (from, 9));
        let message = [original.clone(), reply, attribute(3, &[0; 4]), id.clone()].concat();
        let (flow, name) = connection(&message).expect("it is whole");
        let (from, to, answered_by) = (from.into(), to.into(), by.into());
        assert_eq!(flow, Flow { from, to, to_port: 5300, answered_by, answering_port: 53, protocol: 17 });
        assert_eq!(name, [original, id].concat());
        for length in 0..message.len() {
            // A message that is cut off is no connection, or the same one.
            assert!(connection(&message[..length]).is_none_or(|(found, _)| found == flow));
        }
        assert_eq!(Parts::attributes(&[0; 8]).count(), 0, "a length of nothing is an end");
    }
}
