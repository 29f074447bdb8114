//! The gate: one place that every entry point passes, for shutdown and for forks.
//!
//! A [`Gate`] belongs to one opened device. Every entry point calls [`Gate::check`] first: two loads of memory that
//! hardly ever changes, so that all cores keep it in their caches.
//!
//! # Forks (INV-10)
//!
//! After `fork` the child has one thread, the copy of the one that forked. The other threads are gone, but the
//! locks they held stay locked for ever, and the device's queues still belong to the parent. So in the child
//! nothing of the parent's may be locked, waited for, submitted to or freed. A driver's (or the Python package's)
//! `pthread_atfork` child handler calls [`forked_in_child`]; from then on every gate opened before says
//! `Error::forked`, and everything that would clean up asks [`Gate::is_forked`] *before* it touches a lock, and
//! leaks instead. A device opened in the child has a gate of the child's own generation and works.

use crossbeam_utils::CachePadded;

use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::process;

/// Tells this process that it is the child of a fork. To be called in the child, before anything else of this crate:
/// from the child handler of `pthread_atfork`. Async-signal-safe (one atomic operation), callable any number of times.
pub fn forked_in_child() {
    process::count_fork();
}

/// How many forks lie between the first process and this one, as far as [`forked_in_child`] was told.
pub fn fork_generation() -> u64 {
    process::forks()
}

/// Where a device is in its life. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Entries are let in.
    Open,
    /// No entry is let in any more; what runs is being waited for.
    Closing,
    /// Nothing runs and nothing will.
    Closed,
}

/// Lets entries in while a device is open, in the process that opened it.
#[derive(Debug)]
pub struct Gate {
    line: CachePadded<Line>,
}

/// Read at every entry; written twice in a device's life.
#[derive(Debug)]
struct Line {
    /// The fork generation in which the device was opened. Never changes.
    opened_in: u64,
    /// A [`Phase`]. Leaves `OPEN` by the one thread that wins [`Gate::begin_close`]; leaves `CLOSING` by
    /// [`Gate::finish_close`]. A thread that still reads `OPEN` afterwards is refused by the lock that it takes
    /// next (a closed slot), so acquire loads are enough.
    phase: AtomicU8,
}

const OPEN: u8 = 0;
const CLOSING: u8 = 1;
const CLOSED: u8 = 2;

impl Default for Gate {
    fn default() -> Self {
        Self::open()
    }
}

impl Gate {
    /// An open gate of this process.
    pub fn open() -> Self {
        Self { line: CachePadded::new(Line { opened_in: process::forks(), phase: AtomicU8::new(OPEN) }) }
    }

    /// Lets the caller in, or says why not: `is_forked` in the child of a fork, `is_shut_down` once closing began.
    #[inline]
    pub fn check(&self) -> Result<()> {
        if self.line.opened_in == process::forks() && self.line.phase.load(Ordering::Acquire) == OPEN {
            Ok(())
        } else {
            Err(self.refusal())
        }
    }

    /// Whether this process is a child of the one that opened the device. Then nothing of the device's may be touched,
    /// not even to free it. Destructors ask this first and leak if it is so.
    #[inline]
    pub fn is_forked(&self) -> bool {
        self.line.opened_in != process::forks()
    }

    /// Where the device is in its life.
    pub fn phase(&self) -> Phase {
        match self.line.phase.load(Ordering::Acquire) {
            OPEN => Phase::Open,
            CLOSING => Phase::Closing,
            _ => Phase::Closed,
        }
    }

    /// Lets nobody in any more. True for the one call that did it.
    pub fn begin_close(&self) -> bool {
        self.line.phase.compare_exchange(OPEN, CLOSING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// States that nothing runs any more.
    pub fn finish_close(&self) {
        self.line.phase.store(CLOSED, Ordering::Release);
    }

    #[cold]
    fn refusal(&self) -> Error {
        if self.is_forked() {
            Error::forked(
                "this process is the child of a fork, and a device cannot be used across a fork: its queues and locks \
                 belong to the parent. Open a device of its own in the child, or start the child with the \
                 'spawn' method instead of 'fork'",
            )
        } else {
            shut_down()
        }
    }
}

/// The error of everything that comes after closing began.
#[cold]
pub(crate) fn shut_down() -> Error {
    Error::shut_down("the device was closed: nothing can be submitted to it any more; open it again")
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_gate_only_moves_forward() {
        let gate = Gate::open();
        assert_eq!(gate.phase(), Phase::Open);
        gate.check().unwrap();
        assert!(gate.begin_close());
        assert!(!gate.begin_close(), "one call wins");
        assert_eq!(gate.phase(), Phase::Closing);
        assert!(gate.check().unwrap_err().is_shut_down());
        gate.finish_close();
        assert_eq!(gate.phase(), Phase::Closed);
        assert!(!gate.begin_close());
        assert!(gate.check().unwrap_err().is_shut_down());
        assert!(!gate.is_forked());
    }
}
