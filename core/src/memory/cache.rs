//! A stream's way to memory.

use std::time::{Duration, Instant};

use super::block::Block;
use super::class::Class;
use super::shelf::{Shelf, Taken};
use super::{SharedPool, StreamMemoryStats};
use crate::error::Result;
use crate::sync::Arc;
use crate::timeline::StreamId;

/// What the user of a stream allocates from. Owned by the stream's payload, so one thread at a time has it.
///
/// Dropping it leaves what it cached to the pool: other streams, and [`MemoryPool::empty_cache`](super::MemoryPool::empty_cache), can have it.
pub struct StreamCache {
    pool: SharedPool,
    shelf: Arc<Shelf>,
}

impl StreamCache {
    pub(crate) fn new(pool: SharedPool, shelf: Arc<Shelf>) -> Self {
        Self { pool, shelf }
    }

    /// The stream that this is the cache of.
    pub fn stream(&self) -> StreamId {
        self.shelf.stream()
    }

    /// The pool that it draws on.
    pub fn pool(&self) -> &std::sync::Arc<super::MemoryPool> {
        &self.pool
    }

    /// The figures of this stream.
    pub fn stats(&self) -> StreamMemoryStats {
        self.shelf.bins().stats
    }

    /// A block of at least `bytes` bytes, contents undefined, that this stream may use at once: whatever it was used for before is
    /// done or comes earlier on this very stream. Zero bytes are fine.
    ///
    /// Warm (the stream freed a block of this class before) it touches this stream's own lines only.
    ///
    /// # Errors
    /// `is_out_of_memory` when the whole ladder failed (see the module's text), after at most the configured patience; at once if
    /// waiting cannot help. Errors of the device, such as `is_device_lost`.
    pub fn alloc(&mut self, bytes: usize) -> Result<Block> {
        let patience = self.pool.config.patience;
        self.alloc_or(bytes, || far(patience))
    }

    /// [`Self::alloc`] with a deadline of its own for waits.
    ///
    /// # Errors
    /// As [`Self::alloc`].
    pub fn alloc_until(&mut self, bytes: usize, deadline: Instant) -> Result<Block> {
        self.alloc_or(bytes, || deadline)
    }

    fn alloc_or(&mut self, bytes: usize, deadline: impl FnOnce() -> Instant) -> Result<Block> {
        if bytes == 0 {
            let id = self.shelf.bins().next_id();
            return Ok(Block::empty(self.shelf.clone(), id));
        }
        let Some(class) = Class::of(bytes) else {
            return Err(self.pool.out_of_memory(&self.shelf, bytes, ""));
        };
        let warm: Option<Taken> = self.shelf.bins().take(class);
        let taken = match warm {
            Some(taken) => taken,
            None => self.pool.reclaim(&self.shelf, bytes, class, deadline())?,
        };
        Ok(Block::new(self.shelf.clone(), &taken, bytes))
    }
}

/// `patience` from now, or as far as the clock goes.
pub(super) fn far(patience: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(patience).unwrap_or_else(|| now + Duration::from_secs(1 << 30))
}
