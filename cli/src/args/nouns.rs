//! The subcommands of nouns: `wharf host …`, `wharf env …`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Subcommand;
use common::{name::Name, role::Role, time::Span, token::TokenId};

/// Commands on the rollout of a service.
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Pause the rollout: no more instances are replaced until it is resumed.
    Pause {
        /// The service, for example shop/web.
        service: String,
    },
    /// Resume the rollout, also after a failure paused it.
    Resume {
        /// The service, for example shop/web.
        service: String,
    },
    /// Promote the canary: the rollout goes on to all other instances.
    Promote {
        /// The service, for example shop/web.
        service: String,
    },
}

/// Commands on the time of the cluster.
#[derive(Debug, Subcommand)]
pub enum Clock {
    /// Set the time of the cluster back to what most coordinators' clocks say. Times that were stamped while it was ahead
    /// move back by the same span.
    Repair,
}

/// Commands on the audit.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// List the newest changes: who made them, when, and from where.
    Ls {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 50)]
        newest: usize,
    },
    /// Print all entries that the cluster holds, a line of JSON each, to be kept elsewhere.
    Export,
    /// Check that no entry was changed, left out or put in.
    Verify {
        /// Files with entries: exported ones, or those in the folder audit of a coordinator's state. They are checked
        /// against the cluster's entries.
        files: Vec<PathBuf>,
    },
}

/// Commands on environments.
#[derive(Debug, Subcommand)]
pub enum Environment {
    /// List the environments.
    Ls,
    /// Create an environment.
    Create {
        /// The name.
        name: Name,
    },
    /// Remove an empty environment.
    Rm {
        /// The name.
        name: Name,
    },
}

/// Commands on hosts.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// Print the line that joins a new host to the cluster.
    Add {
        /// Make the host a coordinator as well.
        #[arg(long)]
        coordinator: bool,
        /// How long the line can be used.
        #[arg(long)]
        ttl: Option<Span>,
        /// How many hosts can join with it.
        #[arg(long)]
        uses: Option<u32>,
        /// A label for the hosts that join, key=value. May be repeated.
        #[arg(long = "label")]
        labels: Vec<String>,
        /// The address range that hosts must join from.
        #[arg(long)]
        cidr: Option<String>,
        /// The host, by name or id, that comes back without its state: the host that joins takes its place, and its
        /// running containers go on.
        #[arg(long, value_name = "HOST", conflicts_with_all = ["uses", "labels"])]
        replaces: Option<String>,
    },
    /// List hosts.
    Ls,
    /// Show everything about a host, as JSON.
    Inspect {
        /// The name or id of the host.
        host: String,
    },
    /// Accept what a host claims beyond what was accepted of it: more memory, another architecture, another address.
    Accept {
        /// The name or id of the host.
        host: String,
    },
    /// Set the labels of a host. They replace all labels that it has.
    Label {
        /// The name or id of the host.
        host: String,
        /// The new labels, key=value.
        labels: Vec<String>,
    },
    /// Set how much of a host instances may reserve: --cpu 2 allows twice its cores.
    Oversubscribe {
        /// The name or id of the host.
        host: String,
        /// The factor for CPU.
        #[arg(long, default_value = "1")]
        cpu: f64,
        /// The factor for memory.
        #[arg(long, default_value = "1")]
        memory: f64,
    },
    /// Stop everything on a host at once and start nothing there. Drain the host first to avoid an outage. Undo:
    /// uncordon.
    Maintenance {
        /// The name or id of the host.
        host: String,
    },
    /// Place no new instances on a host. Its running instances stay.
    Cordon {
        /// The name or id of the host.
        host: String,
    },
    /// Allow new instances on a host again. Ends cordon, drain and maintenance.
    Uncordon {
        /// The name or id of the host.
        host: String,
    },
    /// Empty a host: each instance is stopped once another one has taken over.
    Drain(Drain),
    /// Remove a host: its certificate is refused and its instances are replaced.
    Rm {
        /// The name or id of the host.
        host: String,
    },
    /// List the join tokens.
    Tokens,
    /// Revoke a join token.
    Revoke {
        /// The id of the token; see wharf host tokens.
        token: TokenId,
    },
}

/// Commands on members of the Raft group.
#[derive(Debug, Subcommand)]
pub enum Member {
    /// List the coordinators, and whether they answer.
    Ls,
    /// Print the line that joins a new host as a coordinator.
    Add,
    /// Remove a coordinator from the Raft group. Its host stays in the cluster.
    Rm {
        /// The member's number; see wharf member ls.
        member: u64,
    },
}

