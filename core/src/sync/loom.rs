//! loom: every interleaving within bounds. Used by the `loom_*` tests alone.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::ThreadToken;

pub(crate) use loom::thread_local;

pub use loom::sync::Arc;
pub use std::time::Instant;

use loom::sync::Notify;

/// Atomics, as in `std::sync::atomic`.
pub mod atomic {
    pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
}

/// Threads, as in `std::thread`. (No `park`: loom 0.7's `unpark` wakes a thread that is blocked on a mutex, too.)
pub mod thread {
    pub use loom::thread::{JoinHandle, Thread, current, panicking, spawn, yield_now};
}

/// A mutual exclusion lock.
#[derive(Debug)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

/// Holds a [`Mutex`] for as long as it lives.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    inner: loom::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    /// An unlocked mutex around `value`.
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// The value, without locking: the caller owns the mutex.
    pub fn into_inner(self) -> T {
        self.0.into_inner().expect("loom's mutexes do not poison")
    }

    /// Blocks until the lock is free, then holds it for as long as the guard lives.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, inner: self.0.lock().expect("loom's mutexes do not poison") }
    }

    /// Holds the lock if it is free just now.
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|inner| MutexGuard { mutex: self, inner })
    }

    /// The value, without locking: the caller has the only reference.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().expect("loom's mutexes do not poison")
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A condition variable whose deadlines obey the model's [`clock`].
#[derive(Debug, Default)]
pub struct Condvar {
    plain: loom::sync::Condvar,
    /// Those who wait with a deadline while a clock is armed, each with a one-token notify of its own: the clock
    /// can then wake a waiter without knowing the waiter's mutex, and no wake-up is lost in between.
    timed: Mutex<Vec<Arc<Notify>>>,
}

impl Condvar {
    /// A condition that nobody waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unlocks, blocks until notified (or for no reason: check the condition in a loop), locks again.
    #[track_caller]
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { mutex, inner } = guard;
        MutexGuard { mutex, inner: self.plain.wait(inner).expect("loom's mutexes do not poison") }
    }

    /// As [`Condvar::wait`], at most until `deadline`. The second value says whether the deadline has passed.
    #[track_caller]
    pub fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Deadline,
    ) -> (MutexGuard<'a, T>, bool) {
        match deadline {
            Deadline::NOW => (guard, true),
            Deadline::LATER if clock::armed() => {
                let notify = Arc::new(Notify::new());
                self.timed.lock().push(notify.clone());
                if !clock::sleep(&notify) {
                    return (guard, true);
                }
                let mutex = guard.mutex;
                drop(guard);
                notify.wait();
                let guard = mutex.lock();
                (guard, clock::expired())
            }
            _ => (self.wait(guard), false),
        }
    }

    /// Wakes one that waits.
    #[track_caller]
    pub fn notify_one(&self) {
        if clock::armed() {
            // Waking all is a legal notify_one: wake-ups may be spurious.
            self.notify_all();
        } else {
            self.plain.notify_one();
        }
    }

    /// Wakes all that wait.
    #[track_caller]
    pub fn notify_all(&self) {
        if clock::armed() {
            let timed = std::mem::take(&mut *self.timed.lock());
            for notify in timed {
                notify.notify();
            }
        }
        self.plain.notify_all();
    }
}

/// A point in time after which a wait gives up: now, when the model's [`clock`] says so, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(u8);

impl Deadline {
    const NOW: Self = Self(0);
    const LATER: Self = Self(1);
    /// Waits for as long as it takes.
    pub const NEVER: Self = Self(2);

    /// Now if `from_now` is zero, never if it is the longest duration, else when the clock says so.
    pub fn after(from_now: Duration) -> Self {
        match from_now {
            Duration::ZERO => Self::NOW,
            Duration::MAX => Self::NEVER,
            _ => Self::LATER,
        }
    }

    /// Whether the time has come.
    pub fn passed(self) -> bool {
        self == Self::NOW || self == Self::LATER && clock::armed() && clock::expired()
    }
}

/// The model's time: one event, "all deadlines have passed", that a thread of the model may cause at any moment.
pub mod clock {
    use super::{Arc, Cell, Mutex, Notify};

    std::thread_local! {
        // All threads of one model run on one thread of the system. Set before the first branch of an
        // execution, so that it is constant while loom explores.
        static ARMED: Cell<bool> = const { Cell::new(false) };
    }

    loom::lazy_static! {
        static ref CLOCK: Mutex<Clock> = Mutex::new(Clock::default());
    }

    #[derive(Default)]
    struct Clock {
        expired: bool,
        sleepers: Vec<Arc<Notify>>,
    }

    /// Says whether this model has a clock. Call it first thing in the model's closure.
    pub fn arm(armed: bool) {
        ARMED.set(armed);
    }

    pub(super) fn armed() -> bool {
        ARMED.get()
    }

    /// Lets all deadlines pass, those of waits to come as well.
    pub fn expire() {
        let sleepers = {
            let mut clock = CLOCK.lock();
            clock.expired = true;
            std::mem::take(&mut clock.sleepers)
        };
        for sleeper in sleepers {
            sleeper.notify();
        }
    }

    pub(super) fn expired() -> bool {
        CLOCK.lock().expired
    }

    /// Registers a sleeper; false if the time has come already.
    pub(super) fn sleep(sleeper: &Arc<Notify>) -> bool {
        let mut clock = CLOCK.lock();
        if !clock.expired {
            clock.sleepers.push(sleeper.clone());
        }
        !clock.expired
    }
}

/// What belongs to the process and survives a fork in the child. A model has one child at most and no threads at
/// that moment, so this is no point of communication between the model's threads.
pub(crate) mod process {
    use std::cell::Cell;

    std::thread_local! {
        static FORKS: Cell<u64> = const { Cell::new(0) };
    }

    pub(crate) fn forks() -> u64 {
        FORKS.get()
    }

    pub(crate) fn count_fork() {
        FORKS.set(FORKS.get() + 1);
    }
}

thread_local! {
    static TOKEN: Cell<Option<ThreadToken>> = Cell::new(None);
}

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
        // loom destroys even what needs no destructor when a thread ends.
        .unwrap_or_else(|_| super::ThreadToken(super::unique_id()))
}
