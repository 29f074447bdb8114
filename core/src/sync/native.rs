//! The standard library, as it ships.

use std::cell::Cell;
use std::sync::PoisonError;
use std::time::Duration;

use super::ThreadToken;

pub(crate) use std::thread_local;

pub use std::sync::Arc;
pub use std::sync::MutexGuard;
pub use std::time::Instant;

/// Atomics, as in `std::sync::atomic`.
pub mod atomic {
    pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
}

/// Threads, as in `std::thread`.
pub mod thread {
    pub use std::thread::{JoinHandle, Thread, current, panicking, park, park_timeout, spawn, yield_now};
}

/// A mutual exclusion lock that does not poison.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// An unlocked mutex around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
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
    #[inline]
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
pub struct Condvar(std::sync::Condvar);

impl Condvar {
    /// A condition that nobody waits for.
    pub const fn new() -> Self {
        Self(std::sync::Condvar::new())
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
        match deadline.remaining() {
            None => (self.wait(guard), false),
            Some(Duration::ZERO) => (guard, true),
            Some(left) => {
                let (guard, _) = self.0.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner);
                (guard, deadline.passed())
            }
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

/// A point in time after which a wait gives up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Waits for as long as it takes.
    pub const NEVER: Self = Self(None);

    /// `from_now` in the future; a duration too long for the clock means never.
    pub fn after(from_now: Duration) -> Self {
        Self(Instant::now().checked_add(from_now))
    }

    /// At this instant.
    pub fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// Whether the time has come.
    pub fn passed(self) -> bool {
        self.0.is_some_and(|at| Instant::now() >= at)
    }

    /// How long until then: zero once it passed, `None` for never.
    pub fn remaining(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
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
    static TOKEN: Cell<Option<ThreadToken>> = const { Cell::new(None) };
}

#[inline]
pub(super) fn thread_token(make: impl FnOnce() -> ThreadToken) -> ThreadToken {
    TOKEN.with(|token| match token.get() {
        Some(token) => token,
        None => {
            let made = make();
            token.set(Some(made));
            made
        }
    })
}
