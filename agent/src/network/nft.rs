//! The rules of the kernel's packet filter: ours by `nft`, and the one rule that Docker's own filter needs by
//! `iptables`. Of users' texts, only names of environments and networks occur in them: they are DNS labels by
//! their type.

use agent_core::network::{
    FAMILIES, Listed, TABLE,
    docker_filter::{Call, admitting, removing},
};

use super::program::{has, run};

/// Our tables as they are in the kernel.
pub(super) async fn list() -> Result<Listed, String> {
    // One call for several tables does not work: nft 1.0.6 then finds none but the last.
    let all = run("nft", &["-s", "list", "ruleset"], "").await?;
    Ok(Listed::of(&all))
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

/// Lets packets of the overlay pass Docker's own filter.
pub(super) async fn admit_overlay() -> Result<(), String> {
    change_filter(admitting).await
}

/// Removes our chain and the jump to it.
pub(super) async fn forget_overlay() -> Result<(), String> {
    if has("iptables") { change_filter(removing).await } else { Ok(()) }
}

async fn change_filter(calls: fn(&str) -> Vec<Call>) -> Result<(), String> {
    for call in calls(&iptables(&["-S"]).await?) {
        iptables(&call).await?;
    }
    Ok(())
}
