//! What can be typed.

mod nouns;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use common::{name::Name, network::Backend, part::Part, time::Span};
use ipnet::Ipv4Net;

pub use nouns::{ConfigFile, Ctx, Environment, Host, Member, Registry, Rollout, SecretFile, SetFile, Token};

/// Where the state of a host lies.
pub const STATE: &str = "/var/lib/wharf";
/// Where a coordinator's sealing key lies.
pub const KEYS: &str = "/etc/wharf";
/// Where a coordinator listens.
pub const LISTEN: &str = "0.0.0.0:7443";

/// Turns any number of Docker hosts into a private platform.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, disable_help_subcommand = true)]
pub struct Args {
    /// The cluster to speak with; see wharf ctx ls.
    #[arg(long, global = true, env = "WHARF_CONTEXT")]
    pub context: Option<String>,
    /// The environment, which keeps its stacks apart from those of others; see wharf env ls.
    /// It is `default` if none is named; only wharf token create takes more than one.
    #[arg(short, long = "env", global = true, env = "WHARF_ENV", value_name = "ENVIRONMENT")]
    pub environment: Vec<Name>,
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub output: Format,
    /// Answer every question with yes.
    #[arg(short, long, global = true, env = "WHARF_YES", value_parser = clap::builder::BoolishValueParser::new(), default_missing_value = "true", num_args = 0)]
    pub yes: bool,
    /// Tell more of what happens.
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Names alone.
    Name,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the platform on this host, or whatever this host has joined as.
    Up(Up),
    /// Run this host's coordinator alone.
    Coordinator(Service),
    /// Run, install or reset this host's agent.
    Agent(AgentArgs),
    /// Remove wharf from this host; Docker itself is left alone.
    Uninstall(Uninstall),
    /// Make a stack what its compose file says.
    Deploy(Deploy),
    /// Show what deploying would change; exit code 1 if anything.
    #[command(visible_alias = "plan")]
    Diff(Files),
    /// List stacks and their services.
    Ls,
    /// List instances.
    Ps {
        /// Only this stack, or this service: stack[/service].
        target: Option<String>,
    },
    /// Show the output of instances.
    Logs(Logs),
    /// Remove a stack; its volumes stay.
    Rm {
        /// The stack.
        stack: Name,
        /// Wait until its last instance is gone, at most this long.
        #[arg(long, default_value = "5m")]
        wait: Span,
    },
    /// Change the number of instances: stack/service=number.
    Scale {
        /// What to scale, for example shop/web=3.
        target: String,
    },
    /// Show the last revisions of a stack: who made them, when, and what they changed.
    History {
        /// The stack.
        stack: Name,
    },
    /// Deploy an earlier revision of a stack again.
    Rollback(Rollback),
    /// Stop the change of a service to a new revision, or let it go on.
    #[command(subcommand)]
    Rollout(Rollout),
    /// Move instances to hosts that suit them better now: a new one, for example.
    Rebalance {
        /// Of this stack or service alone: shop, or shop/web.
        target: Option<String>,
        /// Only show which would move.
        #[arg(long)]
        plan: bool,
    },
    /// Try what has failed of a service again at once.
    Retry {
        /// The service, for example shop/web.
        service: String,
    },
    /// Environments: what belongs to none in common does not reach each other.
    #[command(subcommand)]
    Env(Environment),
    /// Hosts.
    #[command(subcommand)]
    Host(Host),
    /// Coordinators.
    #[command(subcommand)]
    Member(Member),
    /// API tokens.
    #[command(subcommand)]
    Token(Token),
    /// Secrets, which services get as files in memory.
    #[command(subcommand)]
    Secret(SecretFile),
    /// Print compose files as wharf understands them; or, with ls, get, set or rm: configs, which services get as files.
    ///
    /// Without a subcommand no cluster is needed: the files are merged, their variables replaced, every value in its
    /// long spelling, as `docker compose config` does it. What could not be deployed is said on stderr, exit code 2.
    #[command(args_conflicts_with_subcommands = true)]
    Config {
        /// The files.
        #[command(flatten)]
        files: Files,
        /// What of them.
        #[command(flatten)]
        shown: Shown,
        /// What to do with configs instead.
        #[command(subcommand)]
        command: Option<ConfigFile>,
    },
    /// Credentials of image registries.
    #[command(subcommand)]
    Registry(Registry),
    /// Clusters that this command line knows.
    #[command(subcommand)]
    Ctx(Ctx),
    /// What happened, and why.
    Events {
        /// Only what is about this: a stack, service, instance or host id.
        subject: Option<String>,
        /// Go on as events happen.
        #[arg(short, long)]
        follow: bool,
    },
    /// What is wrong with the hosts and the paths between them, why, and what to do about it.
    Doctor {
        /// Show what each path between two hosts carries.
        #[arg(long)]
        paths: bool,
    },
    /// The cluster's state and settings.
    Status,
    /// Versions of this command line and of the cluster.
    Version {
        /// Only this command line's.
        #[arg(long)]
        client: bool,
    },
    /// Explain the code of a problem, for example E0107.
    Explain {
        /// The code.
        code: String,
    },
    /// Print the completions of a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it runs until it is stopped.
    pub fn is_service(&self) -> bool {
        match self {
            Command::Up(up) => !up.detach,
            Command::Coordinator(_) => true,
            Command::Agent(agent) => match &agent.command {
                AgentCommand::Run(_) => true,
                AgentCommand::Install(install) => install.foreground,
                AgentCommand::ResetIdentity { .. } => false,
            },
            _ => false,
        }
    }
}

