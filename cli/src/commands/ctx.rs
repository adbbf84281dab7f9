//! `wharf ctx`: the clusters that this command line knows.

use std::io::Read;

use common::{
    error::{Code, Problem},
    token::ApiToken,
};

use crate::{
    args::{Ctx, Format},
    context::{Context, Contexts},
    output,
};

/// Runs a `wharf ctx` command.
pub fn run(command: &Ctx, format: Format) -> Result<u8, Problem> {
    let mut contexts = Contexts::load()?;
    match command {
        Ctx::Ls => ls(&contexts, format),
        Ctx::Use { name } => {
            contexts.choose(Some(name))?;
            contexts.current = Some(name.clone());
            contexts.save()?;
        }
        Ctx::Add { name, servers, ca } => {
            let refuse =
                |why: String| Problem::new(Code::InvalidRequest, format!("The context {name} was not added")).why(why);
            let authority = std::fs::read_to_string(ca).map_err(|e| refuse(format!("{}: {e}", ca.display())))?;
            let root = pem::parse(&authority).map_err(|e| refuse(format!("{}: {e}", ca.display())))?;
            let cluster = link::identity::cluster_of_root(root.contents()).map_err(|e| refuse(e.to_string()))?;
            let mut token = String::new();
            std::io::stdin().take(4096).read_to_string(&mut token).map_err(|e| refuse(e.to_string()))?;
            let token: ApiToken = token
                .trim()
                .parse()
                .map_err(|e: common::token::InvalidToken| refuse(format!("the token on standard input: {e}")))?;
            contexts.add(name, Context { cluster, servers: servers.clone(), authority, token: token.reveal() });
            contexts.save()?;
        }
    }
    Ok(0)
}

fn ls(contexts: &Contexts, format: Format) {
    let names: Vec<serde_json::Value> = contexts
        .contexts
        .iter()
        .map(|(name, context)| serde_json::json!({ "name": name, "current": contexts.current.as_deref() == Some(name), "cluster": context.cluster, "servers": context.servers }))
        .collect();
    let row = |(name, context): (&String, &Context)| {
        let mark = if contexts.current.as_deref() == Some(name) { "*" } else { "" };
        let servers = context.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        vec![name.clone(), mark.to_owned(), context.cluster.to_string(), servers]
    };
    let rows = contexts.contexts.iter().map(row).collect();
    output::list(format, &names, output::Rows { head: &["NAME", "IN USE", "CLUSTER", "SERVERS"], narrow: 4, rows });
}
