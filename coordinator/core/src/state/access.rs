//! Who may join and who may ask: tokens and registries.

mod version1;

use std::{collections::BTreeSet, net::IpAddr};

use common::{
    api::TokenUse,
    assignment::RegistryCredentials,
    error::{Code, Problem},
    host::HostLabels,
    name::Name,
    role::Grant,
    time::Timestamp,
    token::{JoinRole, SecretHash, TokenId},
};
use serde::{Deserialize, Serialize};

use imbl::OrdMap;

use super::{Applied, Member, State, not_found, set_back::Back, trust::hash_of};
use crate::{
    command::{Admission, NewJoinToken, Outcome},
    sealed,
};

pub(super) use version1::Version1;

/// Most join tokens that are kept, those that ended lately included.
const MAX_JOIN_TOKENS: usize = 10_000;
/// Most API tokens.
const MAX_API_TOKENS: usize = 10_000;
/// Most registries with credentials.
const MAX_REGISTRIES: usize = 1000;
/// Longest registry, user name or password, in bytes.
const MAX_CREDENTIAL: usize = 4 << 10;
/// Longest password that is sealed, in bytes: twice as long in hexadecimal digits, with what sealing adds.
const MAX_SEALED: usize = 2 * MAX_CREDENTIAL + 256;

/// The section of tokens, and of credentials for registries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Credentials {
    join_tokens: OrdMap<TokenId, JoinTokenRecord>,
    api_tokens: OrdMap<TokenId, ApiTokenRecord>,
    /// Who to be at registries, by registry.
    registries: OrdMap<String, RegistryCredentials>,
}

/// A join token as the cluster keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinTokenRecord {
    /// The hash of its secret.
    pub secret: SecretHash,
    /// What hosts become by it.
    pub role: JoinRole,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How many hosts it admits.
    pub max_uses: u32,
    /// Labels for the hosts.
    pub labels: HostLabels,
    /// The network and prefix length that hosts must come from.
    pub from: Option<(IpAddr, u8)>,
    /// Whether somebody revoked it.
    pub revoked: bool,
    /// Who used it.
    pub uses: Vec<TokenUse>,
}

/// An API token as the cluster keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiTokenRecord {
    /// What it is for.
    pub name: Name,
    /// What it may do, and where.
    pub grant: Grant,
    /// The hash of its secret.
    pub secret: SecretHash,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Credentials {
    /// Sets all times back.
    pub(super) fn set_back(&mut self, back: Back) {
        back.each(&mut self.api_tokens, |token| back.time(&mut token.created_at));
        back.each(&mut self.join_tokens, |token| {
            let uses = token.uses.iter_mut().map(|used| &mut used.at);
            [&mut token.created_at, &mut token.expires_at].into_iter().chain(uses).for_each(|time| back.time(time));
        });
    }
}

impl JoinTokenRecord {
    /// Why a host may not use it at `now`, if it may not.
    pub fn refusal(&self, from: IpAddr, now: Timestamp) -> Option<Problem> {
        let again = "Make a new line: wharf host add";
        if self.revoked {
            return Some(Problem::new(Code::TokenRevoked, "Token rejected: it was revoked").fix(again));
        }
        if now >= self.expires_at {
            return Some(
                Problem::new(Code::TokenExpired, format!("Token rejected: it expired at {}", self.expires_at))
                    .fix(again),
            );
        }
        if self.uses.len() >= self.max_uses as usize {
            let last =
                self.uses.last().map_or_else(String::new, |last| format!(" by host \"{}\" at {}", last.name, last.at));
            return Some(
                Problem::new(
                    Code::TokenUsedUp,
                    format!("Token rejected: it was used up ({} of {}){last}", self.uses.len(), self.max_uses),
                )
                .why("if that host is not yours, remove it at once: wharf host rm")
                .fix(again),
            );
        }
        match self.from {
            Some((network, prefix)) if !contains(network, prefix, from) => Some(
                Problem::new(Code::AddressNotAllowed, format!("Token rejected: it does not admit the address {from}"))
                    .why(format!("it admits hosts from {network}/{prefix}"))
                    .fix("Make a line for this address: wharf host add --cidr"),
            ),
            _ => None,
        }
    }
}

