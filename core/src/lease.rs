//! Leases: a stream of one's own for as long as one likes.

use std::fmt;
use std::marker::PhantomData;

use crate::error::Result;
use crate::slot::{Grant, Keep, Outcome, Running, Scope, Shared};
use crate::sync::Arc;
use crate::timeline::StreamId;

/// An owned, exclusive stream of a pool (INV-1). It may be sent to another thread and survives an async hop; dropping
/// it gives the stream back, to the oldest waiter if there is one (INV-2).
///
/// A lease may outlive its pool's handle and its closing: then [`StreamLease::enter`] says `is_shut_down`.
pub struct StreamLease<T: Send + 'static> {
    shared: Keep<T>,
    grant: Grant,
    /// Not `Sync`: one thread uses it at a time.
    one_thread: PhantomData<std::cell::Cell<()>>,
}

impl<T: Send + 'static> StreamLease<T> {
    pub(crate) fn new(shared: &Arc<Shared<T>>, grant: Grant) -> Self {
        Self { shared: Keep::new(shared), grant, one_thread: PhantomData }
    }

    pub(crate) fn from_outcome(shared: &Arc<Shared<T>>, outcome: Outcome) -> Result<Self> {
        match outcome {
            Outcome::Granted(grant) => Ok(Self::new(shared, grant)),
            Outcome::Failed(error) => Err(error),
        }
    }

    /// Begins a running section on this stream.
    ///
    /// Never waits, unless the pool's policy is [`Policy::Share`](crate::slot::Policy::Share) and another thread runs as a
    /// guest at this moment: then it waits for its turn.
    ///
    /// # Errors
    /// `is_shut_down` and `is_forked` as everywhere; what the pool's factory says if this is the stream's first section.
    #[inline]
    pub fn enter(&mut self) -> Result<Running<'_, T>> {
        self.shared.gate.check()?;
        match self.shared.begin(self.grant) {
            Some(running) => running.with_payload(),
            None => self.enter_slow(),
        }
    }

    #[cold]
    fn enter_slow(&self) -> Result<Running<'_, T>> {
        let step = self.shared.begin_owned(self.grant)?;
        let step = step.ok_or_else(|| crate::Error::internal("a lease lost its stream"))?;
        Shared::finish_entry(&self.shared, step, self.shared.policy.turn_deadline())
    }

    /// Runs `work` with this stream as the calling thread's: entries of the pool inside begin sections on it. Afterwards, also after a
    /// panic, the thread has the binding back that it had.
    ///
    /// Scopes of several leases nest; the innermost holds.
    pub fn scope<R>(&self, work: impl FnOnce() -> R) -> R {
        let _scope = Scope::new(&self.shared, self.grant);
        work()
    }

    /// As [`StreamLease::scope`], until the guard is dropped: for callers whose work is no closure. It does not keep the lease: once
    /// that is dropped, entries of the thread find another stream (INV-3).
    pub fn enter_scope(&self) -> ScopeGuard {
        ScopeGuard { _scope: Scope::new(&self.shared, self.grant) }
    }

    /// The stream.
    pub fn stream(&self) -> StreamId {
        StreamId(self.grant.slot)
    }

    /// The generation of this ownership: no other owner of the stream has the same.
    pub fn generation(&self) -> u64 {
        self.grant.generation
    }
}

/// Made by [`StreamLease::enter_scope`]. Stays on its thread; guards of one thread are to be dropped in the opposite order of
/// their making.
#[must_use = "the scope ends when this is dropped"]
pub struct ScopeGuard {
    _scope: Scope,
}

impl<T: Send + 'static> Drop for StreamLease<T> {
    fn drop(&mut self) {
        // INV-10: in a forked child the pool's locks may be held by threads that do not exist.
        if !self.shared.gate.is_forked() {
            self.shared.release(self.grant);
        }
    }
}

impl<T: Send + 'static> fmt::Debug for StreamLease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamLease")
            .field("stream", &self.grant.slot)
            .field("generation", &self.grant.generation)
            .finish_non_exhaustive()
    }
}

/// ```compile_fail
/// fn sync<T: Sync>() {}
/// sync::<streampool_core::lease::StreamLease<u8>>();
/// ```
/// ```
/// fn send<T: Send>() {}
/// send::<streampool_core::lease::StreamLease<u8>>();
/// ```
#[cfg(doctest)]
struct SendNotSync;
