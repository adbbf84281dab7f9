//! The command line: it starts the agent and the coordinator of a host, and speaks HTTP with a
//! cluster.

pub mod args;
pub mod client;
pub mod commands;
pub mod context;
pub mod host;
pub mod output;
pub mod pinned;
