//! The rules of the kernel's packet filter: ours by `nft`, and the one rule that Docker's own filter needs by
//! `iptables`. Of users' texts, names of environments alone come near: they are DNS labels by their type.

use agent_core::network::{BRIDGE, Rules, TABLE, TUNNEL};

use super::program::{has, run};

/// Our chain, to which Docker's `DOCKER-USER` jumps.
const CHAIN: &str = "WHARF-FORWARD";
const FAMILIES: [&str; 3] = ["bridge", "ip6", "ip"];

/// Our tables as the kernel shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// What is the same whatever instances there are.
    pub(super) fixed: String,
    /// What changes as they come and go.
    live: String,
}

/// Our tables as they are in the kernel.
pub(super) async fn list() -> Result<Listed, String> {
    // Several tables cannot be asked for at once: nft 1.0.6 then finds none but the last.
    let all = run("nft", &["-s", "list", "ruleset"], "").await?;
    Ok(own_tables(&all))
}

/// Of a ruleset, what is in our tables. A table begins and ends at the left margin, a chain, set or map one step
/// to the right.
fn own_tables(ruleset: &str) -> Listed {
    let heads = FAMILIES.map(|family| format!("table {family} {TABLE} {{"));
    let (mut is_own, mut is_live) = (false, false);
    let mut listed = Listed::default();
    for line in ruleset.lines() {
        if line.starts_with("table ") {
            is_own = heads.iter().any(|head| head == line);
        }
        // An empty line stands between two chains, whosever they are.
        if !is_own || line.is_empty() {
            continue;
        }
        let head = line.strip_prefix('\t').filter(|rest| !rest.starts_with('\t'));
        let name = head.and_then(|head| head.strip_suffix(" {")).and_then(|head| head.split(' ').nth(1));
        if let Some(name) = name {
            is_live = Rules::is_live(name);
        }
        let part = if is_live { &mut listed.live } else { &mut listed.fixed };
        part.push_str(line);
        part.push('\n');
        is_live &= head != Some("}");
    }
    listed
}

/// Loads rules in one transaction.
pub(super) async fn load(rules: &str) -> Result<(), String> {
    run("nft", &["-f", "-"], rules).await.map(drop)
}

/// Removes our tables; those that are not there are no error.
pub(super) async fn remove() -> Result<(), String> {
    if !has("nft") {
        return Ok(());
    }
    let commands =
        FAMILIES.iter().map(|family| format!("table {family} {TABLE} {{}}\ndelete table {family} {TABLE}\n"));
    load(&commands.collect::<String>()).await
}

async fn iptables(arguments: &[&str]) -> Result<String, String> {
    run("iptables", &[&["-w"], arguments].concat(), "").await
}

/// Lets what comes through the overlay reach containers: Docker's filter drops what is not its own.
pub(super) async fn admit_overlay() -> Result<(), String> {
    let rules = iptables(&["-S"]).await?;
    let has = |rule: &str| rules.lines().any(|line| line == rule);
    let accept = ["-i", TUNNEL, "-o", BRIDGE, "-j", "ACCEPT"];
    if !has("-N DOCKER-USER") {
        // Old Docker makes it with its first network only.
        iptables(&["-N", "DOCKER-USER"]).await?;
    }
    if !has("-A FORWARD -j DOCKER-USER") {
        iptables(&["-I", "FORWARD", "-j", "DOCKER-USER"]).await?;
    }
    if !has(&format!("-N {CHAIN}")) {
        iptables(&["-N", CHAIN]).await?;
    }
    if !has(&format!("-A {CHAIN} {}", accept.join(" "))) {
        iptables(&[&["-A", CHAIN], accept.as_slice()].concat()).await?;
    }
    if !has(&format!("-A DOCKER-USER -j {CHAIN}")) {
        iptables(&["-I", "DOCKER-USER", "-j", CHAIN]).await?;
    }
    Ok(())
}

/// Removes our chain and the jump to it.
pub(super) async fn forget_overlay() -> Result<(), String> {
    if !has("iptables") {
        return Ok(());
    }
    let rules = iptables(&["-S"]).await?;
    if rules.lines().any(|line| line == format!("-A DOCKER-USER -j {CHAIN}")) {
        iptables(&["-D", "DOCKER-USER", "-j", CHAIN]).await?;
    }
    if rules.lines().any(|line| line == format!("-N {CHAIN}")) {
        iptables(&["-F", CHAIN]).await?;
        iptables(&["-X", CHAIN]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_ruleset_only_our_tables_are_looked_at() {
        let ruleset = "table ip nat {\n\tchain x {\n\t}\n}\ntable ip wharf {\n\tset peers {\n\t}\n\n\tchain service-1 {\n\t\ta\n\t}\n\n\
                       \tchain post {\n\t\tb\n\t}\n}\ntable ip6 wharf {\n}\ntable inet wharf {\n}\ntable ip wharf2 {\n}\n";
        let Listed { fixed, live } = own_tables(ruleset);
        assert_eq!(live, "\tchain service-1 {\n\t\ta\n\t}\n");
        assert_eq!(
            fixed,
            "table ip wharf {\n\tset peers {\n\t}\n\tchain post {\n\t\tb\n\t}\n}\ntable ip6 wharf {\n}\n"
        );
    }
}
