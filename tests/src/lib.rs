//! What the tests share: a lab of real hosts, waiting, and HTTP under load.

pub mod http;
pub mod lab;
pub mod wait;
