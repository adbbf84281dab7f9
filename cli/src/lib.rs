//! The command line: it starts a host's agent and coordinator, and talks to a cluster by HTTP.

pub mod args;
pub mod client;
pub mod commands;
pub mod context;
pub mod host;
pub mod output;
pub mod pinned;
pub mod upgrade;
