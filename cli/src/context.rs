//! The contexts, the clusters that this command line knows: `~/.config/wharf/config.toml`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use common::{
    error::{Code, Problem},
    id::ClusterId,
};
use link::file;
use serde::{Deserialize, Serialize};

/// Certificates are stored with LF line endings.
const PEM: pem::EncodeConfig = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The name of the context that commands use by default.
    pub current: Option<String>,
    /// The contexts by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// How to reach a cluster, and what proves its identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The cluster's id; the coordinator's certificate must match it.
    pub cluster: ClusterId,
    /// The addresses of its coordinators; updated from answers.
    pub servers: Vec<SocketAddr>,
    /// The cluster's root certificate (PEM).
    pub authority: String,
    /// The API token, which is secret.
    pub token: String,
}

/// Encodes a certificate as PEM, as contexts store it.
pub fn certificate_text(der: &[u8]) -> String {
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der), PEM)
}

fn path() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let config = std::env::var_os("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    std::env::var_os("WHARF_CONFIG").map_or_else(|| config.join("wharf/config.toml"), PathBuf::from)
}

fn problem(what: &str, why: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidRequest, format!("{what} {}", path().display())).why(why.to_string())
}

impl Contexts {
    /// Reads the file. If it does not exist, there are no contexts.
    pub fn load() -> Result<Contexts, Problem> {
        let bytes = file::read(&path()).map_err(|e| problem("Cannot read", e))?.unwrap_or_default();
        let text = String::from_utf8(bytes).map_err(|e| problem("Cannot read", e))?;
        toml::from_str(&text).map_err(|e| problem("Cannot read", e))
    }

    /// Writes the file so that only its owner can read it.
    pub fn save(&self) -> Result<(), Problem> {
        let text = toml::to_string_pretty(self).map_err(|e| problem("Cannot write", e))?;
        file::replace(&path(), text.as_bytes()).map_err(|e| problem("Cannot write", e))
    }

    /// The context with this name, or the default one.
    pub fn choose(&self, wanted: Option<&str>) -> Result<(String, Context), Problem> {
        let missing = |what: String| {
            Problem::new(Code::NotFound, what)
                .fix("List the contexts: wharf ctx ls")
                .fix("Or start a cluster on this host: wharf up")
        };
        let name = wanted.or(self.current.as_deref()).ok_or_else(|| missing("No context is selected".into()))?;
        let context = self.contexts.get(name).ok_or_else(|| missing(format!("There is no context {name:?}")))?;
        Ok((name.to_owned(), context.clone()))
    }

    /// Stores new addresses of a context's coordinators.
    pub fn update_servers(mut self, name: &str, servers: Vec<SocketAddr>) -> Result<(), Problem> {
        let Some(context) = self.contexts.get_mut(name) else { return Ok(()) };
        context.servers = servers;
        self.save()
    }

    /// Stores the new root of a context's cluster.
    pub fn update_root(mut self, name: &str, authority: String) -> Result<(), Problem> {
        let Some(context) = self.contexts.get_mut(name) else { return Ok(()) };
        context.authority = authority;
        self.save()
    }

    /// Adds a context, and makes it the default if there is none.
    pub fn add(&mut self, name: &str, context: Context) {
        self.contexts.insert(name.to_owned(), context);
        self.current.get_or_insert_with(|| name.to_owned());
    }
}