/// Whether `address` lies in the network of that prefix length.
pub fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let ((network, width), (address, address_width)) = (bits(network), bits(address));
    let shift = 128 - u32::from(prefix.min(width));
    width == address_width && (shift >= 128 || network >> shift == address >> shift)
}

impl State {
    /// The join tokens.
    pub fn join_tokens(&self) -> &OrdMap<TokenId, JoinTokenRecord> {
        &self.access.join_tokens
    }

    /// The API tokens.
    pub fn api_tokens(&self) -> &OrdMap<TokenId, ApiTokenRecord> {
        &self.access.api_tokens
    }

    /// Who to be at registries, by registry.
    pub fn registries(&self) -> &OrdMap<String, RegistryCredentials> {
        &self.access.registries
    }

    pub(super) fn put_join_token(&mut self, token: &NewJoinToken) -> Applied {
        if self.access.join_tokens.contains_key(&token.id) {
            return Err(Problem::new(Code::Conflict, format!("There is a join token {} already", token.id)));
        }
        // Tokens that ended a week ago are of no interest to anybody.
        let old = |record: &JoinTokenRecord| {
            self.basics.clock.since(record.expires_at) > common::time::Span::seconds(7 * 86_400)
        };
        let old: Vec<TokenId> =
            self.access.join_tokens.iter().filter(|(_, record)| old(record)).map(|(id, _)| *id).collect();
        for id in old {
            self.access.join_tokens.remove(&id);
        }
        if self.access.join_tokens.len() >= MAX_JOIN_TOKENS {
            return Err(Problem::new(Code::TooLarge, "The join token was not made").why(format!(
                "there are {MAX_JOIN_TOKENS}, which is the limit; each is kept for a week after its end"
            )));
        }
        let record = JoinTokenRecord {
            secret: token.secret,
            role: token.role,
            created_at: self.basics.clock,
            expires_at: token.expires_at,
            max_uses: token.max_uses,
            labels: token.labels.clone(),
            from: token.from,
            revoked: false,
            uses: Vec::new(),
        };
        self.access.join_tokens.insert(token.id, record);
        self.record(
            format!("token {}", token.id),
            "join-token-made",
            format!("for role {}, until {}", token.role, token.expires_at),
        );
        Ok(Outcome::Token(token.id))
    }

    pub(super) fn revoke_join_token(&mut self, id: TokenId) -> Applied {
        let token = self.access.join_tokens.get_mut(&id).ok_or_else(|| not_found("join token", id))?;
        if !token.revoked {
            token.revoked = true;
            self.record(format!("token {id}"), "join-token-revoked", "it admits nobody any more");
        }
        self.done()
    }

    pub(super) fn admit(&mut self, admission: &Admission) -> Applied {
        let now = self.basics.clock;
        let token = self.access.join_tokens.get(&admission.token);
        let token =
            token.ok_or_else(|| Problem::new(Code::TokenUnknown, "Token rejected: this cluster does not know it"))?;
        if let Some(used) = token.uses.iter().find(|used| used.host == admission.host)
            && self.hosts().contains_key(&admission.host)
        {
            // The answer was lost on its way; the same key gets the same answer and burns nothing.
            let member = self.member_on(admission.host);
            return Ok(Outcome::Admitted { name: used.name.clone(), member });
        }
        if let Some(refusal) = token.refusal(admission.from, now) {
            return Err(refusal);
        }
        if self.removed_hosts().contains_key(&admission.host) {
            return Err(Problem::new(Code::HostRemoved, "This host was removed from the cluster")
                .why("its key is refused for good")
                .fix("On the host: wharf agent reset-identity, then paste the line again"));
        }
        let (role, labels) = (token.role, token.labels.clone());
        let name = match self.replaced_by(&admission.token) {
            Some(old) => {
                self.take_place(old, admission.host)?;
                self.hosts()[&admission.host].name.clone()
            }
            None => {
                let name = self.free_host_name(&admission.name);
                self.admit_host(admission.host, name.clone(), labels)?;
                name
            }
        };
        if let Some(token) = self.access.join_tokens.get_mut(&admission.token) {
            token.uses.push(TokenUse { host: admission.host, name: name.clone(), at: now, from: admission.from });
        }
        let member = Member::new(admission.host, admission.address);
        let member = (role == JoinRole::Coordinator).then(|| self.fleet.add_member(member));
        self.record(admission.host, "host-joined", format!("{name} from {}", admission.from));
        Ok(Outcome::Admitted { name, member })
    }

