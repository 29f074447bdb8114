//! Memory: where blocks come from, and when they may be used again.
//!
//! # The way of a block
//! [`StreamCache::alloc`] hands out a [`Block`] of its stream's *shelf*. Work that touches the block is [recorded](Block::record)
//! on it. Dropping it, from any thread, puts it back on the shelf of its home stream: *cached* if only the home stream may still be
//! at work on it, for whatever that stream does next comes after; *retired* while other streams' tickets are open (INV-6).
//!
//! # What is shared
//! All streams draw on ONE budget, but only when a shelf has nothing that fits. A warm allocation and a free touch the stream's own
//! lines alone: its shelf, behind a lock that nobody else asks for. Not even a reference count is shared between streams.
//!
//! # The reclaim ladder
//! On a miss, in this order (`reclaim.rs`):
//! 1. the stream's own cache;
//! 2. its own retired blocks whose tickets are done by now;
//! 3. idle segments of other streams' caches that fit (not waiting for a stream that uses its shelf just then);
//! 4. the device, if the budget has room;
//! 5. room made by giving idle segments of any size and stream back to the device;
//! 6. a wait, with a deadline, for work in flight on freed memory, if that can make enough room at all;
//! 7. [`Error::out_of_memory`](crate::Error::out_of_memory), naming what was asked, what there is, and the way out (INV-8).
//!
//! No lock is held across a call of the device: room is reserved first, then the device is asked, then the segment is published.
//!
//! # Segments and fragmentation
//! The device is asked for *segments*. A large block (above 128 KiB) has one of its own, so nothing else pins it. Small blocks of one
//! class share a *slab*: the first of a stream and class is a page (or one block), each further one as large as all that the
//! stream has of the class, at most 1 MiB. Only whole slabs move or go back. So of one class a stream holds at most twice
//! what it had live at its peak, plus a page, plus what it took over from another stream (1 MiB at most at a time); a block that
//! lives on pins its slab for requests of its own class and stream. Sizes waste what `class.rs` says.
//!
//! # Fork and exit
//! [`Source::abandoned`] is the one place that drops ask before they touch a lock or the device.

mod block;
mod budget;
mod cache;
mod class;
mod reclaim;
pub mod rule;
mod shelf;
mod slab;
mod source;
mod stats;
#[cfg(all(test, not(loom), not(shuttle)))]
mod tests;

use std::time::{Duration, Instant};

pub use block::Block;
pub use cache::StreamCache;
pub use source::Source;
pub use stats::{MemoryStats, StreamMemoryStats};

use crate::error::{Error, Result};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::timeline::StreamId;
use budget::Budget;
use rule::MAX_STREAMS;
use shelf::Shelf;

/// How the memory of a device behaves.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// The most bytes that may be taken from the device; none for 90 % of what it reports.
    pub limit: Option<usize>,
    /// How long an allocation waits for freed memory that work in flight still uses, before it fails.
    pub patience: Duration,
    /// The least that is asked from the device for small blocks at once.
    pub smallest_slab: usize,
    /// The most that is asked from the device for small blocks at once.
    pub largest_slab: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { limit: None, patience: Duration::from_secs(10), smallest_slab: 4 << 10, largest_slab: 1 << 20 }
    }
}

/// The memory of one device: the budget and the shelves of its streams. `Send + Sync`; see the module's text.
pub struct MemoryPool {
    source: std::sync::Arc<dyn Source>,
    config: MemoryConfig,
    budget: Budget,
    /// Replaced, not changed, when a stream is added: a reader clones the outer count alone and holds no lock.
    shelves: Mutex<Shelves>,
}

/// Std's also where the rest is loom's, whose `Arc` cannot be a receiver. Nothing synchronises by this count.
pub(crate) type SharedPool = std::sync::Arc<MemoryPool>;

/// In the order in which several are locked.
type Shelves = Arc<Vec<Arc<Shelf>>>;

impl MemoryPool {
    /// The memory of the device behind `source`, for example an `Arc<dyn Driver>`.
    pub fn new(source: impl Source, config: MemoryConfig) -> std::sync::Arc<Self> {
        let reported = source.memory_bytes();
        let limit = config.limit.unwrap_or(reported - reported / 10);
        SharedPool::new(Self {
            source: std::sync::Arc::new(source),
            config,
            budget: Budget::new(limit),
            shelves: Mutex::new(Arc::new(Vec::new())),
        })
    }

