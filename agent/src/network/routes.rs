//! The routes that a host has besides ours.

use std::{fs, io, net::Ipv4Addr};

use common::network::HostRoute;
use ipnet::Ipv4Net;

const TABLE: &str = "/proc/net/route";
/// How the links of ours begin.
const OURS: &str = "wharf-";

/// This host's routes to ranges of addresses, but for ours and those to everywhere: the kernel's main table.
pub fn routes() -> io::Result<Vec<HostRoute>> {
    Ok(parse(&fs::read_to_string(TABLE)?))
}

/// Reads the kernel's table: after a heading, a line for each route with its link, destination, gateway, flags, three
/// counts and the mask. Addresses are hexadecimal, in the machine's own order of bytes.
fn parse(table: &str) -> Vec<HostRoute> {
    let address = |text: &str| u32::from_str_radix(text, 16).ok().map(|number| Ipv4Addr::from(number.to_ne_bytes()));
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let to = Ipv4Net::with_netmask(address(words.get(1)?)?, address(words.get(7)?)?).ok()?;
        Some(HostRoute { to, link: (*words.first()?).to_owned() })
    };
    let routes = table.lines().skip(1).filter_map(route);
    routes.filter(|route| route.to.prefix_len() > 0 && !route.link.starts_with(OURS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let number = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let line = |link: &str, to, mask| {
            format!("{link}\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n", number(to), number(mask))
        };
        let table = [
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n".to_owned(),
            line("eth0", [0, 0, 0, 0], [0, 0, 0, 0]),
            line("eth0", [10, 0, 2, 0], [255, 255, 255, 0]),
            line("vpn", [10, 42, 0, 0], [255, 255, 0, 0]),
            line("wharf-tun0", [10, 42, 1, 0], [255, 255, 255, 0]),
        ];
        let found: Vec<String> = parse(&table.concat()).iter().map(|route| route.to_string()).collect();
        assert_eq!(found, ["10.0.2.0/24 (eth0)", "10.42.0.0/16 (vpn)"]);
    }
}
