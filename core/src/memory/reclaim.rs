//! The reclaim ladder: what happens when a stream's own cache has nothing that fits. The rungs are told in the module's text.

use std::time::Instant;

use super::class::Class;
use super::shelf::{InFlight, Shelf, Taken};
use super::slab::Slab;
use super::stats::human;
use super::{MemoryPool, StreamMemoryStats};
use crate::error::{Error, Result};
use crate::sync::{Arc, thread};
use crate::timeline::Ticket;

/// Rounds of the ladder after which the deadline ends it also if there was something to free each time: other threads may be faster
/// at taking what this one frees, again and again.
const ROUNDS: u32 = 16;

/// How often the device itself may refuse before the request fails: once before the caches are given back, once after, and once
/// after a wait.
const REFUSALS: u32 = 3;

impl MemoryPool {
    /// Rungs 2 to 7. The caller looked at the own cache (rung 1) without success.
    pub(super) fn reclaim(
        &self,
        own: &Arc<Shelf>,
        bytes: usize,
        class: Class,
        deadline: Instant,
    ) -> Result<Taken> {
        if class.capacity > self.limit() {
            return Err(self.out_of_memory(own, bytes, ""));
        }
        let mut refusals = 0;
        let mut refused: Option<Error> = None;
        for round in 0_u32.. {
            if round > ROUNDS && Instant::now() >= deadline {
                break;
            }
            // Rungs 1 (again, after a wait) and 2.
            own.sweep(false);
            if let Some(taken) = own.bins().take(class) {
                return Ok(taken);
            }
            // Rung 3.
            if let Some(taken) = self.take_over(own, class, refusals > 0) {
                return Ok(taken);
            }
            // Rung 4.
            let missing = match self.grow(own, class) {
                Grown::Taken(taken) => return Ok(taken),
                Grown::NoRoom { missing } => missing,
                Grown::Refused(error) if error.is_out_of_memory() => {
                    refusals += 1;
                    refused = Some(error);
                    class.capacity
                }
                Grown::Refused(error) => return Err(error),
            };
            if refusals == REFUSALS {
                break;
            }
            // Rung 5. After a refusal all caches go: the device may need room in one piece.
            if self.trim(if refusals > 0 { usize::MAX } else { missing }) > 0 {
                continue;
            }
            // On the way all finished frees were found, not only the oldest.
            if let Some(taken) = own.bins().take(class) {
                return Ok(taken);
            }
            // Rung 6.
            match self.wait_for_frees(own, class, missing, deadline) {
                Waited::Freed => {}
                // Segments on their way between the device and other shelves are in nobody's hands for a moment: what looks like
                // no room may be room in the next one.
                Waited::NothingHelps if refused.is_none() && self.budget.may_find_room(class.capacity) => {
                    thread::yield_now()
                }
                Waited::NothingHelps => break,
                Waited::Failed(error) if error.is_device_lost() => return Err(error),
                Waited::Failed(error) => {
                    let why = format!("; a wait for freed memory that work in flight uses failed: {error}");
                    return Err(self.out_of_memory(own, bytes, &why));
                }
            }
        }
        // Rung 7.
        let why = refused.map(|error| format!("; the device itself refused: {error}"));
        Err(self.out_of_memory(own, bytes, &why.unwrap_or_default()))
    }

    /// Rung 3: an idle slab of another stream that fits.
    fn take_over(&self, own: &Arc<Shelf>, class: Class, wait: bool) -> Option<Taken> {
        let shelves = self.shelves();
        let here = shelves.iter().position(|shelf| Arc::ptr_eq(shelf, own))?;
        // Begin at the next stream, so that not all misses fall upon stream 0.
        let others = shelves[here + 1..].iter().chain(&shelves[..here]);
        let slab = others.into_iter().find_map(|shelf| shelf.give(class, wait, &self.budget))?;
        let bytes = slab.bytes();
        let mut bins = own.bins();
        let taken = bins.insert_and_take(slab);
        bins.stats.reclaimed += 1;
        self.budget.arrive(bytes);
        Some(taken)
    }