/// Commands on the cluster's own keys.
#[derive(Debug, Subcommand)]
pub enum Rotate {
    /// Show which keys are in use, how far their change is, and what it waits for.
    Status,
    /// Replace the key that seals secrets and the cluster's own keys. All coordinators must run.
    SealingKey,
    /// Replace the join key. Lines of wharf host add that were printed before no longer work.
    JoinKey,
    /// Replace the cluster's root, which issues all certificates. Hosts keep their sessions.
    Ca {
        /// Go on without hosts that are away. They have to join again.
        #[arg(long)]
        finish: bool,
    },
}

/// Commands on API tokens.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// List the tokens.
    Ls,
    /// Create a token and print it. It cannot be shown again. With -e it is valid in those environments only.
    Create {
        /// The name of the token: what it is for.
        name: Name,
        /// The role of the token: a viewer reads, an operator also scales, steers rollouts and drains hosts, a deployer
        /// also deploys but does not drain hosts, an admin does everything.
        #[arg(long)]
        role: Role,
    },
    /// Revoke a token.
    Rm {
        /// The id of the token; see wharf token ls.
        token: TokenId,
    },
}

/// Commands on secrets.
#[derive(Debug, Subcommand)]
pub enum SecretFile {
    /// List the secrets. Their values are never shown.
    Ls,
    /// Set the value of a secret. Services that use it are rolled out with the new version.
    Set(SetFile),
    /// Remove a secret. Refused while a service uses it.
    Rm {
        /// The name.
        name: Name,
    },
}

/// How a host is emptied.
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// Its name or id.
    pub host: String,
    /// How long instances may wait for a successor before they are stopped.
    #[arg(long, default_value = "1h")]
    pub within: Span,
    /// Only show what would become of its instances.
    #[arg(long)]
    pub plan: bool,
    /// Do not wait until it is empty.
    #[arg(long)]
    pub detach: bool,
}

/// What a config or a secret is to be.
#[derive(Debug, clap::Args)]
pub struct SetFile {
    /// The name.
    pub name: Name,
    /// The file with the content; - is standard input.
    #[arg(default_value = "-")]
    pub file: PathBuf,
}

/// Commands on configs.
#[derive(Debug, Subcommand)]
pub enum ConfigFile {
    /// List the configs.
    Ls,
    /// Print the content of a config.
    Get {
        /// The name.
        name: Name,
    },
    /// Set the content of a config. Services that use it are rolled out with the new version.
    Set(SetFile),
    /// Remove a config. Refused while a service uses it.
    Rm {
        /// The name.
        name: Name,
    },
}

/// Commands on registries.
#[derive(Debug, Subcommand)]
pub enum Registry {
    /// List the registries for which the cluster has credentials.
    Ls,
    /// Set the credentials for a registry. The password is read from standard input.
    Set {
        /// The registry, as host or host:port; docker.io for Docker Hub.
        registry: String,
        /// The user name at the registry.
        username: String,
    },
    /// Remove the credentials for a registry.
    Rm {
        /// The registry, as host or host:port.
        registry: String,
    },
}

/// Commands on contexts.
#[derive(Debug, Subcommand)]
pub enum Ctx {
    /// List the contexts.
    Ls,
    /// Select the context to use by default.
    Use {
        /// The name of the context.
        name: String,
    },
    /// Add a context. The API token is read from standard input.
    Add {
        /// The name of the context.
        name: String,
        /// The address of a coordinator. May be repeated.
        #[arg(long = "server", required = true)]
        servers: Vec<SocketAddr>,
        /// A file with the cluster's root certificate (PEM), as returned by GET /ca.
        #[arg(long)]
        ca: PathBuf,
    },
}

/// The options of `wharf upgrade`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Upgrade {
    /// The binary that all hosts are to run. Default: the binary of this command.
    #[arg(long = "to", value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Return as soon as the cluster has the binary and begins.
    #[arg(long)]
    pub detach: bool,
    /// A command on the upgrade that is under way.
    #[command(subcommand)]
    pub command: Option<UpgradeCommand>,
}

/// Commands on the upgrade that is under way.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum UpgradeCommand {
    /// Show how far the upgrade is, and what each host runs.
    Status,
    /// Follow the upgrade until it ends or pauses.
    Watch,
    /// Change no further host. The host that changes now finishes.
    Pause,
    /// Go on. A host that failed is tried again.
    Resume,
    /// End the upgrade where it is: every host keeps what it runs.
    Abort,
}
