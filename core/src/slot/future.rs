//! Waiting without a thread. Wakers alone: no particular runtime.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::running::Running;
use super::shared::{Keep, Place, Shared, Step};
use crate::error::{Error, Result};
use crate::lease::StreamLease;
use crate::sync::{Arc, Deadline};

/// Becomes a [`Running`] section on the thread that polls it to the end. Made by
/// [`SlotPool::enter_async`](super::SlotPool::enter_async). Dropping it leaves the queue and gives back what was granted.
#[must_use = "a future does nothing until it is polled"]
pub struct Enter<'a, T: Send + 'static> {
    pub(super) shared: &'a Arc<Shared<T>>,
    pub(super) deadline: Deadline,
    pub(super) state: State,
}

/// Becomes a [`StreamLease`]. Made by [`SlotPool::lease_async`](super::SlotPool::lease_async); it borrows nothing, so it may be
/// spawned. Dropping it leaves the queue and gives back what was granted.
#[must_use = "a future does nothing until it is polled"]
pub struct Lease<T: Send + 'static> {
    pub(super) shared: Keep<T>,
    pub(super) deadline: Deadline,
    pub(super) may_wait: bool,
    pub(super) state: State,
}

/// Where a future is: from `Start` to `Queued` any number of times (policy `Share` may lose a turn), then `Over`.
pub(super) enum State {
    Start,
    Queued(Place),
    Over,
}

impl<'a, T: Send + 'static> Future for Enter<'a, T> {
    type Output = Result<Running<'a, T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = self.shared;
        let mut step = match std::mem::replace(&mut self.state, State::Over) {
            State::Start => Shared::enter_step(shared)?,
            State::Queued(place) => Step::Wait(place),
            State::Over => return Poll::Ready(Err(polled_again())),
        };
        loop {
            let place = match step {
                Step::Done(running) => return Poll::Ready(Ok(running)),
                Step::Wait(place) => place,
            };
            shared.gate.check()?;
            step = match place.waiter.poll(context.waker()) {
                Some(outcome) => Shared::resume(shared, &place, outcome)?,
                None if !self.deadline.passed() => {
                    self.state = State::Queued(place);
                    return Poll::Pending;
                }
                None => match shared.leave(&place) {
                    Some(outcome) => Shared::resume(shared, &place, outcome)?,
                    None => return Poll::Ready(Err(shared.timed_out())),
                },
            };
        }
    }
}

impl<T: Send + 'static> Drop for Enter<'_, T> {
    fn drop(&mut self) {
        if let State::Queued(place) = std::mem::replace(&mut self.state, State::Over) {
            if self.shared.gate.is_forked() {
                std::mem::forget(place); // INV-10
            } else {
                self.shared.abandon(&place);
            }
        }
    }
}

impl<T: Send + 'static> Future for Lease<T> {
    type Output = Result<StreamLease<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let step = match std::mem::replace(&mut self.state, State::Over) {
            State::Start => self.shared.lease_step(self.may_wait)?,
            State::Queued(place) => Step::Wait(place),
            State::Over => return Poll::Ready(Err(polled_again())),
        };
        let place = match step {
            Step::Done(grant) => return Poll::Ready(Ok(StreamLease::new(&self.shared, grant))),
            Step::Wait(place) => place,
        };
        self.shared.gate.check()?;
        let outcome = match place.waiter.poll(context.waker()) {
            None if !self.deadline.passed() => {
                self.state = State::Queued(place);
                return Poll::Pending;
            }
            None => self.shared.leave(&place),
            outcome => outcome,
        };
        Poll::Ready(match outcome {
            Some(outcome) => StreamLease::from_outcome(&self.shared, outcome),
            None => Err(self.shared.timed_out()),
        })
    }
}

impl<T: Send + 'static> Drop for Lease<T> {
    fn drop(&mut self) {
        if let State::Queued(place) = std::mem::replace(&mut self.state, State::Over) {
            if self.shared.gate.is_forked() {
                std::mem::forget(place); // INV-10
            } else {
                self.shared.abandon(&place);
            }
        }
    }
}

#[cold]
fn polled_again() -> Error {
    Error::internal("a future was polled after it was ready")
}
