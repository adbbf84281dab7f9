//! The grammar of the command line: its doc comments are the help that people read.

mod backup;
mod nouns;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use common::{name::Name, network::Backend, part::Part, time::Span};
use ipnet::Ipv4Net;

pub use backup::{Backup, BackupCommand, Coordinators, Recover, Restore};
pub use nouns::{
    Audit, Clock, ConfigFile, Ctx, Drain, Environment, Host, Member, Registry, Rollout, Rotate, SecretFile, SetFile,
    Token, Upgrade, UpgradeCommand,
};

/// The default folder for a host's state: keyring, ledger, store, log.
pub const STATE: &str = "/var/lib/wharf";
/// The default folder for a coordinator's sealing key, apart from the state.
pub const KEYS: &str = "/etc/wharf";
/// The address on which a coordinator listens, by UDP and TCP.
pub const LISTEN: &str = "0.0.0.0:7443";

/// Turns any number of Docker hosts into a private platform.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, disable_help_subcommand = true)]
pub struct Args {
    /// The cluster to talk to, by its context name; see wharf ctx ls.
    #[arg(long, global = true, env = "WHARF_CONTEXT")]
    pub context: Option<String>,
    /// The environment to work in; `default` if absent. Stacks reach only services of their own environment; see
    /// wharf env ls. Only wharf token create takes more than one.
    #[arg(short, long = "env", global = true, env = "WHARF_ENV", value_name = "ENVIRONMENT")]
    pub environment: Vec<Name>,
    /// The output format.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub output: Format,
    /// Answer yes to every question.
    #[arg(short, long, global = true, env = "WHARF_YES", value_parser = clap::builder::BoolishValueParser::new(), default_missing_value = "true", num_args = 0)]
    pub yes: bool,
    /// Log more detail.
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table with the most important columns.
    Table,
    /// A table with all columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Only the names, one per line.
    Name,
}

