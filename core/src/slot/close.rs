//! Shutdown (INV-11).

use super::cell::Turn;
use super::rule::Owner;
use super::shared::Shared;
use super::waiter::{Outcome, Waiter, Wakes};
use crate::gate::shut_down;
use crate::sync::{Deadline, ThreadToken};
use crate::timeline::StreamId;

/// What a closed pool gives back.
#[derive(Debug)]
#[must_use = "the payloads are dropped with this"]
pub struct Drained<T> {
    /// The resources of all streams that run nothing any more, in the order of the streams. A stream that was never
    /// used has none.
    pub payloads: Vec<(StreamId, T)>,
    /// Streams on which a section still ran at the deadline (or is the caller's own). A later
    /// [`SlotPool::close`](super::SlotPool::close) returns what they have put back by then.
    pub running: Vec<StreamId>,
}

impl<T: Send + 'static> Shared<T> {
    /// Refuses all entries and fails all waiters. Running sections go on.
    pub(super) fn refuse_all(&self) {
        let refusal = shut_down();
        let mut wakes = Wakes::default();
        let mut registry = self.registry();
        if !std::mem::replace(&mut registry.closed, true) {
            registry.free.clear();
            while let Some(waiter) = registry.queue.pop_front() {
                self.lower();
                wakes.push(Waiter::settle(waiter, Outcome::Failed(refusal.clone())));
            }
            for slot in 0..self.slots.len() as u32 {
                self.slot(slot).close(&refusal, |wake| wakes.push(wake));
            }
        }
        drop(registry);
        wakes.wake();
    }

    /// Collects the payloads of closed slots, waiting for the sections that still run, at most until `deadline`.
    pub(super) fn drain(&self, deadline: Deadline) -> Drained<T> {
        let me = ThreadToken::current();
        let mut payloads = Vec::new();
        let mut running = Vec::new();
        let mut passed = false;
        let mut registry = self.registry();
        loop {
            let mut others = false;
            running.clear();
            for slot in 0..self.slots.len() as u32 {
                let mut cell = self.slot(slot);
                if let Turn::Taken { by, .. } = cell.turn {
                    running.push(StreamId(slot));
                    others |= by != me;
                } else if let Some(payload) = cell.payload.take() {
                    payloads.push((StreamId(slot), payload));
                }
            }
            if !others || passed {
                break;
            }
            (registry, passed) = self.drained.wait_until(registry, deadline);
        }
        drop(registry);
        payloads.sort_by_key(|(stream, _)| *stream);
        Drained {
            payloads: payloads.into_iter().map(|(stream, payload)| (stream, *payload)).collect(),
            running,
        }
    }

    /// The pool's handle is dropped: what still runs drops its payload at its end.
    pub(super) fn orphan(&self) {
        for slot in 0..self.slots.len() as u32 {
            let mut cell = self.slot(slot);
            cell.owner = Owner::Gone;
            let payload = cell.payload.take();
            drop(cell);
            drop(payload);
        }
    }
}
