//! The grammar of backups and of what is done with them.

use std::{net::SocketAddr, path::PathBuf};

use clap::Subcommand;
use common::time::Span;

use super::Service;

/// The options of `wharf backup`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Backup {
    /// The file to write. It must not exist. Default: wharf-CLUSTER-INDEX.backup in this folder.
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// A command on backups.
    #[command(subcommand)]
    pub command: Option<BackupCommand>,
}

/// Commands on backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Make the key that backups are encrypted to, and print its private part. It cannot be shown again, and no
    /// coordinator has it: without it no backup can be read.
    Key {
        /// Make a new key although the cluster has one. Older backups need the older key.
        #[arg(long)]
        replace: bool,
    },
    /// Check every byte of a backup, and show what is in it. Needs no cluster.
    Verify {
        /// The backup.
        file: PathBuf,
        /// The file with the backup key; - is standard input, which is the default.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// List the backups in a folder on this host. Needs no cluster and no key.
    Ls {
        /// The folder. Default: where this host's coordinator writes scheduled backups.
        folder: Option<PathBuf>,
    },
    /// Have every coordinator make backups by itself, into a folder on its host: /var/lib/wharf-backups unless it was
    /// started with --backups.
    Schedule {
        /// The time from one backup to the next.
        #[arg(long, required_unless_present = "off")]
        every: Option<Span>,
        /// How many backups each coordinator keeps.
        #[arg(long, default_value = "14")]
        keep: u32,
        /// Make no scheduled backups any more.
        #[arg(long, conflicts_with = "every")]
        off: bool,
    },
    /// Show the schedule, and what came of the last scheduled backups.
    Status,
}

/// The options of `wharf restore`.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The backup.
    pub file: PathBuf,
    /// The file with the backup key; - is standard input, which is the default.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The host of the lost cluster, by name or id, whose place this host takes. Its containers here go on. Default: the
    /// host with this host's name, or else the one that ran on this machine.
    #[arg(long = "as", value_name = "HOST")]
    pub host: Option<String>,
    /// How long the instances of hosts that have not returned are not replaced. The printed lines are valid as long.
    #[arg(long, default_value = "1h")]
    pub wait: Span,
    /// Restore although coordinators of the cluster answer. Hosts that follow those belong to another cluster then.
    #[arg(long)]
    pub ignore_live: bool,
    /// The options of the service to install.
    #[command(flatten)]
    pub service: Service,
    /// The path to install the binary to.
    #[arg(long, default_value = "/usr/local/bin/wharf")]
    pub binary: PathBuf,
    /// Only prepare the state. To start the service later: wharf up.
    #[arg(long)]
    pub no_start: bool,
}

/// The options of `wharf recover`.
#[derive(Debug, clap::Args)]
pub struct Recover {
    /// The options of the service whose store is read.
    #[command(flatten)]
    pub service: Service,
    /// Begin again with this host's coordinator alone. Without it, the command only shows what there is.
    #[arg(long)]
    pub apply: bool,
    /// Begin again although a coordinator that answers knows more than this one. What only that one knows is lost.
    #[arg(long)]
    pub although_behind: bool,
    /// How long the instances of hosts that have not returned are not replaced.
    #[arg(long, default_value = "1h")]
    pub wait: Span,
}

/// The options of `wharf agent coordinators`.
#[derive(Debug, clap::Args)]
pub struct Coordinators {
    /// The addresses of the cluster's coordinators, one or more of them.
    #[arg(required = true)]
    pub addresses: Vec<SocketAddr>,
    /// The folder for wharf's state on this host.
    #[arg(long, default_value = super::STATE, env = "WHARF_STATE")]
    pub state: PathBuf,
}
