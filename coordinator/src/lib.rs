//! The coordinator: replicates the state, plans, serves agents and people.

pub mod raft;
