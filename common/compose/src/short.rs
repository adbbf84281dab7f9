//! Parses compose's short forms into their long forms.

use std::net::IpAddr;

/// The maximum number of ports in a range.
const MAX_RANGE: u16 = 1000;

/// The long form of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) host_ip: Option<String>,
    pub(crate) published: Option<String>,
    pub(crate) target: u16,
    pub(crate) protocol: String,
}

/// Parses `[ip:][host:]container[/protocol]`, where host and container may be ranges.
pub(crate) fn ports(text: &str) -> Result<Vec<Port>, String> {
    let refuse = |why: &str| format!("{text:?} is not a port ({why}) such as 8080:80, 127.0.0.1:53:53/udp or 80");
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !["tcp", "udp"].contains(&protocol) {
        return Err(refuse("only tcp and udp are supported"));
    }
    let (rest, container) = rest.rsplit_once(':').map_or((None, rest), |(rest, container)| (Some(rest), container));
    let (ip, host) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, Some(rest)),
            Some((ip, host)) => (Some(ip.trim_matches(['[', ']'])), Some(host)),
        },
    };
    if ip.is_some_and(|ip| ip.parse::<IpAddr>().is_err()) {
        return Err(refuse("the address is malformed"));
    }
    let (first, last) = range(container).map_err(|why| refuse(&why))?;
    let host = match host.filter(|host| !host.is_empty()) {
        None => None,
        Some(host) => Some(range(host).map_err(|why| refuse(&why))?),
    };
    if host.is_some_and(|(from, to)| to - from != last - first) {
        return Err(refuse("the two ranges differ in length"));
    }
    let port = |offset: u16| Port {
        host_ip: ip.map(str::to_owned),
        published: host.map(|(from, _)| (from + offset).to_string()),
        target: first + offset,
        protocol: protocol.to_owned(),
    };
    Ok((0..=last - first).map(port).collect())
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().map_err(|_| "a port is a number from 1 to 65535".to_owned());
    let (first, last) = (port(first)?, port(last)?);
    if last < first || last - first >= MAX_RANGE {
        return Err("the range is empty or too long".to_owned());
    }
    Ok((first, last))
}

/// The long form of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount<'a> {
    /// Absent for an anonymous volume.
    pub(crate) source: Option<&'a str>,
    pub(crate) target: &'a str,
    pub(crate) is_bind: bool,
    pub(crate) read_only: bool,
    pub(crate) no_copy: bool,
    pub(crate) selinux: Option<&'a str>,
    pub(crate) propagation: Option<&'a str>,
}

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Parses `[source:]target[:options]`.
pub(crate) fn mount(text: &str) -> Result<Mount<'_>, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => {
            return Err(format!("{text:?} is not a volume such as data:/var/lib/data or ./conf:/etc/conf:ro"));
        }
    };
    if source == Some("") || target.is_empty() {
        return Err(format!("{text:?} has an empty part before or after a colon"));
    }
    let is_bind = source.is_some_and(|source| source.starts_with(['/', '.', '~']));
    let mut mount =
        Mount { source, target, is_bind, read_only: false, no_copy: false, selinux: None, propagation: None };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            // These options are for Docker Desktop and have no effect on Linux.
            "rw" | "cached" | "delegated" | "consistent" => {}
            "nocopy" | "volume-nocopy" => mount.no_copy = true,
            "z" | "Z" => mount.selinux = Some(option),
            _ if PROPAGATIONS.contains(&option) => mount.propagation = Some(option),
            _ => {
                return Err(format!(
                    "{option:?} is not an option of a volume; the options are ro, rw, nocopy, z, Z and {}",
                    PROPAGATIONS.join(", ")
                ));
            }
        }
    }
    Ok(mount)
}

/// Parses `source[:target[:permissions]]`.
pub(crate) fn device(text: &str) -> Result<(&str, &str, Option<&str>), String> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [source] => Ok((source, source, None)),
        [source, rights] if rights.chars().all(|c| "rwm".contains(c)) => Ok((source, source, Some(rights))),
        [source, target] => Ok((source, target, None)),
        [source, target, rights] => Ok((source, target, Some(rights))),
        _ => Err(format!("{text:?} is not a device such as /dev/ttyUSB0:/dev/ttyUSB0:rw")),
    }
}

/// Parses `host:address` or `host=address`.
pub(crate) fn host(text: &str) -> Result<(&str, &str), String> {
    let both = text.split_once('=').or_else(|| text.split_once(':'));
    let (host, address) = both
        .filter(|(host, address)| !host.is_empty() && !address.is_empty())
        .ok_or_else(|| format!("{text:?} is not a host and its address, such as db.example=10.0.0.7"))?;
    Ok((host, address.trim_matches(['[', ']'])))
}

const ENDS_EARLY: &str = "the command ends in a backslash";

/// Splits a command line as a shell would split it into words, without expanding anything.
pub(crate) fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let (mut word, mut in_word, mut quote) = (String::new(), false, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('\''), c) => word.push(c),
            (Some(_), '\\') => match characters.next().ok_or(ENDS_EARLY)? {
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                '\n' => {}
                c => word.extend(['\\', c]),
            },
            (None, '\\') => {
                in_word = true;
                word.push(characters.next().ok_or(ENDS_EARLY)?);
            }
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                in_word = true;
            }
            (None, c) if c.is_whitespace() => {
                words.extend(std::mem::take(&mut in_word).then(|| std::mem::take(&mut word)));
            }
            (None, c) => {
                word.push(c);
                in_word = true;
            }
        }
    }
    if quote.is_some() {
        return Err("the command has a quote that is not closed");
    }
    words.extend(in_word.then_some(word));
    Ok(words)
}