    pub(super) fn put_api_token(&mut self, id: TokenId, name: &Name, grant: Grant, secret: SecretHash) -> Applied {
        if self.access.api_tokens.contains_key(&id) {
            return Err(Problem::new(Code::Conflict, format!("There is an API token {id} already")));
        }
        if self.access.api_tokens.len() >= MAX_API_TOKENS {
            return Err(Problem::new(Code::TooLarge, "The token was not made")
                .why(format!("there are {MAX_API_TOKENS} API tokens, which is the limit")));
        }
        for environment in grant.environments.iter().flatten() {
            self.known_environment(environment)?;
        }
        if grant.environments.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(Problem::new(Code::InvalidRequest, "The token was not made")
                .why("it holds in no environment: name at least one, or none for the whole cluster"));
        }
        self.access.api_tokens.insert(
            id,
            ApiTokenRecord { name: name.clone(), grant: grant.clone(), secret, created_at: self.basics.clock },
        );
        self.record(format!("token {id}"), "api-token-made", format!("{name}, may be used as {grant}"));
        Ok(Outcome::Token(id))
    }

    pub(super) fn remove_api_token(&mut self, id: TokenId) -> Applied {
        self.access.api_tokens.remove(&id).ok_or_else(|| not_found("API token", id))?;
        self.record(format!("token {id}"), "api-token-removed", "it is refused from now on");
        self.done()
    }

    /// Takes an environment that is removed out of all grants: one that is made later under its name is another one.
    pub(super) fn end_grants_in(&mut self, environment: &Name) {
        let held =
            |token: &ApiTokenRecord| token.grant.environments.as_ref().is_some_and(|names| names.contains(environment));
        let touched = self.access.api_tokens.iter().filter(|(_, token)| held(token)).map(|(id, _)| *id);
        for id in touched.collect::<Vec<TokenId>>() {
            let Some(token) = self.access.api_tokens.get_mut(&id) else { continue };
            let left = token.grant.environments.get_or_insert_default();
            left.remove(environment);
            if left.is_empty() {
                self.access.api_tokens.remove(&id);
                self.record(format!("token {id}"), "api-token-removed", "its last environment was removed");
            }
        }
    }

    pub(super) fn put_registry(&mut self, credentials: &RegistryCredentials) -> Applied {
        let refuse = |why: String| Err(Problem::new(Code::TooLarge, "The credentials were not set").why(why));
        let (registry, sealed) = (&credentials.registry, sealed::of_password(&credentials.password));
        let most = if sealed.is_some() { MAX_SEALED } else { MAX_CREDENTIAL };
        let is_longer = registry.len().max(credentials.username.len()) > MAX_CREDENTIAL;
        if is_longer || credentials.password.expose().len() > most {
            return refuse(format!("the registry, the user name and the password have at most {MAX_CREDENTIAL} bytes"));
        }
        // Once a key seals, a password that lies open is refused as one of an unknown key is.
        self.check_sealed(format!("The password for {registry}"), sealed.as_deref().unwrap_or(&[sealed::LOST]))?;
        let is_new = !self.access.registries.contains_key(&credentials.registry);
        if is_new && self.access.registries.len() >= MAX_REGISTRIES {
            return refuse(format!("there are {MAX_REGISTRIES} registries, which is the limit"));
        }
        self.access.registries.insert(credentials.registry.clone(), credentials.clone());
        self.record(&credentials.registry, "registry-changed", format!("user {}", credentials.username));
        self.done()
    }

    /// Puts a password again, sealed with another key, if it has not changed since.
    pub(super) fn replace_password(&mut self, registry: &str, before: [u8; 32], text: &[u8]) {
        let Some(credentials) = self.access.registries.get_mut(registry) else { return };
        let known = sealed::of_password(&credentials.password);
        if hash_of(known.as_deref().unwrap_or(credentials.password.expose().as_bytes())) == before {
            credentials.password = sealed::in_place_of_password(text);
        }
    }

    pub(super) fn remove_registry(&mut self, registry: &str) -> Applied {
        self.access.registries.remove(registry).ok_or_else(|| not_found("registry", registry))?;
        self.record(registry, "registry-removed", "its credentials were removed");
        self.done()
    }
}
