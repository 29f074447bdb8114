//! A running section: the right to run on a stream, with the stream's resources.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::shared::{Shared, Step};
use super::waiter::Grant;
use crate::error::Result;
use crate::timeline::StreamId;

/// A running section. It owns the stream's resources by value for as long as it lives, with no lock held, and
/// dereferences to them. Dropping it, also in a panic, puts them back; if somebody waits for a stream, the oldest
/// gets this one (INV-2).
///
/// It stays on its thread. Leaking one (`mem::forget`) loses the stream until the pool is closed, but breaks nothing.
#[must_use = "a section ends when this is dropped"]
pub struct Running<'a, T: Send + 'static> {
    shared: &'a Shared<T>,
    /// `None` only inside [`Running::ready`], before the stream's first section.
    payload: Option<Box<T>>,
    grant: Grant,
    guest: bool,
    /// Not `Send`: a thread's binding and the check against nesting know the thread.
    thread: PhantomData<*const ()>,
}

impl<'a, T: Send + 'static> Running<'a, T> {
    #[inline]
    pub(super) fn new(shared: &'a Shared<T>, grant: Grant, payload: Option<Box<T>>, guest: bool) -> Self {
        Self { shared, payload, grant, guest, thread: PhantomData }
    }

    /// Makes the stream's resources if this is its first section. On failure the section ends and the slot is as before.
    #[inline]
    pub(crate) fn with_payload(mut self) -> Result<Self> {
        if self.payload.is_none() {
            self.payload = Some(Box::new((self.shared.factory)(self.stream())?));
        }
        Ok(self)
    }

    /// Whether the stream's resources are there.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.payload.is_some()
    }

    pub(super) fn ready(self) -> Result<Step<Self>> {
        self.with_payload().map(Step::Done)
    }

    /// The stream this section runs on.
    #[inline]
    pub fn stream(&self) -> StreamId {
        StreamId(self.grant.slot)
    }

    /// The generation of the stream's present owner: another number means another owner (INV-3).
    #[inline]
    pub fn generation(&self) -> u64 {
        self.grant.generation
    }

    /// Whether the stream is owned by somebody else (policy `Share`).
    pub fn is_guest(&self) -> bool {
        self.guest
    }
}

impl<T: Send + 'static> Deref for Running<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.payload.as_deref().expect("a section has its payload")
    }
}

impl<T: Send + 'static> DerefMut for Running<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.payload.as_deref_mut().expect("a section has its payload")
    }
}

impl<T: Send + 'static> Drop for Running<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let payload = self.payload.take();
        if self.shared.gate.is_forked() {
            // INV-10: the queue is the parent's, and so are the locks.
            std::mem::forget(payload);
        } else {
            self.shared.end(self.grant.slot, payload);
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Running<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("grant", &self.grant)
            .field("guest", &self.guest)
            .finish_non_exhaustive()
    }
}
