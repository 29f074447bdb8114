//! The one budget of a device: how many bytes may be and are taken from it. Touched on slow paths only.
//!
//! A segment's bytes go through these states, each change under the lock here and, where a shelf gains or loses the
//! segment, under that shelf's lock as well (a shelf's lock is always taken first). So a look at all shelves and the budget
//! at once is exact (INV-7): held by shelves + moving = reserved.
//!
//! ```text
//! nothing -> pending -> reserved, on a shelf <-> reserved, moving -> nothing
//! ```

use crate::sync::{Mutex, MutexGuard};

/// See the module's text.
pub(crate) struct Budget(Mutex<State>);

/// All bytes are of whole segments.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The user's bound on `reserved + pending`.
    pub(crate) limit: usize,
    /// Taken from the device.
    pub(crate) reserved: usize,
    /// The part of `reserved` that is on its way from one shelf to another, or back to the device.
    pub(crate) moving: usize,
    /// Being asked from the device just now.
    pub(crate) pending: usize,
    /// The most that `reserved` was.
    pub(crate) peak: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Mutex::new(State { limit, ..State::default() }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Room for `bytes`, to be kept by [`Reservation::commit`] or given back by dropping it; else how many bytes are missing.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<Reservation<'_>, usize> {
        let mut state = self.state();
        let taken = state.reserved + state.pending;
        match taken.checked_add(bytes) {
            Some(sum) if sum <= state.limit => {
                state.pending += bytes;
                Ok(Reservation { budget: self, bytes })
            }
            sum => Err(sum.map_or(usize::MAX, |sum| sum - state.limit)),
        }
    }

    /// Whether there is room for `bytes`, or will be if what moves goes back to the device and what is asked from it is refused.
    /// Either is decided as soon as a call of the device returns.
    pub(crate) fn may_find_room(&self, bytes: usize) -> bool {
        let state = self.state();
        bytes <= state.limit.saturating_sub(state.reserved - state.moving)
    }

    /// A segment left its shelf.
    pub(crate) fn depart(&self, bytes: usize) {
        self.state().moving += bytes;
    }

    /// A segment that moved came to a shelf.
    pub(crate) fn arrive(&self, bytes: usize) {
        self.state().moving -= bytes;
    }

    /// A segment that moved went back to the device.
    pub(crate) fn release(&self, bytes: usize) {
        let mut state = self.state();
        state.moving -= bytes;
        state.reserved -= bytes;
    }
}

/// Bytes promised by the budget, while the device is asked for them. Given back when dropped, also by a panic.
pub(crate) struct Reservation<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Reservation<'_> {
    /// The bytes came and lie on a shelf, whose lock the caller holds.
    pub(crate) fn commit(self) {
        let mut state = self.budget.state();
        state.reserved += self.bytes;
        state.pending -= self.bytes;
        state.peak = state.peak.max(state.reserved);
        drop(state);
        // In one step with the above: bytes counted twice in between would refuse another thread's request.
        std::mem::forget(self);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.budget.state().pending -= self.bytes;
    }
}
