//! The one rule that Docker's own filter needs: it drops what comes through the overlay, because that is not its own.
//! Docker leaves the chain `DOCKER-USER` to others, so a jump from there leads to a chain of ours.

use super::{BRIDGE, TUNNEL};

const CHAIN: &str = "WHARF-FORWARD";

/// The arguments of one call of `iptables`.
pub type Call = Vec<&'static str>;

/// The calls that let packets of the overlay reach containers, by what `iptables -S` lists.
pub fn admitting(listed: &str) -> Vec<Call> {
    let lacks = |rule: &str| listed.lines().all(|line| line != rule);
    let accept = ["-i", TUNNEL, "-o", BRIDGE, "-j", "ACCEPT"];
    let mut calls = Vec::new();
    if lacks("-N DOCKER-USER") {
        // Old Docker makes it with its first network only.
        calls.push(vec!["-N", "DOCKER-USER"]);
    }
    if lacks("-A FORWARD -j DOCKER-USER") {
        calls.push(vec!["-I", "FORWARD", "-j", "DOCKER-USER"]);
    }
    if lacks(&format!("-N {CHAIN}")) {
        calls.push(vec!["-N", CHAIN]);
    }
    if lacks(&format!("-A {CHAIN} {}", accept.join(" "))) {
        calls.push([["-A", CHAIN].as_slice(), accept.as_slice()].concat());
    }
    if lacks(&format!("-A DOCKER-USER -j {CHAIN}")) {
        calls.push(vec!["-I", "DOCKER-USER", "-j", CHAIN]);
    }
    calls
}

/// The calls that remove our chain and the jump to it, by what `iptables -S` lists.
pub fn removing(listed: &str) -> Vec<Call> {
    let has = |rule: String| listed.lines().any(|line| line == rule);
    let mut calls = Vec::new();
    if has(format!("-A DOCKER-USER -j {CHAIN}")) {
        calls.push(vec!["-D", "DOCKER-USER", "-j", CHAIN]);
    }
    if has(format!("-N {CHAIN}")) {
        calls.extend([vec!["-F", CHAIN], vec!["-X", CHAIN]]);
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n";
    const OURS: &str = "-N WHARF-FORWARD\n-A DOCKER-USER -j WHARF-FORWARD\n";
    const ACCEPT: &str = "-A WHARF-FORWARD -i wharf-tun0 -o wharf-br0 -j ACCEPT\n";

    fn joined(calls: Vec<Call>) -> Vec<String> {
        calls.into_iter().map(|call| call.join(" ")).collect()
    }

    #[test]
    fn only_the_rules_that_are_missing_are_added() {
        let (accept, jump) =
            ("-A WHARF-FORWARD -i wharf-tun0 -o wharf-br0 -j ACCEPT", "-I DOCKER-USER -j WHARF-FORWARD");
        let docker = ["-N DOCKER-USER", "-I FORWARD -j DOCKER-USER"];
        for (listed, expected) in [
            ("", [docker.as_slice(), &["-N WHARF-FORWARD", accept, jump]].concat()),
            (DOCKER, vec!["-N WHARF-FORWARD", accept, jump]),
            (&[DOCKER, OURS].concat(), vec![accept]),
            (&[DOCKER, "-N WHARF-FORWARD\n", ACCEPT].concat(), vec![jump]),
            (&[DOCKER, OURS, ACCEPT].concat(), vec![]),
            // The filter was flushed, and its chains stay.
            ("-N DOCKER-USER\n-N WHARF-FORWARD\n", vec![docker[1], accept, jump]),
        ] {
            assert_eq!(joined(admitting(listed)), expected, "{listed}");
        }
    }

    #[test]
    fn only_the_rules_that_are_there_are_removed() {
        let jump = "-D DOCKER-USER -j WHARF-FORWARD";
        for (listed, expected) in [
            ("", vec![]),
            (DOCKER, vec![]),
            (&[DOCKER, OURS, ACCEPT].concat(), vec![jump, "-F WHARF-FORWARD", "-X WHARF-FORWARD"]),
            (&[DOCKER, "-N WHARF-FORWARD\n"].concat(), vec!["-F WHARF-FORWARD", "-X WHARF-FORWARD"]),
        ] {
            assert_eq!(joined(removing(listed)), expected, "{listed}");
        }
    }
}
