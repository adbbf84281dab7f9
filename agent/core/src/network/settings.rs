//! Values of the kernel that the overlay needs, as files below `/proc` and `/sys`.

use super::{BRIDGE, TUNNEL};

/// A value that the kernel must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its file.
    pub path: String,
    /// The value.
    pub value: &'static str,
    /// Whether it is no error if the kernel has no such file.
    pub may_lack: bool,
}

impl Setting {
    fn of_network(name: &str, value: &'static str) -> Setting {
        Setting { path: format!("/proc/sys/net/{name}"), value, may_lack: false }
    }
}

/// The values for a bridge with these ports.
pub fn bridge_settings(ports: &[String]) -> Vec<Setting> {
    // Containers of this host reach each other by way of its routing, which answers for all of them at once.
    let routing = [("proxy_arp_pvlan", "conf", "1"), ("proxy_delay", "neigh", "0"), ("send_redirects", "conf", "0")];
    let routing =
        routing.map(|(name, kind, value)| Setting::of_network(&format!("ipv4/{kind}/{BRIDGE}/{name}"), value));
    // An instance that asks for its own service may be led to itself. A port may go away meanwhile.
    let hairpin = ports.iter().map(|port| Setting {
        path: format!("/sys/class/net/{BRIDGE}/brif/{port}/hairpin_mode"),
        value: "1",
        may_lack: true,
    });
    let forwarding = Setting::of_network("ipv4/ip_forward", "1");
    routing.into_iter().chain(hairpin).chain([forwarding]).collect()
}

/// The value for the overlay's link, which carries IPv4 alone. A kernel without IPv6 does not have it.
pub fn tunnel_setting() -> Setting {
    Setting { may_lack: true, ..Setting::of_network(&format!("ipv6/conf/{TUNNEL}/disable_ipv6"), "1") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_these_values() {
        let found = bridge_settings(&["veth1".to_owned(), "veth2".to_owned()]);
        let found: Vec<_> = found.iter().chain([&tunnel_setting()]).cloned().collect();
        let found: Vec<_> = found.iter().map(|it| (it.path.as_str(), it.value, it.may_lack)).collect();
        assert_eq!(
            found,
            [
                ("/proc/sys/net/ipv4/conf/wharf-br0/proxy_arp_pvlan", "1", false),
                ("/proc/sys/net/ipv4/neigh/wharf-br0/proxy_delay", "0", false),
                ("/proc/sys/net/ipv4/conf/wharf-br0/send_redirects", "0", false),
                ("/sys/class/net/wharf-br0/brif/veth1/hairpin_mode", "1", true),
                ("/sys/class/net/wharf-br0/brif/veth2/hairpin_mode", "1", true),
                ("/proc/sys/net/ipv4/ip_forward", "1", false),
                ("/proc/sys/net/ipv6/conf/wharf-tun0/disable_ipv6", "1", true),
            ]
        );
    }
}
