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

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_deadline_passes_when_its_time_has_come_and_never_does_not() {
        let soon = Deadline::after(Duration::from_millis(5));
        assert!(!Deadline::after(PATIENCE).passed() && Deadline::after(Duration::ZERO).passed());
        assert!(
            Deadline::after(PATIENCE).remaining().is_some_and(|left| left <= PATIENCE && !left.is_zero())
        );
        std::thread::sleep(Duration::from_millis(5));
        assert!(soon.passed());
        assert_eq!(soon.remaining(), Some(Duration::ZERO));
        for never in [Deadline::NEVER, Deadline::after(Duration::MAX)] {
            assert!(!never.passed());
            assert_eq!(never.remaining(), None);
        }
    }

    #[test]
    fn a_wait_that_nobody_ends_lasts_until_its_deadline_and_says_so() {
        let (lock, condition) = (Mutex::new(()), Condvar::new());
        let start = Instant::now();
        let mut passed = false;
        let deadline = Deadline::after(Duration::from_millis(5));
        let mut held = lock.lock();
        while !passed {
            (held, passed) = condition.wait_until(held, deadline);
        }
        drop(held);
        assert!(deadline.passed() && start.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn one_notification_wakes_one_that_waits() {
        let (tokens, condition) = (Mutex::new(0), Condvar::new());
        let take = || {
            let mut left = tokens.lock();
            while *left == 0 {
                let passed;
                (left, passed) = condition.wait_until(left, Deadline::after(PATIENCE));
                assert!(!passed, "the notification is lost");
            }
            *left -= 1;
        };
        std::thread::scope(|scope| {
            let waiters = [scope.spawn(take), scope.spawn(take)];
            for _ in 0..2 {
                // Both sleep, as likely as not: a token that is there before its taker is no notification.
                std::thread::sleep(Duration::from_millis(10));
                *tokens.lock() += 1;
                condition.notify_one();
            }
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        });
        assert_eq!(tokens.into_inner(), 0);
    }

    #[test]
    fn a_lock_that_is_free_is_had_without_waiting_and_one_that_is_held_is_not() {
        let mut lock = Mutex::new(7);
        let held = lock.try_lock().expect("it is free");
        assert!(lock.try_lock().is_none());
        drop(held);
        // A panic with the lock held poisons nothing.
        let panicked = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let mut value = lock.lock();
                    *value += 1;
                    std::panic::resume_unwind(Box::new("user code"));
                })
                .join()
        });
        assert!(panicked.is_err());
        assert_eq!((lock.try_lock().map(|value| *value), *lock.lock()), (Some(8), 8));
        assert_eq!((*lock.get_mut(), lock.into_inner()), (8, 8));
    }
}
