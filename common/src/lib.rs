//! The vocabulary of wharf: what its parts call things and say to each other.
//!
//! Everything here is a value. Nothing here reads a clock, a file or a socket, so the pure cores
//! can build on it and both ends of a wire can share it.

pub mod name;
pub mod id;
pub mod time;
pub mod quantity;
pub mod secret;

pub mod spec;
pub mod compose;

pub mod host;
pub mod instance;
pub mod assignment;
pub mod report;

pub mod codec;
pub mod base32;
pub mod token;
pub mod wire;
pub mod error;
pub mod api;
