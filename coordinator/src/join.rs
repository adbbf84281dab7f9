//! How hosts come in: the pasted line, the script that it fetches, the exchange of a token for a
//! certificate.

use std::{
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    sync::OnceLock,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use common::{
    api::{JoinReply, JoinRequest},
    error::{Code, Problem},
    hex,
    network::{Backend, NetworkPlan},
    time::{Span, Timestamp},
    token::{JoinRole, Pin},
};
use coordinator_core::{Command, Outcome, RequestId, State, command::Admission, state::JoinTokenRecord};
use link::identity::{host_of_request, join_proof, pin_of, random_bytes, sign};
use sha2::{Digest, Sha256};

use crate::Coordinator;

/// How far the clocks of host and coordinator may be apart.
const MAX_SKEW: Span = Span::minutes(10);
/// The script; `@NAME@` stands for what is rendered.
const SCRIPT: &str = include_str!("join/join.sh");
const BINARY_PATH: &str = "/proc/self/exe";

/// The running binary, as joining hosts get it.
#[derive(Default)]
pub struct Binary {
    sha256: OnceLock<String>,
}

impl Binary {
    /// The binary of this process.
    pub fn of_this_process() -> Binary {
        Binary::default()
    }

    /// The running file, even if another has taken its place on disk.
    pub fn open(&self) -> io::Result<File> {
        File::open(BINARY_PATH)
    }

    /// Its SHA-256 in hexadecimal, computed when it is first asked for.
    pub fn sha256(&self) -> io::Result<&str> {
        if let Some(known) = self.sha256.get() {
            return Ok(known);
        }
        let (mut file, mut hasher, mut buffer) = (self.open()?, Sha256::new(), vec![0u8; 64 << 10]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        Ok(self.sha256.get_or_init(|| hex::encode(&hasher.finalize())))
    }

    /// The name that `uname -m` has for what it runs on.
    pub fn architecture() -> &'static str {
        std::env::consts::ARCH
    }
}

/// The pin of the join key, as curl writes it.
pub fn join_pin(cluster: &State) -> Option<String> {
    let identity = cluster.identity()?;
    let Pin(hash) = pin_of(&identity.authority.join_certificate).ok()?;
    Some(format!("sha256//{}", BASE64_STANDARD.encode(hash)))
}

/// The pin of the cluster's root, as tokens carry it.
pub fn root_pin(cluster: &State) -> Option<Pin> {
    pin_of(&cluster.identity()?.authority.certificate).ok()
}

/// The line to paste on a host.
pub fn install_line(pin: &str, coordinator: SocketAddr, token: &str) -> String {
    format!("curl -fsSk --pinnedpubkey '{pin}' https://{coordinator}/join | sudo sh -s -- {token}")
}

/// The same for hosts that cannot take that line.
pub fn other_ways(script: &str, coordinator: SocketAddr, token: &str) -> Vec<String> {
    let sum = hex::encode(&Sha256::digest(script));
    vec![
        format!(
            "without pinning in curl: f=$(mktemp); wget -q --no-check-certificate -O $f https://{coordinator}/join && echo \"{sum}  $f\" | sha256sum -c - && sudo sh $f {token}"
        ),
        format!(
            "without a network to the coordinator's port 7443/tcp: copy the binary, then: echo {token} | sudo wharf agent install --coordinator {coordinator} --token-file -"
        ),
    ]
}

/// The script that the line fetches.
pub fn script(coordinator: &Coordinator, cluster: &State) -> Result<String, Problem> {
    let missing = |why: String| Problem::new(Code::Internal, "The join script cannot be created").why(why);
    let pin = join_pin(cluster).ok_or_else(|| missing("the cluster does not exist yet".into()))?;
    let sum = coordinator.binary.sha256().map_err(|e| missing(e.to_string()))?;
    Ok(SCRIPT
        .replace("@PIN@", &pin)
        .replace("@ADDRESS@", &coordinator.advertise.to_string())
        .replace("@ARCH@", Binary::architecture())
        .replace("@SHA256@", sum)
        .replace("@VERSION@", env!("CARGO_PKG_VERSION")))
}

/// Admits a host, or says why not. Nothing about a token is told before the host has proved that it
/// holds the token's secret.
pub async fn admit(
    coordinator: &Coordinator,
    request: JoinRequest,
    from: std::net::IpAddr,
) -> Result<JoinReply, Problem> {
    let published = coordinator.consensus.read().await?;
    let cluster = &published.cluster;
    let identity = cluster.identity().ok_or_else(crate::raft::no_leader)?;
    check_clock(request.clock, coordinator.consensus.now())?;
    let csr = hex::decode(&request.csr)
        .filter(|csr| csr.len() <= 4096)
        .ok_or_else(|| csr_refused("it is not hexadecimal, or too long"))?;
    let host = host_of_request(&csr).map_err(|e| csr_refused(e.to_string()))?;
    let is_proven = |record: &&JoinTokenRecord| {
        hex::decode(&request.proof)
            .is_some_and(|given| same(&given, &join_proof(&record.secret, &csr, identity.id, &request.nonce)))
    };
    let role = cluster.join_tokens().get(&request.token).filter(is_proven).ok_or_else(unproven)?.role;
    check_overlay(&cluster.network(), &request)?;
    let admission = Admission { token: request.token, host, name: request.name, from, address: request.address };
    let outcome = coordinator.consensus.write(RequestId(random_bytes()), Command::Admit(Box::new(admission))).await?;
    let Outcome::Admitted { name, member } = outcome else {
        return Err(Problem::new(Code::Internal, "The host was not admitted"));
    };
    if role == JoinRole::Coordinator && member.is_none() {
        return Err(Problem::new(Code::Conflict, "The host was admitted before and is no longer a coordinator"));
    }
    let root = coordinator.seals.root(&identity.authority)?;
    let now = coordinator.consensus.now();
    let certificate = sign(&root, identity.id, &csr, member, now).map_err(|e| csr_refused(e.to_string()))?;
    Ok(JoinReply {
        cluster: identity.id,
        host,
        name,
        member,
        certificate: as_pem(&certificate),
        authority: as_pem(&identity.authority.certificate),
        coordinators: coordinator.consensus.current().cluster.members().values().map(|member| member.address).collect(),
    })
}

fn csr_refused(why: impl Into<String>) -> Problem {
    Problem::new(Code::RequestRefused, "The certificate request was refused")
        .why(why)
        .fix("Join with the script in the pasted line")
}

fn unproven() -> Problem {
    Problem::new(Code::TokenUnknown, "Token rejected: this cluster has no such token, or its secret is wrong")
        .why("it was revoked long ago, or belongs to another cluster")
        .fix("Make a new line: wharf host add")
}

fn check_clock(theirs: Timestamp, ours: Timestamp) -> Result<(), Problem> {
    let (ahead, behind) = (theirs.since(ours), ours.since(theirs));
    let apart = ahead.max(behind);
    if apart <= MAX_SKEW {
        return Ok(());
    }
    let direction = if ahead > behind { "ahead of" } else { "behind" };
    Err(Problem::new(Code::ClockSkew, "Host not admitted: its clock is wrong")
        .why(format!("it is {apart} {direction} the coordinator's; so certificates would not be valid"))
        .fix("Set the clock: timedatectl set-ntp true"))
}

/// A host that the overlay cannot reach, or not as it was asked for, is not admitted: encryption is never left out for
/// one that cannot do it.
fn check_overlay(plan: &NetworkPlan, request: &JoinRequest) -> Result<(), Problem> {
    if plan.backend == Backend::Wireguard && !request.wireguard {
        return Err(Problem::new(Code::Conflict, "Host not admitted: it cannot encrypt its packets to other hosts")
            .why("this cluster's overlay is WireGuard, and the host lacks wg, or both the kernel's WireGuard and /dev/net/tun")
            .fix("Install and load them, and paste the line again: apt-get install wireguard-tools; modprobe tun"));
    }
    if let Some(why) = plan.conflict(&request.routes) {
        return Err(Problem::new(Code::Conflict, "Host not admitted: it has a route to the cluster's own addresses")
            .why(why)
            .fix("Remove the route, and paste the line again")
            .fix("Or create a cluster with other ranges: wharf up --cluster-cidr … --service-cidr …"));
    }
    Ok(())
}

/// Compares without telling by its duration how much was alike.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0u8, |sum, (a, b)| sum | (a ^ b))) == 0
}

