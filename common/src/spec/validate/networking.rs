//! Checks of a service's network settings.

use super::{super::attachment::is_host_name, Check, MAX_JOINS, cut};
use crate::{
    name::Name,
    spec::{ContainerSpec, NetworkMode, ServiceSpec},
};

/// The maximum number of aliases of a service on a network.
const MAX_ALIASES: usize = 50;
/// The maximum number of extra lines in a container's `/etc/hosts`.
const MAX_HOSTS: usize = 200;
/// Resolvers use at most three servers (resolv.conf(5)).
const MAX_SERVERS: usize = 3;
/// The maximum number of search domains, and of resolver options.
const MAX_WORDS: usize = 32;

impl Check<'_> {
    pub(super) fn networking(&mut self, service: &ServiceSpec) {
        let container = &service.container;
        self.names(container);
        if service.networks.len() > MAX_JOINS {
            self.refuse(
                "networks",
                format!("it has {} networks, and at most {MAX_JOINS} are allowed", service.networks.len()),
            );
        }
        for (name, attachment) in &service.networks {
            if attachment.aliases.len() > MAX_ALIASES {
                self.refuse(&format!("networks.{name}.aliases"), format!("there are more than {MAX_ALIASES}"));
            }
        }
        let mode = match service.network_mode {
            NetworkMode::Cluster => {
                if service.is_internal() && !service.ports.is_empty() {
                    self.refuse("ports", "a service whose networks are all internal cannot be reached from outside");
                }
                return;
            }
            NetworkMode::None => "none",
            NetworkMode::Host => "host",
        };
        if !service.networks.is_empty() || !service.joins.is_empty() {
            self.refuse("networks", format!("with network_mode {mode} a service cannot be on networks"));
        }
        for (index, port) in service.ports.iter().enumerate() {
            if service.network_mode == NetworkMode::None {
                self.refuse(&format!("ports[{index}]"), "with network_mode none its ports cannot be reached");
            } else if port.published != Some(port.container) || port.host_ip.is_some() {
                let (port, what) = (port.container, "the program listens on the host's port directly");
                self.refuse(&format!("ports[{index}]"), format!("with network_mode host {what}: write {port}:{port}"));
            }
        }
        let has_net = container.tuning.sysctls.keys().any(|key| key.starts_with("net."));
        if service.network_mode == NetworkMode::Host && has_net {
            self.refuse("sysctls", "with network_mode host, net.* parameters belong to the host: set them there");
        }
    }

    /// Refuses settings that only the main container can have, because the other parts share its network.
    pub(super) fn shares_network(&mut self, container: &ContainerSpec, main: &Name) {
        let said = [
            ("hostname", container.hostname.is_some()),
            ("domainname", container.domainname.is_some()),
            ("dns", !container.resolver.servers.is_empty()),
            ("dns_search", !container.resolver.search.is_empty()),
            ("dns_opt", !container.resolver.options.is_empty()),
            ("extra_hosts", !container.extra_hosts.is_empty()),
            ("sysctls", container.tuning.sysctls.keys().any(|key| key.starts_with("net."))),
        ];
        for (field, _) in said.into_iter().filter(|(_, is_said)| *is_said) {
            self.refuse(field, format!("it shares the network of {main}: set it there"));
        }
    }

    fn names(&mut self, container: &ContainerSpec) {
        let resolver = &container.resolver;
        if resolver.servers.len() > MAX_SERVERS {
            self.refuse("dns", format!("resolvers use at most {MAX_SERVERS} servers"));
        }
        if let Some(own) = resolver.servers.iter().find(|server| server.is_loopback() || server.is_unspecified()) {
            self.refuse("dns", format!("the host cannot reach a DNS server at {own}"));
        }
        for (field, words) in [("dns_search", &resolver.search), ("dns_opt", &resolver.options)] {
            let is_bad = |word: &String| word.is_empty() || word.len() > 253 || word.contains(char::is_whitespace);
            if words.len() > MAX_WORDS || words.iter().any(is_bad) {
                self.refuse(
                    field,
                    format!("there are more than {MAX_WORDS}, or one contains a space or is longer than 253 bytes"),
                );
            }
        }
        if container.extra_hosts.len() > MAX_HOSTS {
            self.refuse("extra_hosts", format!("there are more than {MAX_HOSTS}"));
        }
        for host in container.extra_hosts.iter().filter(|host| !is_host_name(&host.name)) {
            self.refuse("extra_hosts", format!("{:?} is not a host name", cut(&host.name)));
        }
    }
}
