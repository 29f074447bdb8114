//! The contract's scenarios in Rust: the same workloads on every device that this build has, each result compared with the same
//! work done serially on one thread.

mod churn;
mod compile;
mod handover;
mod linalg;
mod memory;
mod model;
mod parallel;
mod pool_race;
mod record_stream;
mod support;
