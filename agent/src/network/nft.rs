//! The rules of the kernel's packet filter: ours by `nft`, and the one rule that Docker's own filter needs by
//! `iptables`. Of users' texts, names of environments alone come near: they are DNS labels by their type.

use std::{process::Stdio, time::Duration};

use agent_core::network::{BRIDGE, Rules, TABLE, TUNNEL};
use tokio::{io::AsyncWriteExt, process::Command};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Our chain, to which Docker's `DOCKER-USER` jumps.
const CHAIN: &str = "WHARF-FORWARD";
const FAMILIES: [&str; 3] = ["bridge", "ip6", "ip"];

/// Runs a program with something to read; what it said.
async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let what = |why: &dyn std::fmt::Display| format!("{program} {}: {why}", arguments.join(" "));
    let mut command = Command::new(program);
    // A service manager's PATH may be without the folders of administrators' programs.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| what(&error))?;
    let mut stdin = child.stdin.take().ok_or_else(|| what(&"it takes no input"))?;
    let work = async {
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(TIMEOUT, work).await.map_err(|_| what(&format!("not within {TIMEOUT:?}")))?;
    let output = output.map_err(|error| what(&error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(what(&String::from_utf8_lossy(&output.stderr).trim()))
}

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

/// The programs that the overlay needs and this host does not have.
pub fn missing_programs() -> Vec<&'static str> {
    ["nft", "iptables"].into_iter().filter(|program| !has(program)).collect()
}

/// Whether a program is there: what it was never there for, it has not done.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(program).exists())
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
