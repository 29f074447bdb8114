//! The device-independent half of streampool.
//!
//! One idea a module: who may use a stream ([`slot`], [`lease`]), what is known to be done ([`timeline`]),
//! what an operation must wait for ([`hazard`]), where bytes come from and when they may be used again
//! ([`memory`]), how one program is compiled once ([`once`]), how a process forks and a device closes
//! ([`gate`]), who goes next to a lock of somebody else's ([`turnstile`]), what a device must be able to do
//! ([`driver`]) and in which language it is spoken to ([`op`]).
//!
//! Nothing here knows a device, and nothing here is `unsafe`.
#![forbid(unsafe_code)]

pub mod driver;
pub mod error;
pub mod gate;
pub mod hazard;
pub mod interrupt;
pub mod lease;
pub mod memory;
pub mod once;
pub mod op;
pub mod slot;
pub mod sync;
pub mod timeline;
pub mod turnstile;

pub use error::{Error, Result};
