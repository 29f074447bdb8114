//! A device of memory alone, for the tests of blocks: what is done, a test says.

use std::sync::atomic::{AtomicU64 as Count, Ordering as StdOrdering};
use std::time::Instant;

use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use loom::thread;
use streampool_core::driver::Segment;
use streampool_core::memory::{MemoryConfig, MemoryPool, Source, StreamCache};
use streampool_core::timeline::{StreamId, Submissions, Ticket};
use streampool_core::{Error, Result};

/// A large class: each block is a segment of its own.
pub(crate) const BYTES: usize = 256 << 10;

/// A device of addresses, and for each the bytes behind it as loom sees them.
pub(crate) struct Fake {
    limit: usize,
    /// Loom's, so that another thread can look between the free of a segment and what follows.
    used: AtomicUsize,
    next: Count,
    completed: [AtomicU64; 3],
    refuse_first: bool,
    calls: Count,
}

#[derive(Clone)]
pub(crate) struct Device(pub(crate) std::sync::Arc<Fake>);

struct Owner(Device, usize);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.0.used.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Device {
    pub(crate) fn new(limit: usize, refuse_first: bool) -> Self {
        Self(std::sync::Arc::new(Fake {
            limit,
            used: AtomicUsize::new(0),
            next: Count::new(1 << 20),
            completed: std::array::from_fn(|_| AtomicU64::new(0)),
            refuse_first,
            calls: Count::new(0),
        }))
    }

    pub(crate) fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// A device's signal: all that the work did is visible to who sees the number.
    pub(crate) fn complete(&self, stream: u32, number: u64) {
        self.0.completed[stream as usize].store(number, Ordering::Release);
    }
}

impl Source for Device {
    fn memory_bytes(&self) -> usize {
        self.0.limit
    }

    fn allocate(&self, bytes: usize) -> Result<Segment> {
        if self.0.calls.fetch_add(1, StdOrdering::Relaxed) == 0 && self.0.refuse_first {
            return Err(Error::out_of_memory("refused"));
        }
        let used = self.0.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        assert!(used <= self.0.limit, "the budget was exceeded");
        let from = self.0.next.fetch_add(bytes as u64, StdOrdering::Relaxed);
        Ok(Segment::new(from, bytes, Box::new(Owner(self.clone(), bytes))))
    }

    fn completed(&self, stream: StreamId) -> u64 {
        self.0.completed[stream.0 as usize].load(Ordering::Acquire)
    }

    fn wait(&self, ticket: Ticket, _deadline: Instant) -> Result<()> {
        while self.completed(ticket.stream) < ticket.number {
            thread::yield_now();
        }
        Ok(())
    }
}

/// The ticket of a stream's `number`-th submission.
pub(crate) fn ticket(stream: u32, number: u64) -> Ticket {
    let mut submissions = Submissions::new(StreamId(stream));
    (0..number).map(|_| submissions.submit(|_| Ok(())).unwrap()).last().unwrap()
}

pub(crate) fn setup(
    blocks: usize,
    refuse_first: bool,
) -> (Device, std::sync::Arc<MemoryPool>, StreamCache, StreamCache) {
    let device = Device::new(blocks * BYTES, refuse_first);
    let config = MemoryConfig { limit: Some(blocks * BYTES), ..MemoryConfig::default() };
    let pool = MemoryPool::new(device.clone(), config);
    let (a, b) = (pool.stream_cache(StreamId(0)).unwrap(), pool.stream_cache(StreamId(1)).unwrap());
    (device, pool, a, b)
}

/// At the end nothing is lost: all of it goes back to the device.
pub(crate) fn expect_all_back(device: &Device, pool: &MemoryPool) {
    pool.check();
    assert_eq!(pool.stats().live, 0);
    pool.empty_cache();
    assert_eq!((pool.stats().reserved, device.used()), (0, 0));
}
