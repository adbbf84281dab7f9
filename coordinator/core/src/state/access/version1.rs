//! The section as feature level 1 stores it: a token reads everything or may do everything.

use common::{
    assignment::RegistryCredentials,
    name::Name,
    time::Timestamp,
    token::{SecretHash, TokenId},
};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{ApiTokenRecord, Credentials, JoinTokenRecord};
use crate::command::Access;

/// All of it.
#[derive(Serialize, Deserialize)]
pub(in crate::state) struct Version1 {
    join_tokens: OrdMap<TokenId, JoinTokenRecord>,
    api_tokens: OrdMap<TokenId, Token>,
    registries: OrdMap<String, RegistryCredentials>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Token {
    name: Name,
    access: Access,
    secret: SecretHash,
    created_at: Timestamp,
}

impl From<Version1> for Credentials {
    fn from(stored: Version1) -> Credentials {
        let token = |(id, Token { name, access, secret, created_at })| {
            (id, ApiTokenRecord { name, grant: access.grant(), secret, created_at })
        };
        Credentials {
            join_tokens: stored.join_tokens,
            api_tokens: stored.api_tokens.into_iter().map(token).collect(),
            registries: stored.registries,
        }
    }
}

impl TryFrom<&Credentials> for Version1 {
    type Error = String;

    fn try_from(section: &Credentials) -> Result<Version1, String> {
        let token = |(id, record): (&TokenId, &ApiTokenRecord)| {
            let ApiTokenRecord { name, grant, secret, created_at } = record;
            let access = Access::of(grant).ok_or_else(|| format!("token {id}: level 1 has no {grant}"))?;
            Ok((*id, Token { name: name.clone(), access, secret: *secret, created_at: *created_at }))
        };
        Ok(Version1 {
            join_tokens: section.join_tokens.clone(),
            api_tokens: section.api_tokens.iter().map(token).collect::<Result<_, String>>()?,
            registries: section.registries.clone(),
        })
    }
}
