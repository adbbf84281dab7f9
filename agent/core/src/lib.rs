//! The agent's decisions, as pure functions: what its host should do next.
//!
//! [`reconcile()`] compares the assignment with what Docker shows and with what the agent
//! remembers, and says which actions to take now, what to report, and when to look again.
//! [`Work::of`] renders all that an action takes, and [`Awaited::look`] says when it may be done.
//! [`Memory::learn`] folds the result of an action back in. Nothing here reads a clock, a file or
//! a socket.

pub mod action;
pub mod condition;
pub mod images;
pub mod memory;
pub mod metadata;
pub mod names;
pub mod network;
pub mod observed;
pub mod probe;
pub mod reconcile;
pub mod search;
mod unit;
pub mod wait;
pub mod work;

pub use action::{Action, ActionResult};
pub use memory::{Local, Memory, Stopped};
pub use observed::{Container, ContainerState, Published, Sender};
pub use reconcile::{Lease, Next, Situation, reconcile, without_docker};
pub use wait::{Awaited, Seen, Wait};
pub use work::{Need, Work};