/// The commands, in the order in which the help lists them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start wharf on this host. The first start makes a new cluster, unless this host has joined one.
    Up(Up),
    /// Run only the coordinator of this host.
    Coordinator(Service),
    /// Run, install or reset this host's agent.
    Agent(AgentArgs),
    /// Remove wharf from this host. Docker itself stays.
    Uninstall(Uninstall),
    /// Create or update a stack from its compose file.
    Deploy(Deploy),
    /// Show what a deployment would change. Exits with 1 if there are changes.
    #[command(visible_alias = "plan")]
    Diff(Files),
    /// List stacks and their services.
    Ls,
    /// List instances.
    Ps {
        /// Only instances of this stack or service: stack[/service].
        target: Option<String>,
    },
    /// Show the output of instances.
    Logs(Logs),
    /// Remove a stack. Its volumes stay.
    Rm {
        /// The name of the stack.
        stack: Name,
        /// How long to wait until the last instance is gone.
        #[arg(long, default_value = "5m")]
        wait: Span,
    },
    /// Change the number of replicas of a service: stack/service=number.
    Scale {
        /// The service and its new number of replicas, for example shop/web=3.
        target: String,
    },
    /// Show the last revisions of a stack: who deployed them, when, and what they changed.
    History {
        /// The name of the stack.
        stack: Name,
    },
    /// Deploy an earlier revision of a stack again.
    Rollback(Rollback),
    /// Pause, resume or promote the rollout of a service.
    #[command(subcommand)]
    Rollout(Rollout),
    /// Move running instances to better hosts, for example after a host has joined.
    Rebalance {
        /// Only instances of this stack or service: shop, or shop/web.
        target: Option<String>,
        /// Only show which instances would move.
        #[arg(long)]
        plan: bool,
    },
    /// Retry the failed instances of a service now.
    Retry {
        /// The service, for example shop/web.
        service: String,
    },
    /// Manage environments: services reach each other only if they share one.
    #[command(subcommand)]
    Env(Environment),
    /// Manage hosts: add, inspect, drain, remove.
    #[command(subcommand)]
    Host(Host),
    /// Manage coordinators, the members of the Raft group.
    #[command(subcommand)]
    Member(Member),
    /// Manage API tokens.
    #[command(subcommand)]
    Token(Token),
    /// Manage secrets: services get them as files in memory.
    #[command(subcommand)]
    Secret(SecretFile),
    /// Print compose files as wharf reads them. With ls, get, set or rm: manage configs, which services get as files.
    ///
    /// Without a subcommand, no cluster is needed: like `docker compose config`, the command merges the files, replaces
    /// variables and prints each value in its long form. It lists what cannot be deployed on stderr and then exits with
    /// 2.
    #[command(args_conflicts_with_subcommands = true)]
    Config {
        /// The compose files to read.
        #[command(flatten)]
        files: Files,
        /// Which part of the files to print.
        #[command(flatten)]
        shown: Shown,
        /// A command on configs stored in the cluster.
        #[command(subcommand)]
        command: Option<ConfigFile>,
    },
    /// Manage credentials for image registries.
    #[command(subcommand)]
    Registry(Registry),
    /// Manage contexts: the clusters that this command line knows.
    #[command(subcommand)]
    Ctx(Ctx),
    /// Make a backup of the cluster: its whole state and the key of its secrets, encrypted. With key, verify, ls,
    /// schedule or status: manage backups.
    Backup(Backup),
    /// Begin a lost cluster again on this host, from a backup. Hosts that return keep their running containers.
    Restore(Restore),
    /// Begin a cluster again that has lost the majority of its coordinators for good, with the coordinator of this host.
    /// Shows what there is, and changes nothing without --apply.
    Recover(Recover),
    /// Show what happened in the cluster, and why.
    Events {
        /// Only events about this stack, service, instance or host id.
        subject: Option<String>,
        /// Keep running and print new events.
        #[arg(short, long)]
        follow: bool,
    },
    /// Show and check the audit: who changed what in the cluster, chained by hashes.
    #[command(subcommand)]
    Audit(Audit),
    /// Check hosts and the network paths between them: what is wrong, why, and how to fix it.
    Doctor {
        /// Show for each path between two hosts whether it carries packets.
        #[arg(long)]
        paths: bool,
    },
    /// Show the time of the cluster and the clocks of its coordinators, or set it back after a wrong clock moved it.
    Clock {
        /// A command on the time of the cluster.
        #[command(subcommand)]
        command: Option<Clock>,
    },
    /// Bring another version of wharf to all hosts, one after the other. Containers keep running.
    Upgrade(Upgrade),
    /// Replace the keys that the cluster itself depends on, while everything goes on.
    #[command(subcommand)]
    Rotate(Rotate),
    /// Show the cluster's state and settings.
    Status,
    /// Show the versions of this command line and of the hosts.
    Version {
        /// Only the version of this command line; needs no cluster.
        #[arg(long)]
        client: bool,
    },
    /// Explain an error code, for example E0107.
    Explain {
        /// The error code, as printed in an error message.
        code: String,
    },
    /// Print a completion script for a shell.
    Completion {
        /// The shell that will load the script.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether the command keeps running until it is stopped.
    pub fn is_service(&self) -> bool {
        match self {
            Command::Up(up) => !up.detach,
            Command::Coordinator(_) => true,
            Command::Agent(agent) => match &agent.command {
                AgentCommand::Run(_) => true,
                AgentCommand::Install(install) => install.foreground,
                AgentCommand::ResetIdentity { .. } | AgentCommand::Coordinators(_) => false,
            },
            _ => false,
        }
    }
}

