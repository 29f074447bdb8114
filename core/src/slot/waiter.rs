//! Somebody who waits, a thread or a task, and how it is told.

use std::task::Waker;

use smallvec::SmallVec;

use crate::error::Error;
use crate::interrupt;
use crate::sync::{Arc, Condvar, Deadline, Mutex};

/// What a waiter in the pool's queue wants to own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// A binding, and with it the next turn on the slot.
    Bind,
    /// A lease.
    Lease,
}

/// A slot of a certain generation: what an owner holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) slot: u32,
    pub(crate) generation: u64,
}

/// How a wait ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Granted(Grant),
    Failed(Error),
}

/// One place in a queue. Shared by the queue and the one that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) want: Want,
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug)]
enum State {
    /// In a queue: the pool's (changes with the registry locked) or a slot's (with the slot locked). Leaves
    /// `Waiting` once, by [`Waiter::settle`], by whoever takes the waiter out of its queue.
    Waiting(Option<Waker>),
    /// In no queue. Stays so.
    Settled(Outcome),
}

impl Waiter {
    pub(super) fn new(want: Want) -> Arc<Self> {
        Arc::new(Self { want, state: Mutex::new(State::Waiting(None)), ready: Condvar::new() })
    }

    /// Ends the wait. The caller took the waiter out of its queue and still holds that queue's lock; it wakes the
    /// waiter after letting the lock go.
    pub(super) fn settle(waiter: Arc<Self>, outcome: Outcome) -> Wake {
        let mut state = waiter.state.lock();
        let before = std::mem::replace(&mut *state, State::Settled(outcome));
        drop(state);
        match before {
            State::Waiting(Some(waker)) => Wake::Task(waker),
            State::Waiting(None) => Wake::Thread(waiter),
            State::Settled(_) => unreachable!("a waiter is in one queue and leaves it once"),
        }
    }

    /// Blocks. `None` if the deadline passed first: then the waiter may still be in its queue.
    pub(super) fn wait(&self, deadline: Deadline) -> Option<Outcome> {
        loop {
            let (slice, last) = interrupt::slice(deadline);
            let mut state = self.state.lock();
            let mut passed = false;
            loop {
                match &*state {
                    State::Settled(outcome) => return Some(outcome.clone()),
                    State::Waiting(_) if passed => break,
                    State::Waiting(_) => (state, passed) = self.ready.wait_until(state, slice),
                }
            }
            drop(state);
            if last || interrupt::interrupted() {
                return None;
            }
        }
    }

    /// How the wait ended, if it did.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match &*self.state.lock() {
            State::Settled(outcome) => Some(outcome.clone()),
            State::Waiting(_) => None,
        }
    }

    /// As [`Waiter::outcome`]; if it did not end, wakes this task when it does.
    pub(super) fn poll(&self, waker: &Waker) -> Option<Outcome> {
        // A waker is the user's code: cloned before and dropped after the lock is held.
        let waker = waker.clone();
        let old = match &mut *self.state.lock() {
            State::Settled(outcome) => return Some(outcome.clone()),
            State::Waiting(place) => place.replace(waker),
        };
        drop(old);
        None
    }
}

/// Somebody to wake once all locks are let go.
pub(super) enum Wake {
    Thread(Arc<Waiter>),
    Task(Waker),
}

impl Wake {
    pub(super) fn wake(self) {
        match self {
            Wake::Thread(waiter) => waiter.ready.notify_all(),
            Wake::Task(waker) => waker.wake(),
        }
    }
}

/// Several of them. Call [`Wakes::wake`] with no lock held.
#[derive(Default)]
#[must_use]
pub(super) struct Wakes(SmallVec<[Wake; 2]>);

impl Wakes {
    pub(super) fn push(&mut self, wake: Wake) {
        self.0.push(wake);
    }

    pub(super) fn wake(self) {
        self.0.into_iter().for_each(Wake::wake);
    }
}
