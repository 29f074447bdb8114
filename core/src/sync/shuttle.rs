//! shuttle: schedules drawn at random or by PCT, with more threads than loom can take. Used by the `shuttle_*` tests
//! alone.

use std::cell::Cell;
use std::sync::PoisonError;
use std::time::Duration;

use super::ThreadToken;

pub(crate) use shuttle::thread_local;

pub use shuttle::sync::Arc;
pub use shuttle::sync::MutexGuard;
pub use std::time::Instant;

/// Atomics, as in `std::sync::atomic`.
pub mod atomic {
    pub use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
}

/// Threads, as in `std::thread`.
pub mod thread {
    pub use shuttle::thread::{JoinHandle, Thread, current, panicking, spawn, yield_now};
}

/// A mutual exclusion lock that does not poison.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// An unlocked mutex around `value`.
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    /// The value, without locking: the caller owns the mutex.
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Blocks until the lock is free, then holds it for as long as the guard lives.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the lock if it is free just now.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// The value, without locking: the caller has the only reference.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition variable with deadlines.
#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    /// A condition that nobody waits for.
    pub const fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    /// Unlocks, blocks until notified (or for no reason: check the condition in a loop), locks again.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Condvar::wait`], at most until `deadline`. The second value says whether the deadline has passed.
    pub fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Deadline,
    ) -> (MutexGuard<'a, T>, bool) {
        match deadline.passed() {
            true => (guard, true),
            false => (self.wait(guard), false),
        }
    }

    /// Wakes one that waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A point in time after which a wait gives up: now, or never.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(bool);

impl Deadline {
    /// Waits for as long as it takes.
    pub const NEVER: Self = Self(false);

    /// Now if `from_now` is zero; else never, so that a lost wake-up shows as a deadlock.
    pub fn after(from_now: Duration) -> Self {
        Self(from_now.is_zero())
    }

    /// Whether the time has come.
    pub fn passed(self) -> bool {
        self.0
    }
}

/// What belongs to the process and survives a fork in the child.
pub(crate) mod process {
    use std::sync::atomic::{AtomicU64, Ordering};

    static FORKS: AtomicU64 = AtomicU64::new(0);

    /// How many forks lie between the first process and this one.
    #[inline]
    pub(crate) fn forks() -> u64 {
        FORKS.load(Ordering::Relaxed)
    }

    /// Counts one more. Async-signal-safe: one atomic operation.
    pub(crate) fn count_fork() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    static TOKEN: Cell<Option<ThreadToken>> = Cell::new(None);
}

#[inline]
pub(super) fn thread_token(make: impl FnOnce() -> ThreadToken) -> ThreadToken {
    TOKEN
        .try_with(|token| match token.get() {
            Some(token) => token,
            None => {
                let made = make();
                token.set(Some(made));
                made
            }
        })
        .unwrap_or_else(|_| super::ThreadToken(super::unique_id()))
}