/// How a host's service runs.
#[derive(Debug, Clone, clap::Args)]
pub struct Service {
    /// The folder of its state.
    #[arg(long, default_value = STATE, env = "WHARF_STATE")]
    pub state: PathBuf,
    /// The folder of the key that secrets are sealed with: better not on the disk of the state.
    #[arg(long, default_value = KEYS, env = "WHARF_KEYS")]
    pub keys: PathBuf,
    /// Where the coordinator listens.
    #[arg(long, default_value = LISTEN)]
    pub listen: SocketAddr,
    /// Where others reach the coordinator; found by itself if absent.
    #[arg(long)]
    pub advertise: Option<SocketAddr>,
    /// Docker's socket.
    #[arg(long, default_value = agent::runtime::docker::SOCKET)]
    pub docker: String,
}

/// Start the platform.
#[derive(Debug, clap::Args)]
pub struct Up {
    /// How it runs.
    #[command(flatten)]
    pub service: Service,
    /// The host's name; its own if absent.
    #[arg(long)]
    pub name: Option<Name>,
    /// Return when it runs; its output goes to a file in the state folder.
    #[arg(short, long)]
    pub detach: bool,
    /// The time between two heartbeats of a host.
    #[arg(long)]
    pub heartbeat: Option<Span>,
    /// Silence after which a host gets nothing new.
    #[arg(long)]
    pub suspect_after: Option<Span>,
    /// Silence after which a host counts as down.
    #[arg(long)]
    pub down_after: Option<Span>,
    /// Silence after which a host's instances run elsewhere.
    #[arg(long)]
    pub lost_after: Option<Span>,
    /// How containers of different hosts reach each other: vxlan if absent, wireguard, which is encrypted, or none,
    /// where each host has a bridge of its own. It cannot be changed later.
    #[arg(long)]
    pub overlay: Option<Backend>,
    /// The range of containers' addresses, of which each host gets a /24: 10.42.0.0/16 if absent. It cannot be
    /// changed later.
    #[arg(long)]
    pub cluster_cidr: Option<Ipv4Net>,
    /// The range of services' addresses: 10.43.0.0/16 if absent. It cannot be changed later.
    #[arg(long)]
    pub service_cidr: Option<Ipv4Net>,
}

/// The agent of this host.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// What to do; running it if nothing is said.
    #[command(subcommand)]
    pub command: AgentCommand,
}

/// What can be done with the agent.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Run it.
    Run(Service),
    /// Join this host to a cluster: what the pasted line does in the end.
    Install(Install),
    /// Forget who this host is; the next join makes a new identity.
    ResetIdentity {
        /// The folder of its state.
        #[arg(long, default_value = STATE, env = "WHARF_STATE")]
        state: PathBuf,
    },
}

