//! What can be typed after a noun: `wharf host`, `wharf env`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Subcommand;
use common::{name::Name, role::Role, time::Span, token::TokenId};

/// Commands on the change of a service.
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Replace nothing more until it is resumed.
    Pause {
        /// The service, for example shop/web.
        service: String,
    },
    /// Go on, whatever has failed before.
    Resume {
        /// The service, for example shop/web.
        service: String,
    },
    /// Let the rest follow the canary.
    Promote {
        /// The service, for example shop/web.
        service: String,
    },
}

/// Commands on environments.
#[derive(Debug, Subcommand)]
pub enum Environment {
    /// List the environments.
    Ls,
    /// Make an environment.
    Create {
        /// Its name.
        name: Name,
    },
    /// Remove an environment that holds nothing.
    Rm {
        /// Its name.
        name: Name,
    },
}

/// Commands on hosts.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// Print the line that joins a host.
    Add {
        /// The host becomes a coordinator too.
        #[arg(long)]
        coordinator: bool,
        /// How long the line is good.
        #[arg(long)]
        ttl: Option<Span>,
        /// How many hosts it admits.
        #[arg(long)]
        uses: Option<u32>,
        /// A label for the hosts, key=value; may be repeated.
        #[arg(long = "label")]
        labels: Vec<String>,
        /// The range of addresses that they may join from.
        #[arg(long)]
        cidr: Option<String>,
    },
    /// List hosts.
    Ls,
    /// Everything about a host, as JSON.
    Inspect {
        /// Its name or id.
        host: String,
    },
    /// Set the labels of a host; the whole set.
    Label {
        /// Its name or id.
        host: String,
        /// The labels, key=value.
        labels: Vec<String>,
    },
    /// Say how much of a host may be reserved: --cpu 2 is twice its cores.
    Oversubscribe {
        /// Its name or id.
        host: String,
        /// How often its processor time may be reserved.
        #[arg(long, default_value = "1")]
        cpu: f64,
        /// How often its memory may be reserved.
        #[arg(long, default_value = "1")]
        memory: f64,
    },
    /// Stop all that runs on a host at once, and start nothing there; drain it first. Undo: uncordon.
    Maintenance {
        /// Its name or id.
        host: String,
    },
    /// Give a host no new instances; those that it has stay.
    Cordon {
        /// Its name or id.
        host: String,
    },
    /// Let a host take new instances again, also one that is being emptied.
    Uncordon {
        /// Its name or id.
        host: String,
    },
    /// Empty a host: each instance is stopped once another one has taken over.
    Drain {
        /// Its name or id.
        host: String,
        /// How long instances may wait for a successor before they are stopped.
        #[arg(long, default_value = "1h")]
        within: Span,
        /// Only show what would become of its instances.
        #[arg(long)]
        plan: bool,
        /// Do not wait until it is empty.
        #[arg(long)]
        detach: bool,
    },
    /// Remove a host: its certificate is refused and its instances are replaced.
    Rm {
        /// Its name or id.
        host: String,
    },
    /// List the join tokens.
    Tokens,
    /// Revoke a join token.
    Revoke {
        /// The token's id.
        token: TokenId,
    },
}

/// Commands on coordinators.
#[derive(Debug, Subcommand)]
pub enum Member {
    /// List the coordinators.
    Ls,
    /// Print the line that joins a host as a coordinator.
    Add,
    /// Remove a coordinator from the group; its host stays.
    Rm {
        /// Its number.
        member: u64,
    },
}

/// Commands on API tokens.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// List the tokens.
    Ls,
    /// Make a token; it is shown once. With -e it holds in these environments alone, without in the whole cluster.
    Create {
        /// What it is for.
        name: Name,
        /// What it may do: viewer reads, operator also scales, steers rollouts and drains hosts, deployer also deploys,
        /// admin does everything.
        #[arg(long)]
        role: Role,
    },
    /// End a token.
    Rm {
        /// Its id.
        token: TokenId,
    },
}

/// Commands on secrets.
#[derive(Debug, Subcommand)]
pub enum SecretFile {
    /// List the secrets; their values are shown nowhere.
    Ls,
    /// Set a secret; services that use it are rolled out.
    Set(SetFile),
    /// Remove a secret that no service uses.
    Rm {
        /// Its name.
        name: Name,
    },
}

/// What a config or a secret is to be.
#[derive(Debug, clap::Args)]
pub struct SetFile {
    /// Its name.
    pub name: Name,
    /// The file with its content; standard input if absent.
    #[arg(default_value = "-")]
    pub file: PathBuf,
}

/// Commands on configs.
#[derive(Debug, Subcommand)]
pub enum ConfigFile {
    /// List the configs.
    Ls,
    /// Print a config.
    Get {
        /// Its name.
        name: Name,
    },
    /// Set a config; services that use it are rolled out.
    Set(SetFile),
    /// Remove a config that no service uses.
    Rm {
        /// Its name.
        name: Name,
    },
}

/// Commands on registries.
#[derive(Debug, Subcommand)]
pub enum Registry {
    /// List the registries with credentials.
    Ls,
    /// Set credentials; the password is read from standard input.
    Set {
        /// The registry, host or host:port; docker.io for Docker Hub.
        registry: String,
        /// The user.
        username: String,
    },
    /// Forget credentials.
    Rm {
        /// The registry.
        registry: String,
    },
}

/// Commands on contexts.
#[derive(Debug, Subcommand)]
pub enum Ctx {
    /// List the clusters.
    Ls,
    /// Choose a cluster.
    Use {
        /// Its name here.
        name: String,
    },
    /// Add a cluster; the token is read from standard input.
    Add {
        /// Its name here.
        name: String,
        /// Its coordinators.
        #[arg(long = "server", required = true)]
        servers: Vec<SocketAddr>,
        /// Its root certificate (PEM), as GET /ca gives it.
        #[arg(long)]
        ca: PathBuf,
    },
}
