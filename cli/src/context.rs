//! The clusters that this command line knows: `~/.config/wharf/config.toml`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use common::{
    error::{Code, Problem},
    id::ClusterId,
};
use link::file;
use serde::{Deserialize, Serialize};

/// The encoding of certificates in files.
const PEM: pem::EncodeConfig = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one in use.
    pub current: Option<String>,
    /// All of them by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// A cluster and how it is reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its coordinators.
    pub servers: Vec<SocketAddr>,
    /// Its root certificate (PEM).
    pub authority: String,
    /// The token; a secret.
    pub token: String,
}

/// A certificate as a context keeps it.
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
    /// Reads the file; one that is not there is empty.
    pub fn load() -> Result<Contexts, Problem> {
        let bytes = file::read(&path()).map_err(|e| problem("Cannot read", e))?.unwrap_or_default();
        let text = String::from_utf8(bytes).map_err(|e| problem("Cannot read", e))?;
        toml::from_str(&text).map_err(|e| problem("Cannot read", e))
    }

    /// Writes the file; only its owner may read it.
    pub fn save(&self) -> Result<(), Problem> {
        let text = toml::to_string_pretty(self).map_err(|e| problem("Cannot write", e))?;
        file::replace(&path(), text.as_bytes()).map_err(|e| problem("Cannot write", e))
    }

    /// The context that was asked for, or the one in use.
    pub fn choose(&self, wanted: Option<&str>) -> Result<(String, Context), Problem> {
        let missing = |what: String| {
            Problem::new(Code::NotFound, what)
                .fix("See which there are: wharf ctx ls")
                .fix("Start a platform here: wharf up")
        };
        let name = wanted.or(self.current.as_deref()).ok_or_else(|| missing("No cluster is chosen".into()))?;
        let context = self.contexts.get(name).ok_or_else(|| missing(format!("There is no context {name:?}")))?;
        Ok((name.to_owned(), context.clone()))
    }

    /// Notes where the coordinators of a context are now.
    pub fn update_servers(mut self, name: &str, servers: Vec<SocketAddr>) -> Result<(), Problem> {
        let Some(context) = self.contexts.get_mut(name) else { return Ok(()) };
        context.servers = servers;
        self.save()
    }

    /// Adds a cluster and chooses it if none is chosen.
    pub fn add(&mut self, name: &str, context: Context) {
        self.contexts.insert(name.to_owned(), context);
        self.current.get_or_insert_with(|| name.to_owned());
    }
}
