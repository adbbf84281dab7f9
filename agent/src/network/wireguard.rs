//! WireGuard: the link by the kernel, or by a process of our own where the kernel has none ([`crate::tunnel`]). Both are
//! read and configured by the program `wg`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use agent_core::network::{PORT, TUNNEL, Wireguard, WireguardPeer, tools::ENCRYPTION};
use base64::{Engine, prelude::BASE64_STANDARD};
use common::{network::WireguardKey, secret::Secret};
use gotatun::x25519::{PublicKey, StaticSecret};
use link::{file, identity::random_bytes};
use tokio::net::UdpSocket;
use tracing::warn;

use super::program::{ask, has, is_there, run};

/// Where the host's key lies in the state folder.
const FILE: &str = "wireguard.key";
/// The port of a service that discards everything (RFC 863).
const DISCARD: u16 = 9;
/// Most peers in a command.
const MOST: usize = 500;

/// The host's own key. It never leaves the host; `wg` reads it from its file.
#[derive(Debug, Clone)]
pub struct OwnKey {
    /// The public key, by which other hosts know it.
    public: WireguardKey,
    file: PathBuf,
}

impl OwnKey {
    /// Reads it from a state folder, or makes it there. It replaces a damaged one: others receive the new one.
    pub fn load_or_make(state: &Path) -> io::Result<OwnKey> {
        let file = state.join(FILE);
        let known = file::read(&file)?.map(|text| read_secret(&text));
        if known.as_ref().is_some_and(Option::is_none) {
            warn!(file = %file.display(), "the host's WireGuard key is damaged; creating a new one");
        }
        let secret = match known.flatten() {
            Some(secret) => secret,
            None => {
                let secret = Secret::new(random_bytes());
                file::replace(&file, BASE64_STANDARD.encode(secret.expose()).as_bytes())?;
                secret
            }
        };
        let public = PublicKey::from(&StaticSecret::from(*secret.expose()));
        Ok(OwnKey { public: WireguardKey(public.to_bytes()), file })
    }

    /// Removes it from a state folder: a copy of a disk has the key of the original.
    pub fn forget(state: &Path) -> io::Result<()> {
        file::if_there(std::fs::remove_file(state.join(FILE))).map(drop)
    }

    /// The public key, if this host can encrypt with it now.
    pub fn usable(&self) -> Option<WireguardKey> {
        ENCRYPTION.iter().all(|tool| is_there(*tool)).then_some(self.public)
    }
}

/// The secret in a file as `wg genkey` writes it.
fn read_secret(text: &[u8]) -> Option<Secret<[u8; 32]>> {
    let bytes = BASE64_STANDARD.decode(text.trim_ascii()).ok()?;
    bytes.try_into().ok().map(Secret::new)
}

/// The configuration of the link: its key, and its peers.
pub(super) struct Shown {
    pub(super) key: WireguardKey,
    pub(super) peers: Wireguard,
}