/// Join a host.
#[derive(Debug, clap::Args)]
pub struct Install {
    /// A coordinator.
    #[arg(long)]
    pub coordinator: SocketAddr,
    /// The join token; better given by --token-file.
    #[arg(long, conflicts_with = "token_file")]
    pub token: Option<String>,
    /// A file with the join token; - is standard input.
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// The name that the host would like; its own if absent.
    #[arg(long)]
    pub name: Option<Name>,
    /// How it will run.
    #[command(flatten)]
    pub service: Service,
    /// Leave another cluster first.
    #[arg(long)]
    pub leave_first: bool,
    /// Where the binary goes.
    #[arg(long, default_value = "/usr/local/bin/wharf")]
    pub binary: PathBuf,
    /// Stay in the foreground instead of installing a service.
    #[arg(long)]
    pub foreground: bool,
}

/// Remove wharf from this host.
#[derive(Debug, clap::Args)]
pub struct Uninstall {
    /// The folder of its state.
    #[arg(long, default_value = STATE, env = "WHARF_STATE")]
    pub state: PathBuf,
    /// Docker's socket.
    #[arg(long, default_value = agent::runtime::docker::SOCKET)]
    pub docker: String,
    /// The folder of the key that secrets are sealed with.
    #[arg(long, default_value = KEYS, env = "WHARF_KEYS")]
    pub keys: PathBuf,
    /// The binary to remove.
    #[arg(long, default_value = "/usr/local/bin/wharf")]
    pub binary: PathBuf,
    /// Remove the volumes of its stacks too: their data is lost.
    #[arg(long)]
    pub purge_volumes: bool,
}

/// What is shown of compose files; all of it if nothing is said.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
pub struct Shown {
    /// Only the names of the services that are on.
    #[arg(long)]
    pub services: bool,
    /// Only the images.
    #[arg(long)]
    pub images: bool,
    /// Only the profiles that services have.
    #[arg(long = "profiles")]
    pub profile_names: bool,
    /// Only the variables that the files use, with their defaults.
    #[arg(long)]
    pub variables: bool,
    /// What wharf does with each key of the files: done, refused or left out, and why.
    #[arg(long)]
    pub keys: bool,
}

/// Compose files and the stack that they are for.
#[derive(Debug, Clone, clap::Args)]
pub struct Files {
    /// The compose files; later ones override earlier ones, and - is the standard input. If absent: those of
    /// COMPOSE_FILE, or compose.yaml and compose.override.yaml here or in a folder above.
    #[arg(short, long = "file")]
    pub files: Vec<PathBuf>,
    /// Turn a profile on, beside those of COMPOSE_PROFILES; "*" is all of them.
    #[arg(long = "profile")]
    pub profiles: Vec<String>,
    /// Deploy this service too, although its profiles are off.
    #[arg(long = "with", value_name = "SERVICE")]
    pub with: Vec<String>,
    /// Files with variables for interpolation, instead of .env; the environment goes first.
    #[arg(long = "env-file")]
    pub env_files: Vec<PathBuf>,
    /// The stack's name; the file's, or the folder's, if absent.
    #[arg(short, long)]
    pub name: Option<Name>,
}

/// Deploy a stack.
#[derive(Debug, clap::Args)]
pub struct Deploy {
    /// The files.
    #[command(flatten)]
    pub files: Files,
    /// Return when it is accepted.
    #[arg(short, long)]
    pub detach: bool,
    /// How long to wait until everything runs.
    #[arg(long, default_value = "10m")]
    pub wait: Span,
}

/// Show output.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// A service or an instance: stack/service, or stack/service/slot.incarnation.
    pub target: String,
    /// A sidekick, or `_step-1` for the first step before the start, instead of the main container.
    #[arg(long)]
    pub part: Option<Part>,
    /// Go on as output appears.
    #[arg(short, long)]
    pub follow: bool,
    /// The number of last lines of each instance; all if absent.
    #[arg(short, long)]
    pub tail: Option<u32>,
}

/// What `wharf rollback` takes.
#[derive(Debug, clap::Args)]
pub struct Rollback {
    /// The stack.
    pub stack: Name,
    /// The revision; the last earlier one that served if absent.
    #[arg(long)]
    pub to: Option<u64>,
    /// Do not follow the progress.
    #[arg(long)]
    pub detach: bool,
    /// How long to follow it.
    #[arg(long, default_value = "10m")]
    pub wait: Span,
}
