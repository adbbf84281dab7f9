//! Shared parts of the tests: a lab of real hosts, load, waiting.

pub mod cluster;
pub mod http;
pub mod join;
pub mod keys;
pub mod lab;
pub mod linear;
pub mod load;
pub mod processes;
pub mod registry;
pub mod store;
pub mod wait;
pub mod world;
