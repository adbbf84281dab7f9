//! Our containers as Docker shows them.

use std::{collections::BTreeSet, net::Ipv4Addr};

use common::{instance::Health, output::LastLines, spec::Protocol, time::Timestamp};

/// A container of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Docker's id of it.
    pub id: String,
    /// Whether it runs.
    pub state: ContainerState,
    /// The registry's digest of its image, if Docker knows one.
    pub image_digest: Option<String>,
    /// Its address on the host's network, if it has one of its own.
    pub address: Option<Ipv4Addr>,
    /// Its process and hardware address while it runs.
    pub sender: Option<Sender>,
    /// The last output of its program, if that has ended, or of its health check, if that fails.
    pub output: LastLines,
    /// The host's ports that Docker leads to it while it runs.
    pub published: BTreeSet<Published>,
}

/// A port of the host that Docker leads to a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// The protocol.
    pub protocol: Protocol,
    /// The one address of the host where it is open; none if it is open at all of them.
    pub at: Option<Ipv4Addr>,
    /// The host's port.
    pub port: u16,
    /// The container's port.
    pub container: u16,
}

/// The process and the hardware address of a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Its first process, by the host's count: it is in the container's network namespace.
    pub process: u32,
    /// The hardware address that it has there.
    pub hardware_address: [u8; 6],
}

impl Container {
    /// Whether it runs.
    pub fn runs(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }
}

/// Whether a container runs, and since or until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// It has never been started.
    Created,
    /// It runs.
    Running {
        /// Since when.
        started_at: Timestamp,
        /// The verdict of its health check.
        health: Health,
    },
    /// Its program has ended.
    Exited {
        /// When it was started.
        started_at: Timestamp,
        /// When it ended.
        finished_at: Timestamp,
        /// Its exit code.
        exit_code: i64,
        /// Whether the kernel ended it for want of memory.
        out_of_memory: bool,
    },
}