/// Reads the configuration of the link; none if it does not answer, or is none of ours.
pub(super) async fn show() -> Result<Option<Shown>, String> {
    if !has("wg") {
        return Err("wg is missing: apt-get install wireguard-tools".to_owned());
    }
    // A link is replaced only after `wg` has reported an error: a timeout is no reason to cut connections.
    let output = ask("wg", &["show", TUNNEL, "dump"], "").await?;
    if !output.status.success() {
        warn!(why = %String::from_utf8_lossy(&output.stderr).trim(), "the overlay's interface does not answer");
        return Ok(None);
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads the output of `wg show dump`: the link's private and public key, its port and its mark; for each peer its key, a
/// shared one, its endpoint, its ranges, and counts.
fn parse(dump: &str) -> Option<Shown> {
    let mut lines = dump.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let own = lines.next()?;
    let (key, port) = (own.get(1)?.parse().ok()?, own.get(2)?.parse::<u16>().ok()?);
    let peer = |words: Vec<&str>| {
        let key = words.first()?.parse().ok()?;
        let allowed = words.get(3)?.split(',').filter_map(|range| range.parse().ok()).collect();
        Some((key, WireguardPeer { endpoint: words.get(2)?.parse().ok(), allowed }))
    };
    (port == PORT).then(|| Shown { key, peers: Wireguard(lines.filter_map(peer).collect()) })
}

/// Gives the link its key and its port.
pub(super) async fn set_up(key: &OwnKey) -> Result<(), String> {
    let (file, port) = (key.file.display().to_string(), PORT.to_string());
    run("wg", &["set", TUNNEL, "listen-port", &port, "private-key", &file], "").await.map(drop)
}

/// Sets the peers that may speak, with their endpoints and ranges.
pub(super) async fn admit(peers: &BTreeMap<WireguardKey, WireguardPeer>) -> Result<(), String> {
    let words = |(key, peer): (&WireguardKey, &WireguardPeer)| {
        let endpoint = peer.endpoint.map(|endpoint| ["endpoint".to_owned(), endpoint.to_string()]);
        let allowed: Vec<String> = peer.allowed.iter().map(ToString::to_string).collect();
        let theirs = ["allowed-ips".to_owned(), allowed.join(",")];
        ["peer".to_owned(), key.to_string()].into_iter().chain(endpoint.into_iter().flatten()).chain(theirs).collect()
    };
    set(peers.iter().map(words).collect()).await
}

/// Removes the peers with those keys.
pub(super) async fn dismiss(keys: &BTreeSet<WireguardKey>) -> Result<(), String> {
    set(keys.iter().map(|key| vec!["peer".to_owned(), key.to_string(), "remove".to_owned()]).collect()).await
}

/// Sends an empty packet to each peer, so that both ends agree on new keys at once: a peer that still has earlier ones
/// would use them until it has waited for an answer for 15 seconds.
pub(super) async fn greet(peers: &BTreeMap<WireguardKey, WireguardPeer>) -> Result<(), String> {
    let greeting = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        for host in peers.values().filter_map(|peer| peer.allowed.first()) {
            socket.send_to(&[], (host.network(), DISCARD)).await?;
        }
        io::Result::Ok(())
    };
    greeting.await.map_err(|error| format!("peers cannot be contacted: {error}"))
}

/// Sets something for each of some peers.
async fn set(peers: Vec<Vec<String>>) -> Result<(), String> {
    for some in peers.chunks(MOST) {
        let words = ["set", TUNNEL].into_iter().chain(some.iter().flatten().map(String::as_str));
        run("wg", &words.collect::<Vec<_>>(), "").await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wg_shows_is_read() {
        let (own, other) = (WireguardKey([1; 32]), WireguardKey([2; 32]));
        let dump = |port: u16| {
            format!(
                "{own}\t{own}\t{port}\toff\n\
                 {other}\t(none)\t10.0.0.2:8472\t10.42.1.0/24\t1700000000\t148\t92\toff\n\
                 {own}\t(none)\t(none)\t(none)\t0\t0\t0\toff\n"
            )
        };
        let shown = parse(&dump(PORT)).expect("it is ours");
        assert_eq!(shown.key, own);
        let range = "10.42.1.0/24".parse().expect("a range");
        let known = WireguardPeer { endpoint: "10.0.0.2:8472".parse().ok(), allowed: vec![range] };
        let unknown = WireguardPeer { endpoint: None, allowed: vec![] };
        assert_eq!(shown.peers.0, [(other, known), (own, unknown)].into());
        assert!(parse(&dump(51820)).is_none(), "it listens elsewhere");
        assert!(parse("(none)\t(none)\t8472\toff\n").is_none(), "it has no key");
    }

    #[test]
    fn a_key_is_made_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = OwnKey::load_or_make(folder.path()).expect("it is made");
        let read = OwnKey::load_or_make(folder.path()).expect("it is read");
        assert_eq!(made.public, read.public);
        // The pair of RFC 7748, section 6.1.
        let secret = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        std::fs::write(folder.path().join(FILE), secret).expect("it is written");
        let known = OwnKey::load_or_make(folder.path()).expect("it is read");
        assert_eq!(known.public.to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        std::fs::write(folder.path().join(FILE), "?").expect("it is written");
        let replaced = OwnKey::load_or_make(folder.path()).expect("it is replaced");
        assert!(replaced.public != known.public);
    }
}
