//! The short spellings of compose: ports, volumes, commands.

use std::net::IpAddr;

use crate::spec::{ExposedPort, PortSpec, Protocol};

/// Most ports that one range may stand for.
const MAX_RANGE: u16 = 1000;

/// Reads `[ip:][host:]container[/protocol]`, where host and container may be ranges.
pub(super) fn ports(text: &str) -> Result<Vec<PortSpec>, String> {
    let refuse =
        |why: &str| format!("{text:?} is not a port ({why}), which looks like 8080:80, 127.0.0.1:53:53/udp or 80");
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(refuse("only tcp and udp are known")),
    };
    let (rest, container) = rest.rsplit_once(':').map_or((None, rest), |(rest, container)| (Some(rest), container));
    let (ip, host) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, Some(rest)),
            Some((ip, host)) => (Some(ip), Some(host)),
        },
    };
    let host_ip: Option<IpAddr> = match ip {
        None => None,
        Some(ip) => Some(ip.trim_matches(['[', ']']).parse().map_err(|_| refuse("the address is malformed"))?),
    };
    let range = |text: &str| -> Result<(u16, u16), String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse::<u16>().map_err(|_| refuse("a port is a number from 1 to 65535"));
        let (first, last) = (port(first)?, port(last)?);
        if last < first || last - first >= MAX_RANGE {
            Err(refuse("the range is empty or too long"))
        } else {
            Ok((first, last))
        }
    };
    let (first, last) = range(container)?;
    let host = match host.filter(|host| !host.is_empty()) {
        None => None,
        Some(host) => Some(range(host)?),
    };
    if host.is_some_and(|(from, to)| to - from != last - first) {
        return Err(refuse("the two ranges differ in length"));
    }
    let published = |offset: u16| host.map(|(from, _)| from + offset);
    Ok((0..=last - first)
        .map(|offset| PortSpec { container: first + offset, published: published(offset), protocol, host_ip })
        .collect())
}

/// Reads `container[/protocol]`, where the port may be a range.
pub(super) fn exposed(text: &str) -> Result<Vec<ExposedPort>, String> {
    if text.contains(':') {
        return Err(format!("{text:?} is more than a port of the container: \"ports\" publishes it on its host"));
    }
    let exposed = |port: PortSpec| ExposedPort { container: port.container, protocol: port.protocol };
    Ok(ports(text)?.into_iter().map(exposed).collect())
}

/// Splits a command line as a shell would split it into words, without expanding anything.
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let (mut word, mut in_word, mut quote) = (String::new(), false, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('\''), c) => word.push(c),
            (_, '\\') => {
                in_word = true;
                word.push(characters.next().ok_or_else(|| format!("{text:?} ends in a backslash"))?);
            }
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                in_word = true;
            }
            (None, c) if c.is_whitespace() => {
                if in_word {
                    words.push(std::mem::take(&mut word));
                    in_word = false;
                }
            }
            (None, c) => {
                word.push(c);
                in_word = true;
            }
        }
    }
    if quote.is_some() {
        return Err(format!("{text:?} has a quote that is not closed"));
    }
    if in_word {
        words.push(word);
    }
    Ok(words)
}
