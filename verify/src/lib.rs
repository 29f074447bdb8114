//! A design model of streampool: stream pool, timeline, memory and shutdown composed, small enough to visit every state.
//!
//! The schedules of the shipped code itself are the matter of loom and shuttle (`core/tests`); what they cannot reach is more threads that
//! go on for ever, and with them *liveness*: that every waiter is served and shutdown ends. Here whole critical sections are single
//! steps, all numbers are relative to what is done, and so the reachable states are finite although nobody ever stops.
//!
//! The decisions are not copied: who may have a slot ([`streampool_core::slot::rule`]), what an operation waits for
//! ([`streampool_core::hazard`]) and when memory is reused ([`streampool_core::memory::rule`]) are the functions that the library itself runs.
//!
//! - [`system`]: the states and steps, with [`system::Fault`]s that can be planted;
//! - [`liveness`]: the search for a fair run in which somebody waits for ever;
//! - [`check`]: both together.
#![forbid(unsafe_code)]

pub mod check;
pub mod liveness;
pub mod system;
