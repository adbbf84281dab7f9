//! The coordinators' decisions, as pure functions over one value.
//!
//! [`State`] is all that is replicated; [`State::apply`] is the only way to change it;
//! [`plan()`] says what should change next; [`view`] derives everything that others are told.
//! Nothing here reads a clock, a file or a random number: time and ids come inside the commands.

pub mod access;
pub mod changes;
pub mod clock;
pub mod command;
pub mod divergence;
mod explain;
pub mod fence;
pub mod lease;
pub mod level;
pub mod plan;
pub mod sealed;
pub mod state;
#[cfg(test)]
mod testing;
pub mod trust;
pub mod upgrade;
pub mod view;

pub use changes::Changes;
pub use command::{Author, Batch, Command, Outcome, Proposal, Request, RequestId};
pub use plan::{Moment, Plan, Planner, plan};
pub use state::State;
