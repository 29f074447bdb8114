//! The shim between core and what threads are made of: the standard library, or [loom], or [shuttle].
//!
//! Nothing else in this crate names `std::sync`, `std::thread` or `thread_local!` for anything that threads
//! communicate through, so the code that ships is the code that the model checkers run. `--cfg loom` explores
//! every interleaving within stated bounds; `--cfg shuttle` samples schedules of more threads. (`Arc`s of trait
//! objects in `error`, `op` and `driver` are the standard library's: they carry immutable values only.)
//!
//! What differs from the standard library:
//! - [`Mutex::lock`] ignores poisoning: a thread that panics while it holds a lock must not take others with it
//!   (INV-2). No code of this crate calls anything of a user's with a lock held.
//! - [`Condvar::wait_until`] takes a [`Deadline`].
//! - **Time under the model checkers.** A deadline of zero has passed, one of [`Deadline::NEVER`] never does. Any
//!   other passes only when the model calls `sync::clock::expire()`, from one of its threads, after
//!   `sync::clock::arm()` at its start. So a model without a clock treats every wait as unbounded, and a lost wake-up
//!   shows as a deadlock instead of hiding behind a time-out; a model with a clock explores the time-out at
//!   every point of the wait.
//!
//! [loom]: https://docs.rs/loom
//! [shuttle]: https://docs.rs/shuttle

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering as StdOrdering};

#[cfg(not(any(loom, shuttle)))]
#[path = "native.rs"]
mod imp;
#[cfg(loom)]
#[path = "loom.rs"]
mod imp;
#[cfg(all(shuttle, not(loom)))]
#[path = "shuttle.rs"]
mod imp;

pub(crate) use imp::thread_local;
pub use imp::*;
/// For values behind trait objects, which loom's and shuttle's `Arc` cannot be made of. They are immutable.
pub(crate) use std::sync::Arc as StdArc;

/// A number that no other call in this process returned. Not a point of communication: it is the standard
/// library's counter under every configuration.
pub(crate) fn unique_id() -> NonZeroU64 {
    static NEXT: StdAtomicU64 = StdAtomicU64::new(1);
    NonZeroU64::new(NEXT.fetch_add(1, StdOrdering::Relaxed)).expect("64 bits do not wrap")
}

/// Names a thread for as long as the process lives: unlike the system's thread ids, a token is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadToken(NonZeroU64);

impl ThreadToken {
    /// The calling thread's. Works at any time, also while the thread ends.
    #[inline]
    pub(crate) fn current() -> Self {
        imp::thread_token(|| Self(unique_id()))
    }
}