/// Options shared by all commands that run this host's coordinator or agent.
#[derive(Debug, Clone, clap::Args)]
pub struct Service {
    /// The folder for wharf's state on this host.
    #[arg(long, default_value = STATE, env = "WHARF_STATE")]
    pub state: PathBuf,
    /// The folder for the key that seals secrets. Best kept on another disk than the state.
    #[arg(long, default_value = KEYS, env = "WHARF_KEYS")]
    pub keys: PathBuf,
    /// The folder for the backups that the coordinator makes by itself. Default: the state folder's name with -backups.
    #[arg(long, env = "WHARF_BACKUPS")]
    pub backups: Option<PathBuf>,
    /// The address on which the coordinator listens, by UDP and TCP.
    #[arg(long, default_value = LISTEN)]
    pub listen: SocketAddr,
    /// The address at which other hosts reach this coordinator. By default wharf detects it.
    #[arg(long)]
    pub advertise: Option<SocketAddr>,
    /// The path of Docker's socket.
    #[arg(long, default_value = agent::runtime::docker::SOCKET)]
    pub docker: String,
}

/// The options of `wharf up`.
#[derive(Debug, clap::Args)]
pub struct Up {
    /// The options of the service to start.
    #[command(flatten)]
    pub service: Service,
    /// The host's name in the cluster. Default: its hostname.
    #[arg(long)]
    pub name: Option<Name>,
    /// Run in the background and return when the host is ready. The log is written to the state folder.
    #[arg(short, long)]
    pub detach: bool,
    /// The interval between two heartbeats of a host.
    #[arg(long)]
    pub heartbeat: Option<Span>,
    /// Time without a heartbeat after which a host gets no new instances.
    #[arg(long)]
    pub suspect_after: Option<Span>,
    /// Time without a heartbeat after which a host counts as down.
    #[arg(long)]
    pub down_after: Option<Span>,
    /// Time without a heartbeat after which other hosts replace a host's instances.
    #[arg(long)]
    pub lost_after: Option<Span>,
    /// How containers on different hosts reach each other: vxlan (the default), wireguard (encrypted), or none (each
    /// host has its own bridge). It cannot be changed later.
    #[arg(long)]
    pub overlay: Option<Backend>,
    /// The address range for containers; each host gets a /24 of it. Default: 10.42.0.0/16. It cannot be changed later.
    #[arg(long)]
    pub cluster_cidr: Option<Ipv4Net>,
    /// The address range for services. Default: 10.43.0.0/16. It cannot be changed later.
    #[arg(long)]
    pub service_cidr: Option<Ipv4Net>,
}

/// The options of `wharf agent`.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// The command to run.
    #[command(subcommand)]
    pub command: AgentCommand,
}

/// Commands on this host's agent.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Run only the agent of this host.
    Run(Service),
    /// Join this host to a cluster. The line that wharf host add prints runs this.
    Install(Install),
    /// Tell this host's agent where the coordinators are, if none that it knows is there any more.
    Coordinators(Coordinators),
    /// Delete this host's identity. The next join creates a new one.
    ResetIdentity {
        /// The folder for wharf's state on this host.
        #[arg(long, default_value = STATE, env = "WHARF_STATE")]
        state: PathBuf,
    },
}

/// The options of `wharf agent install`.
#[derive(Debug, clap::Args)]
pub struct Install {
    /// The address of a coordinator of the cluster to join.
    #[arg(long)]
    pub coordinator: SocketAddr,
    /// The join token. Prefer --token-file: other users of this host can see arguments.
    #[arg(long, conflicts_with = "token_file")]
    pub token: Option<String>,
    /// A file that contains the join token; - is standard input.
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// The host's name in the cluster. Default: its hostname. If it is taken, the cluster chooses a similar one.
    #[arg(long)]
    pub name: Option<Name>,
    /// The options of the service to install.
    #[command(flatten)]
    pub service: Service,
    /// If this host belongs to another cluster, leave that one first.
    #[arg(long)]
    pub leave_first: bool,
    /// Join the same cluster again with a new identity, for example because the host's coordinator was removed. With a
    /// line of wharf host add --replaces, the host keeps its place and its running containers.
    #[arg(long, conflicts_with = "leave_first")]
    pub rejoin: bool,
    /// The path to install the binary to.
    #[arg(long, default_value = "/usr/local/bin/wharf")]
    pub binary: PathBuf,
    /// Run in the foreground instead of installing a service.
    #[arg(long)]
    pub foreground: bool,
}

