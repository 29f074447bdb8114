//! The stream pool: a bounded number of slots, each with one stream's resources, used by any number of threads.
//!
//! # Who may run
//!
//! A slot carries a *payload* `T`: the stream's queue, its memory cache, its plan cache. To run is to hold the payload
//! *by value*: [`SlotPool::enter`] moves it out of the slot, the [`Running`] section owns it, and its end puts it back. So
//! no lock is held while a thread runs, and nothing else can touch the stream's resources: they are with whoever has
//! the right to run.
//!
//! There are two kinds of owners:
//! - a thread's **binding**: the slot that the thread used last. It is only a cache. While the thread runs nothing,
//!   somebody who waits may take the slot over; the generation moves on, and the thread notices at its next entry and
//!   takes another. So a thousand threads on 32 slots all make progress, and an idle thread pool starves nobody.
//! - a [`StreamLease`]: owned, exclusive, `Send`.
//!
//! If all slots run or are leased, [`Policy`] says what an entry does. Waiters are served in the order of arrival: a slot
//! that comes free goes to the oldest, and nobody overtakes, not even the thread that gave it up.
//!
//! # What the warm path costs
//!
//! An entry and its end lock the slot's own mutex, on the slot's own cache lines, twice, and read two lines that hardly
//! ever change (the gate; whether anybody waits). Nothing that another thread uses is written.
//!
//! ```
//! use streampool_core::slot::{PoolOptions, SlotPool};
//!
//! let pool = SlotPool::new(PoolOptions::default(), |stream| Ok(format!("the queue of {stream}")))?;
//! let run = pool.enter()?;
//! assert_eq!((run.stream().0, run.as_str()), (0, "the queue of stream 0"));
//! # drop(run);
//! # Ok::<(), streampool_core::Error>(())
//! ```

mod binding;
mod cell;
mod close;
mod future;
pub mod rule;
mod running;
mod shared;
mod stats;
mod waiter;

pub use close::Drained;
pub use future::{Enter, Lease};
pub use running::Running;
pub use stats::Stats;

pub(crate) use binding::Scope;
pub(crate) use shared::{Keep, Shared, Step};
pub(crate) use waiter::{Grant, Outcome};

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::lease::StreamLease;
use crate::sync::Deadline;
use crate::timeline::StreamId;

/// What an entry does while every slot is running or leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// Waits its turn, first come first served, at most this long; then `is_pool_exhausted`.
    Wait {
        /// The longest wait. [`Duration::MAX`] means for ever. A future is not woken by it, only checked when polled: use
        /// the runtime's own time-out to bound it.
        deadline: Duration,
    },
    /// Runs on a stream that somebody else owns, round robin, between that owner's sections: never two at once on one
    /// stream. Ownership is shared, the stream's resources are not. (Leases are exclusive all the same: asking for one
    /// waits as under the default policy.)
    Share,
    /// Says `is_pool_exhausted` at once.
    Refuse,
}

/// How long waits last unless the policy says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

impl Default for Policy {
    /// To wait for 30 seconds.
    fn default() -> Self {
        Self::Wait { deadline: PATIENCE }
    }
}

impl Policy {
    /// For a turn on a slot: no wait is without an end.
    pub(crate) fn turn_deadline(self) -> Deadline {
        match self {
            Self::Wait { deadline } => Deadline::after(deadline),
            Self::Share | Self::Refuse => Deadline::after(PATIENCE),
        }
    }
}

/// How a pool is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolOptions {
    /// How many slots: 1 to [`PoolOptions::MAX_SIZE`]; 32 by default.
    pub size: usize,
    /// What an entry does while all are in use.
    pub policy: Policy,
}

impl PoolOptions {
    /// The largest pool.
    pub const MAX_SIZE: usize = 1024;

    /// With so many slots.
    #[must_use]
    pub fn with_size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// With this policy.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { size: 32, policy: Policy::default() }
    }
}

/// A bounded pool of streams. See the [module's text](self).
///
/// The handle is not cloned; share it behind a reference or an `Arc`. Dropping it closes the pool without waiting:
/// payloads of running sections are dropped at their ends.
pub struct SlotPool<T: Send + 'static> {
    shared: Keep<T>,
}

