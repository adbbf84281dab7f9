//! The vocabulary of wharf: values that its programs share and exchange.
//!
//! Nothing here reads a clock, a file or a socket, so the pure cores can use it, and both ends of a connection share
//! it.

pub mod file;
pub mod id;
pub mod name;
pub mod part;
pub mod quantity;
pub mod role;
pub mod rollout;
pub mod secret;
pub mod time;

pub mod spec;
pub mod tagged;

pub mod assignment;
pub mod audit;
pub mod backup;
pub mod device;
pub mod directory;
pub mod finding;
pub mod host;
pub mod instance;
pub mod network;
pub mod output;
pub mod report;

pub mod api;
pub mod base32;
pub mod codec;
pub mod cron;
pub mod error;
pub mod explain;
pub mod hex;
pub mod token;
pub mod upgrade;
pub mod wire;
