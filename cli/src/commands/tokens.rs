//! API tokens and registries.

use std::io::Read;

use common::{
    api::{ApiTokenCreated, ApiTokenView, CreateApiToken, List, PutRegistry, RegistryView},
    error::{Code, Problem},
    name::Name,
};
use hyper::Method;

use super::Session;
use crate::{
    args::{Registry, Token},
    output::{self, Rows},
};

/// Runs a command on API tokens.
pub async fn tokens(session: &Session, command: Token) -> Result<u8, Problem> {
    match command {
        Token::Ls => {
            let tokens: List<ApiTokenView> = session.client.get("/api/v1/api-tokens").await?;
            let row = |token: &ApiTokenView| {
                vec![
                    token.id.to_string(),
                    token.name.to_string(),
                    token.grant.role.to_string(),
                    environments_of(token),
                    token.created_at.to_string(),
                ]
            };
            let rows = tokens.items.iter().map(row).collect();
            output::list(
                session.format,
                &tokens,
                Rows { head: &["ID", "FOR", "ROLE", "ENVIRONMENTS", "MADE"], narrow: 5, rows },
            );
        }
        Token::Create { name, role } => {
            let environments = (!session.environments.is_empty()).then(|| session.environments.clone());
            let asked = CreateApiToken { name, role, environments };
            let created: ApiTokenCreated = session.client.send_json(Method::POST, "/api/v1/api-tokens", &asked).await?;
            output::note(format!(
                "A token with the role {role} for {}. This is shown once:",
                match created.view.grant.environments {
                    Some(_) => format!("{} alone", environments_of(&created.view)),
                    None => "the whole cluster".to_owned(),
                }
            ));
            output::line(&created.token);
        }
        Token::Rm { token } => session.client.delete(&format!("/api/v1/api-tokens/{token}")).await?,
    }
    Ok(0)
}

/// Where a token holds, for a column.
fn environments_of(token: &ApiTokenView) -> String {
    match &token.grant.environments {
        Some(names) => names.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
        None => "all".to_owned(),
    }
}

/// Runs a command on registries.
pub async fn registries(session: &Session, command: Registry) -> Result<u8, Problem> {
    match command {
        Registry::Ls => {
            let registries: List<RegistryView> = session.client.get("/api/v1/registries").await?;
            let rows = registries
                .items
                .iter()
                .map(|registry| vec![registry.registry.clone(), registry.username.clone()])
                .collect();
            output::list(session.format, &registries, Rows { head: &["REGISTRY", "USER"], narrow: 2, rows });
        }
        Registry::Set { registry, username } => {
            let mut password = String::new();
            let read = std::io::stdin().take(8192).read_to_string(&mut password);
            read.map_err(|e| {
                Problem::new(Code::InvalidRequest, "The password cannot be read from standard input").why(e.to_string())
            })?;
            session
                .client
                .put(
                    &format!("/api/v1/registries/{registry}"),
                    &PutRegistry { username, password: password.trim_end().to_owned() },
                )
                .await?;
        }
        Registry::Rm { registry } => session.client.delete(&format!("/api/v1/registries/{registry}")).await?,
    }
    Ok(0)
}
