//! `wharf ps`.

use std::net::{IpAddr, SocketAddr};

use common::{
    api::{InstanceView, List},
    error::{Code, Problem},
    id::InstanceId,
    instance::{BoundPort, Observed, Phase},
    name::Name,
};

use super::Session;
use crate::output::{self, Rows};

/// Lists instances.
pub async fn ps(session: &Session, target: Option<&str>) -> Result<u8, Problem> {
    let found = find(session, target).await?;
    if let Some(target) = target.filter(|_| found.items.is_empty()) {
        output::note(format!("{target} has no instances in {}; to list the services: wharf ls", session.place()));
    }
    let row = |instance: &InstanceView| {
        let ports = instance.ports.iter().map(|port| bound(port, instance.address));
        let host = instance.host_name.as_ref().map_or_else(|| instance.host.to_string(), ToString::to_string);
        vec![
            short(&instance.id),
            instance.state.clone(),
            instance.observed.restart.to_string(),
            host,
            ports.collect::<Vec<_>>().join(" "),
            note(&instance.observed),
            instance.observed.address.map_or_else(String::new, |address| address.to_string()),
            instance.image.clone(),
            instance.revision.to_string(),
            instance.created_at.to_string(),
        ]
    };
    let rows = found.items.iter().map(row).collect();
    let head = ["INSTANCE", "STATE", "RESTARTS", "HOST", "PORTS", "NOTE", "ADDRESS", "IMAGE", "REVISION", "PLACED"];
    output::list(session.format, &found, Rows { head: &head, narrow: 6, rows });
    Ok(0)
}

/// A published port with the address that it is bound to: the requested one, else the host's own, which reaches it too.
fn bound(port: &BoundPort, host: Option<IpAddr>) -> String {
    let asked = port.spec.host_ip.filter(|address| !address.is_unspecified());
    let address = match asked.or(host) {
        Some(address) => SocketAddr::new(address, port.host).to_string(),
        None => format!(":{}", port.host),
    };
    format!("{address}→{}/{}", port.spec.container, port.spec.protocol)
}

/// The remark on an instance; for a failed one, with the last line of its output.
pub fn note(observed: &Observed) -> String {
    let last = observed.output.lines().last().filter(|_| !observed.is_serving() && observed.phase != Phase::Completed);
    let said = if observed.message.is_empty() { &observed.failure } else { &observed.message };
    match last {
        Some(line) if !said.is_empty() => format!("{said}: {line}"),
        Some(line) => line.clone(),
        None => observed.message.clone(),
    }
}

/// The id of an instance without its environment, for messages.
pub fn short(id: &InstanceId) -> String {
    let full = id.to_string();
    full.split_once('/').map_or(full.clone(), |(_, rest)| rest.to_owned())
}

/// The instances of a stack, of a service or of the whole environment.
pub async fn find(session: &Session, target: Option<&str>) -> Result<List<InstanceView>, Problem> {
    let malformed = |_| {
        Problem::new(Code::InvalidRequest, format!("{:?} is not a stack or a service", target.unwrap_or_default()))
            .fix("For example: wharf ps shop/web")
    };
    let mut parts = target.unwrap_or_default().splitn(3, '/').filter(|part| !part.is_empty());
    let mut query = String::new();
    for key in ["stack", "service"] {
        if let Some(part) = parts.next() {
            let name: Name = part.parse().map_err(malformed)?;
            query.push_str(&format!("{}{key}={name}", if query.is_empty() { "?" } else { "&" }));
        }
    }
    session.client.get(&session.in_environment(&format!("instances{query}"))).await
}

#[cfg(test)]
mod tests {
    use common::spec::{PortSpec, Protocol};

    use super::*;

    #[test]
    fn ports_are_shown_as_they_are_bound() {
        let host: Option<IpAddr> = Some([10, 0, 0, 1].into());
        let cases = [
            (Some("127.0.0.1"), Protocol::Udp, host, "127.0.0.1:18072→81/udp"),
            (Some("0.0.0.0"), Protocol::Tcp, host, "10.0.0.1:18072→81/tcp"),
            (None, Protocol::Tcp, host, "10.0.0.1:18072→81/tcp"),
            (Some("::1"), Protocol::Tcp, host, "[::1]:18072→81/tcp"),
            (None, Protocol::Udp, None, ":18072→81/udp"),
        ];
        for (asked, protocol, host, expected) in cases {
            let host_ip = asked.map(|address| address.parse().expect("an address"));
            let spec = PortSpec { container: 81, published: Some(18072), protocol, host_ip };
            assert_eq!(bound(&BoundPort { spec, host: 18072 }, host), expected);
        }
    }
}
