//! Sentences about the planner's values, for people. The planner itself has none.

mod blocked;
mod claims;

pub use claims::claims;