    /// Rung 4: a new segment, if the budget has room: for a slab as large as it should be, else for one block.
    fn grow(&self, own: &Arc<Shelf>, class: Class) -> Grown {
        let most = own.bins().blocks_for(class, self.config.smallest_slab, self.config.largest_slab);
        let mut missing = 0;
        let sizes = [most, 1];
        for &blocks in if most > 1 { &sizes[..] } else { &sizes[1..] } {
            let bytes = class.capacity * blocks as usize;
            let reservation = match self.budget.reserve(bytes) {
                Ok(reservation) => reservation,
                Err(more) => {
                    missing = more;
                    continue;
                }
            };
            match self.source.allocate(bytes) {
                Ok(segment) => {
                    let mut bins = own.bins();
                    let taken = bins.insert_and_take(Slab::new(segment, class, blocks));
                    bins.stats.driver_allocations += 1;
                    reservation.commit();
                    return Grown::Taken(taken);
                }
                Err(error) => return Grown::Refused(error),
            }
        }
        Grown::NoRoom { missing }
    }

    /// Rung 5: gives idle segments back to the device until `bytes` are free, or all of them. How many bytes went.
    pub(super) fn trim(&self, bytes: usize) -> usize {
        let mut freed = 0;
        for shelf in self.shelves().iter() {
            shelf.sweep(true);
            for slab in shelf.strip(bytes - freed.min(bytes), &self.budget) {
                let size = slab.bytes();
                // The device is called here, with no lock held; the budget hears of it afterwards, so that it never promises
                // what the device does not have yet.
                drop(slab);
                self.budget.release(size);
                freed += size;
            }
            if freed >= bytes {
                break;
            }
        }
        freed
    }

    /// Rung 6: waits for the work on freed memory that helps soonest.
    fn wait_for_frees(&self, own: &Arc<Shelf>, class: Class, missing: usize, deadline: Instant) -> Waited {
        let mut found: Vec<InFlight> = Vec::new();
        for shelf in self.shelves().iter() {
            let wanted = Arc::ptr_eq(shelf, own).then_some(class);
            found.extend(self.in_flight_of(shelf, wanted));
        }
        let best = match found.iter().find(|f| f.serves) {
            Some(serves) => serves,
            None => {
                let all: usize = found.iter().map(|f| f.bytes).sum();
                if all < missing {
                    return Waited::NothingHelps;
                }
                // The smallest that is enough, else the largest first.
                let enough = found.iter().filter(|f| f.bytes >= missing).min_by_key(|f| f.bytes);
                match enough.or_else(|| found.iter().max_by_key(|f| f.bytes)) {
                    Some(best) => best,
                    None => return Waited::NothingHelps,
                }
            }
        };
        for ticket in &best.tickets {
            if let Err(error) = self.wait_done(*ticket, deadline) {
                return Waited::Failed(error);
            }
        }
        Waited::Freed
    }

    /// What waiting could free on a shelf.
    pub(super) fn in_flight_of(&self, shelf: &Shelf, class: Option<Class>) -> Vec<InFlight> {
        let completed = self.source.completed(shelf.stream());
        shelf.bins().in_flight(class, completed)
    }

    /// Waits until `ticket` is done. That its work failed is no concern of this caller: it touches the memory no more.
    pub(super) fn wait_done(&self, ticket: Ticket, deadline: Instant) -> Result<()> {
        match self.source.wait(ticket, deadline) {
            Err(error) if self.source.completed(ticket.stream) < ticket.number => Err(error),
            _ => Ok(()),
        }
    }

    /// Rung 7. Counts the failure.
    pub(super) fn out_of_memory(&self, own: &Shelf, bytes: usize, why: &str) -> Error {
        own.bins().stats.out_of_memory += 1;
        let (mut all, limit, taken) = {
            let state = self.budget.state();
            (StreamMemoryStats::default(), state.limit, state.reserved + state.pending)
        };
        for shelf in self.shelves().iter() {
            let stats = shelf.bins().stats;
            all.live += stats.live;
            all.cached += stats.cached;
            all.retired += stats.retired;
        }
        Error::out_of_memory(format!(
            "out of memory: asked {} ({bytes} bytes); free {} of the limit {}; live {}, cached {}, retired (freed, in use by \
             work in flight) {}{why}. Drop tensors that are not needed, use smaller inputs or fewer threads, or raise \
             the limit with set_memory_limit",
            human(bytes),
            human(limit.saturating_sub(taken)),
            human(limit),
            human(all.live),
            human(all.cached),
            human(all.retired),
        ))
    }
}

/// What rung 4 came to.
enum Grown {
    Taken(Taken),
    /// The budget has no room for a single block.
    NoRoom {
        missing: usize,
    },
    /// The device said no.
    Refused(Error),
}

/// What rung 6 came to.
enum Waited {
    /// Look again.
    Freed,
    /// No work in flight would make enough room.
    NothingHelps,
    /// The deadline passed, or the device failed.
    Failed(Error),
}