/// The options of `wharf uninstall`.
#[derive(Debug, clap::Args)]
pub struct Uninstall {
    /// The folder for wharf's state on this host.
    #[arg(long, default_value = STATE, env = "WHARF_STATE")]
    pub state: PathBuf,
    /// The path of Docker's socket.
    #[arg(long, default_value = agent::runtime::docker::SOCKET)]
    pub docker: String,
    /// The folder for the key that seals secrets.
    #[arg(long, default_value = KEYS, env = "WHARF_KEYS")]
    pub keys: PathBuf,
    /// The path of the binary to remove.
    #[arg(long, default_value = "/usr/local/bin/wharf")]
    pub binary: PathBuf,
    /// Also remove the volumes of all stacks on this host. Their data is lost.
    #[arg(long)]
    pub purge_volumes: bool,
}

/// Which part of the compose files to print; by default all of it.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
pub struct Shown {
    /// Only the names of the enabled services.
    #[arg(long)]
    pub services: bool,
    /// Only the images of the enabled services.
    #[arg(long)]
    pub images: bool,
    /// Only the profiles that services name.
    #[arg(long = "profiles")]
    pub profile_names: bool,
    /// Only the variables that the files use, with their defaults.
    #[arg(long)]
    pub variables: bool,
    /// For each key in the files, whether wharf supports, refuses or ignores it, and why.
    #[arg(long)]
    pub keys: bool,
}

/// The compose files to read, and the name of their stack.
#[derive(Debug, Clone, clap::Args)]
pub struct Files {
    /// The compose files; later files override earlier ones, and - is standard input. Default: the files in
    /// COMPOSE_FILE, or compose.yaml and compose.override.yaml in this folder or the nearest parent that has one.
    #[arg(short, long = "file")]
    pub files: Vec<PathBuf>,
    /// Enable this profile, in addition to those in COMPOSE_PROFILES; "*" enables all.
    #[arg(long = "profile")]
    pub profiles: Vec<String>,
    /// Deploy this service even if its profiles are not enabled.
    #[arg(long = "with", value_name = "SERVICE")]
    pub with: Vec<String>,
    /// Files with variables for interpolation, used instead of .env. The environment takes precedence.
    #[arg(long = "env-file")]
    pub env_files: Vec<PathBuf>,
    /// The name of the stack. Default: the name in the file, or the name of the folder.
    #[arg(short, long)]
    pub name: Option<Name>,
}

/// The options of `wharf deploy`.
#[derive(Debug, clap::Args)]
pub struct Deploy {
    /// The compose files to read.
    #[command(flatten)]
    pub files: Files,
    /// Return as soon as the cluster has accepted the deployment.
    #[arg(short, long)]
    pub detach: bool,
    /// How long to wait until all instances run.
    #[arg(long, default_value = "10m")]
    pub wait: Span,
}

/// The options of `wharf logs`.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The service or instance: stack/service, or stack/service/slot.incarnation.
    pub target: String,
    /// The container of the instance: a sidekick's name, or `_step-1` for the first step before the start. Default: the
    /// main container.
    #[arg(long)]
    pub part: Option<Part>,
    /// Keep running and print new output.
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the last lines of each instance to print. Default: all.
    #[arg(short, long)]
    pub tail: Option<u32>,
}

/// The options of `wharf rollback`.
#[derive(Debug, clap::Args)]
pub struct Rollback {
    /// The name of the stack.
    pub stack: Name,
    /// The revision to deploy again. Default: the last earlier one that was fully up.
    #[arg(long)]
    pub to: Option<u64>,
    /// Return as soon as the cluster has accepted the rollback.
    #[arg(long)]
    pub detach: bool,
    /// How long to wait until all instances run.
    #[arg(long, default_value = "10m")]
    pub wait: Span,
}