impl<T: Send + 'static> SlotPool<T> {
    /// Makes a pool. The calling thread is the one that opens the device: slot 0 is bound to it, and goes to others only
    /// when there is no other way.
    ///
    /// `factory` makes the payload of a slot at its first section, with no lock held. If it fails, that entry fails
    /// with its error, and the next entry tries again.
    ///
    /// # Errors
    /// `is_invalid_argument` if the size is not 1 to 1,024.
    pub fn new(
        options: PoolOptions,
        factory: impl Fn(StreamId) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let PoolOptions { size, policy } = options;
        if size == 0 || size > PoolOptions::MAX_SIZE {
            return Err(Error::invalid_argument(format!(
                "a pool of {size} streams: choose 1 to {}",
                PoolOptions::MAX_SIZE
            )));
        }
        let shared = Shared::new(size as u32, policy, Box::new(factory));
        Ok(Self { shared: Keep::new(&shared) })
    }

    /// Begins a running section on the calling thread's slot, binding one if it has none.
    ///
    /// # Errors
    /// - `is_pool_exhausted`, according to the policy;
    /// - `is_shut_down` after [`SlotPool::close`] began, also for those who were waiting;
    /// - `is_forked` in the child of a fork;
    /// - `is_invalid_argument` if this thread already is inside a section of its binding;
    /// - what the factory says if this is the slot's first section.
    #[inline]
    pub fn enter(&self) -> Result<Running<'_, T>> {
        let shared = &**self.shared;
        shared.gate.check()?;
        if let Some(grant) = binding::find(shared.id)
            && let Some(running) = shared.begin(grant)
        {
            return running.with_payload();
        }
        self.enter_slow()
    }

    /// As [`SlotPool::enter`] if the calling thread is bound to a slot that is at rest; `None` if it would have to bind one, to wait, or
    /// to make the slot's payload.
    ///
    /// # Errors
    /// `is_shut_down`, `is_forked`.
    #[inline]
    pub fn try_enter(&self) -> Result<Option<Running<'_, T>>> {
        let shared = &**self.shared;
        shared.gate.check()?;
        let running = binding::find(shared.id).and_then(|grant| shared.begin(grant));
        Ok(running.filter(Running::is_ready))
    }

    #[cold]
    fn enter_slow(&self) -> Result<Running<'_, T>> {
        let deadline = self.shared.policy.turn_deadline();
        let step = Shared::enter_step(&self.shared)?;
        Shared::finish_entry(&self.shared, step, deadline)
    }

    /// As [`SlotPool::enter`], but waits without blocking the thread. The section belongs to the thread on which the
    /// future became ready, so end it before the next `await`.
    ///
    /// Any runtime will do. Dropping the future leaves the queue, and gives back what was granted to it.
    pub fn enter_async(&self) -> Enter<'_, T> {
        Enter {
            shared: &self.shared,
            deadline: self.shared.policy.turn_deadline(),
            state: future::State::Start,
        }
    }

    /// Leases a stream, waiting as the policy says (under [`Policy::Share`]: as by default).
    ///
    /// # Errors
    /// As [`SlotPool::enter`], without the last two.
    pub fn lease(&self) -> Result<StreamLease<T>> {
        self.lease_until(self.shared.policy != Policy::Refuse, self.shared.policy.turn_deadline())
    }

    /// Leases a stream, waiting at most so long whatever the policy. Zero means not to wait.
    ///
    /// # Errors
    /// As [`SlotPool::lease`].
    pub fn lease_deadline(&self, deadline: Duration) -> Result<StreamLease<T>> {
        self.lease_until(true, Deadline::after(deadline))
    }

    fn lease_until(&self, may_wait: bool, deadline: Deadline) -> Result<StreamLease<T>> {
        let place = match self.shared.lease_step(may_wait)? {
            Step::Done(grant) => return Ok(StreamLease::new(&self.shared, grant)),
            Step::Wait(place) => place,
        };
        match place.waiter.wait(deadline).or_else(|| self.shared.leave(&place)) {
            Some(outcome) => StreamLease::from_outcome(&self.shared, outcome),
            None => Err(self.shared.timed_out()),
        }
    }

    /// As [`SlotPool::lease`], but waits without blocking the thread. The future borrows nothing.
    ///
    /// Any runtime will do. Dropping the future leaves the queue, and gives back what was granted to it.
    pub fn lease_async(&self) -> Lease<T> {
        Lease {
            shared: Keep::new(&self.shared),
            deadline: self.shared.policy.turn_deadline(),
            may_wait: self.shared.policy != Policy::Refuse,
            state: future::State::Start,
        }
    }

    /// The stream and generation that the calling thread is bound to, if it has not lost it by now.
    pub fn current(&self) -> Option<(StreamId, u64)> {
        self.shared.gate.check().ok()?;
        let grant = binding::find(self.shared.id)?;
        let owned = self.shared.slot(grant.slot).is_owned(grant.generation);
        owned.then_some((StreamId(grant.slot), grant.generation))
    }

    /// How many slots there are.
    pub fn size(&self) -> usize {
        self.shared.slots.len()
    }

    /// What an entry does while all slots are in use.
    pub fn policy(&self) -> Policy {
        self.shared.policy
    }

    /// The gate that every entry passes. Other parts of a device may pass the same one.
    pub fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    /// What the pool is doing.
    ///
    /// # Errors
    /// `is_forked` in the child of a fork, whose locks may be held by threads that do not exist.
    pub fn stats(&self) -> Result<Stats> {
        if self.shared.gate.is_forked() {
            self.shared.gate.check()?;
        }
        Ok(self.shared.stats_of(&self.shared.registry()))
    }

    /// Closes the pool: refuses entries, fails everybody who waits with `is_shut_down`, waits for running sections for
    /// at most `deadline` (but not for the calling thread's own), and returns the payloads of all streams that are at rest.
    ///
    /// It may be called again, for what was still running.
    ///
    /// # Errors
    /// `is_forked` in the child of a fork: then nothing was touched.
    pub fn close(&self, deadline: Duration) -> Result<Drained<T>> {
        if self.shared.gate.is_forked() {
            self.shared.gate.check()?;
        }
        let deadline = Deadline::after(deadline);
        self.shared.gate.begin_close();
        self.shared.refuse_all();
        let drained = self.shared.drain(deadline);
        if drained.running.is_empty() {
            self.shared.gate.finish_close();
        }
        Ok(drained)
    }
}

impl<T: Send + 'static> Drop for SlotPool<T> {
    fn drop(&mut self) {
        if self.shared.gate.is_forked() {
            return; // INV-10
        }
        self.shared.gate.begin_close();
        self.shared.refuse_all();
        self.shared.orphan();
        self.shared.gate.finish_close();
    }
}

impl<T: Send + 'static> fmt::Debug for SlotPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotPool")
            .field("size", &self.size())
            .field("policy", &self.policy())
            .field("phase", &self.gate().phase())
            .finish_non_exhaustive()
    }
}
