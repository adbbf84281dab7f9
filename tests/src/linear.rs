//! Whether what clients saw of a cluster could have happened one operation after the other: clients that write and read
//! the same few objects, faults meanwhile, and a checker of the histories. The checker judges each object by itself,
//! which is enough: histories are linearizable when those of all their objects are (Herlihy and Wing).

pub mod checker;
pub mod clients;
pub mod faults;
pub mod history;
pub mod model;
pub mod round;