    /// The cache of a stream. A stream opened again gets what its cache held before.
    ///
    /// # Errors
    /// `is_invalid_argument` if the stream's number is 4,096 or more.
    pub fn stream_cache(self: &std::sync::Arc<Self>, stream: StreamId) -> Result<StreamCache> {
        if stream.0 >= MAX_STREAMS {
            let most = MAX_STREAMS - 1;
            return Err(Error::invalid_argument(format!(
                "stream {} has no memory: stream numbers go to {most}; configure a smaller pool",
                stream.0
            )));
        }
        let mut shelves = self.shelves.lock();
        let known = shelves.iter().find(|shelf| shelf.stream() == stream).cloned();
        let shelf = known.unwrap_or_else(|| {
            let shelf = Arc::new(Shelf::new(stream, self.source.clone()));
            let mut all = Vec::clone(&shelves);
            all.push(shelf.clone());
            *shelves = Arc::new(all);
            shelf
        });
        drop(shelves);
        Ok(StreamCache::new(self.clone(), shelf))
    }

    /// The most bytes that may be taken from the device.
    pub fn limit(&self) -> usize {
        self.budget.state().limit
    }

    /// Changes the limit. If more is taken now, idle caches go back to the device at once; blocks in use stay, and
    /// allocations fail until enough of them are dropped.
    pub fn set_limit(&self, bytes: usize) {
        let over = {
            let mut state = self.budget.state();
            state.limit = bytes;
            (state.reserved + state.pending).saturating_sub(bytes)
        };
        if over > 0 {
            self.trim(over);
        }
    }

    /// Gives every idle segment back to the device; those with blocks in use or with work in flight stay. Bytes given back.
    pub fn empty_cache(&self) -> usize {
        self.trim(usize::MAX)
    }

    /// Waits until no freed memory has work in flight, then gives back all that is idle. For shutdown, after the last submission.
    ///
    /// # Errors
    /// `is_timeout` after `deadline`; what is idle then is given back even so.
    pub fn drain(&self, deadline: Instant) -> Result<()> {
        let mut ended = Ok(());
        'shelves: for shelf in self.shelves().iter() {
            let in_flight = self.in_flight_of(shelf, None);
            for ticket in in_flight.iter().flat_map(|f| &f.tickets) {
                ended = self.wait_done(*ticket, deadline);
                if ended.is_err() {
                    break 'shelves;
                }
            }
        }
        self.empty_cache();
        ended
    }

    /// The figures of this moment, all of one moment: streams that allocate meanwhile wait for the copy.
    pub fn stats(&self) -> MemoryStats {
        self.at_once(|shelves, budget| {
            let mut stats = MemoryStats {
                limit: budget.limit,
                reserved: budget.reserved,
                peak_reserved: budget.peak,
                cached: budget.moving,
                ..MemoryStats::default()
            };
            for bins in shelves {
                stats.add(&bins.stats);
            }
            stats
        })
    }

    /// The figures of each stream that has a cache.
    pub fn stream_stats(&self) -> Vec<(StreamId, StreamMemoryStats)> {
        self.shelves().iter().map(|shelf| (shelf.stream(), shelf.bins().stats)).collect()
    }

    /// Starts the measurement of the peaks anew, from what is taken now.
    pub fn reset_peak(&self) {
        self.at_once(|shelves, budget| {
            budget.peak = budget.reserved;
            for bins in shelves {
                bins.reset_peak();
            }
        });
    }

    /// Panics if the books do not agree (INV-7): each byte reserved is live, cached, retired or moving, and in one of these only.
    /// Exact at any time, also while other threads allocate and free. For tests; takes every stream's lock.
    pub fn check(&self) {
        self.at_once(|shelves, budget| {
            let held: usize = shelves.iter().map(|bins| bins.check()).sum();
            assert_eq!(held + budget.moving, budget.reserved, "INV-7: live + cached + retired = reserved");
            assert!(budget.peak >= budget.reserved, "the peak is not below what is reserved");
        });
    }

    /// `look` with everything locked: the registry (so that no shelf is added), the shelves in order, the budget.
    fn at_once<R>(
        &self,
        look: impl FnOnce(&mut [MutexGuard<'_, shelf::Bins>], &mut budget::State) -> R,
    ) -> R {
        let registry = self.shelves.lock();
        let mut bins: Vec<_> = registry.iter().map(|shelf| shelf.bins()).collect();
        look(&mut bins, &mut self.budget.state())
    }

    fn shelves(&self) -> Shelves {
        self.shelves.lock().clone()
    }
}
