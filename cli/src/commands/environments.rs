//! `wharf env`: list, create and remove environments.

use bytes::Bytes;
use common::{
    api::{EnvironmentView, List},
    error::Problem,
    name::Name,
};
use hyper::Method;

use super::Session;
use crate::{
    args::Environment,
    output::{self, Rows},
};

/// Runs a command on environments.
pub async fn run(session: &Session, command: Environment) -> Result<u8, Problem> {
    let path = |name: &Name| format!("/api/v1/environments/{name}");
    match command {
        Environment::Ls => ls(session).await?,
        Environment::Create { name } => {
            session.client.send(Method::PUT, &path(&name), Bytes::new()).await?;
            output::note(format!("✓ environment {name} exists; to deploy into it: wharf deploy -e {name}"));
        }
        Environment::Rm { name } => {
            session.client.delete(&path(&name)).await?;
            output::note(format!("✓ environment {name} is removed"));
        }
    }
    Ok(0)
}

async fn ls(session: &Session) -> Result<(), Problem> {
    let environments: List<EnvironmentView> = session.client.get("/api/v1/environments").await?;
    let row = |environment: &EnvironmentView| {
        let stacks: Vec<String> = environment.stacks.iter().map(Name::to_string).collect();
        let guests: Vec<String> = environment.joined_by.iter().map(ToString::to_string).collect();
        vec![environment.name.to_string(), stacks.join(", "), guests.join(", "), environment.created_at.to_string()]
    };
    let rows = environments.items.iter().map(row).collect();
    let head = &["ENVIRONMENT", "STACKS", "JOINED BY", "MADE"];
    output::list(session.format, &environments, Rows { head, narrow: 3, rows });
    Ok(())
}
