//! What a pool is doing.

use super::cell::Turn;
use super::rule::Owner;
use super::shared::{Registry, Shared};

/// A pool at one moment. All figures are of the same moment as far as owners are concerned; sections may begin and end
/// while they are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Slots in the pool.
    pub size: usize,
    /// Slots on which a section runs, or is about to.
    pub running: usize,
    /// Slots owned by a [`StreamLease`](crate::lease::StreamLease), running or not.
    pub leased: usize,
    /// Slots bound to a thread that runs nothing on it.
    pub bound_idle: usize,
    /// Slots that nobody owns.
    pub free: usize,
    /// Callers that wait for a slot of their own.
    pub waiting: usize,
    /// Callers that wait for a turn on a slot (policy `Share`).
    pub guests: usize,
    /// The generation of each slot: how many owners it has had.
    pub generations: Vec<u64>,
}

impl<T: Send + 'static> Shared<T> {
    pub(super) fn stats_of(&self, _registry: &Registry) -> Stats {
        let mut stats = Stats {
            size: self.slots.len(),
            running: 0,
            leased: 0,
            bound_idle: 0,
            free: 0,
            waiting: self.waiting(),
            guests: 0,
            generations: Vec::with_capacity(self.slots.len()),
        };
        for slot in 0..self.slots.len() as u32 {
            let cell = self.slot(slot);
            let at_turn = cell.turn != Turn::Idle;
            stats.running += usize::from(at_turn);
            stats.leased += usize::from(cell.owner == Owner::Leased);
            stats.bound_idle += usize::from(cell.owner == Owner::Bound && !at_turn);
            stats.free += usize::from(cell.owner == Owner::Free);
            stats.guests += cell.guests.len();
            stats.generations.push(cell.generation());
        }
        stats
    }
}