/// A certificate as text.
pub fn as_pem(der: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        let now = Timestamp(1_795_000_000_000);
        assert!(check_clock(now + Span::minutes(9), now).is_ok());
        let problem = check_clock(now + Span::minutes(120), now).expect_err("is refused");
        assert!(problem.to_string().contains("2h ahead of"), "{problem}");
        assert!(check_clock(now, now + Span::minutes(11)).expect_err("is refused").to_string().contains("behind"));
    }

    #[test]
    fn the_script_runs_nothing_when_it_is_cut_short() {
        // Without a single program in reach, the shell says which it was to run first.
        let runs = |script: &str| {
            let nothing = tempfile::tempdir().expect("a folder");
            let mut shell = std::process::Command::new("/bin/sh");
            shell.args(["-c", script, "join", "token"]).env("PATH", nothing.path()).current_dir(nothing.path());
            let output = shell.output().expect("there is a shell");
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(nothing.path().read_dir().expect("it is there").count(), 0, "a file was written");
            // A cut may leave a part of a word that stands outside of all functions.
            let ours = |name: &str| ["set", "fail", "main"].iter().any(|whole| whole.starts_with(name));
            let tried = |line: &str| {
                let line = line.strip_suffix(" not found")?.trim_end_matches("command").trim_end_matches([':', ' ']);
                line.rsplit(": ").next().map(str::to_owned)
            };
            said.contains("[E0") || said.lines().filter_map(tried).any(|name| !ours(&name))
        };
        assert!(runs(SCRIPT), "a run is seen");
        let last = SCRIPT.rfind("main \"$@\"").expect("everything is inside main, called on the last line");
        assert_eq!(SCRIPT[last..].trim_end(), "main \"$@\"");
        for cut in (0..last).step_by(7).chain([last]) {
            assert!(!runs(&SCRIPT[..cut]), "cut at {cut}");
        }
    }
}
