//! The programs of the distribution by which the host's network is set up.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use agent_core::network::tools::Tool;
use tokio::{io::AsyncWriteExt, process::Command};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a program with an input, and returns its output. An error may mean that the program could not be run at all.
pub(super) async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let output = ask(program, arguments, input).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// Runs a program with an input, and returns its output and how it ended. An error means that it did not end.
pub(super) async fn ask(program: &str, arguments: &[&str], input: &str) -> Result<Output, String> {
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
    output.map_err(|error| what(&error))
}

/// Whether a program is there. Nothing of what it does has to be removed from a host that does not have it.
pub(super) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(program).exists())
}

/// Whether this host has a tool.
pub(super) fn is_there(tool: Tool) -> bool {
    match tool {
        Tool::Nft | Tool::Iptables | Tool::Wg => has(tool.name()),
        Tool::WireguardCarrier => ["/sys/module/wireguard", "/dev/net/tun"].iter().any(|path| Path::new(path).exists()),
    }
}
