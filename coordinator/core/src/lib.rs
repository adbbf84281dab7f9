//! The coordinators' decisions, as pure functions over one value.
//!
//! [`Cluster`] is all that is replicated; [`Cluster::apply`] is the only way to change it;
//! [`plan()`] says what should change next; [`view`] derives everything that others are told.
//! Nothing here reads a clock, a file or a random number: time and ids come inside the commands.

pub mod access;
pub mod cluster;
pub mod command;
pub mod lease;
pub mod plan;
#[cfg(test)]
mod testing;
pub mod view;

pub use cluster::Cluster;
pub use command::{Author, Batch, Command, Outcome, Proposal, Request, RequestId};
pub use plan::{Moment, Plan, Planner, plan};
