//! A device's streams and memory composed as a device composes them, for the model checkers' tests of the whole: what they have in common.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64 as Count;
use std::time::Instant;

#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};
use streampool_core::Result;
use streampool_core::driver::Segment;
use streampool_core::hazard::{Access, Hazards, Waits};
use streampool_core::memory::{Block, Source, StreamCache};
use streampool_core::sync::{Condvar, Deadline, Mutex};
use streampool_core::timeline::{Board, Progress, StreamId, Submissions, Ticket, VectorClock};

/// A large class: each block is a segment of its own.
pub(crate) const BYTES: usize = 256 << 10;

/// The bytes behind the addresses of a device: how a test notices that two touch them at once.
pub(crate) trait Bytes: Send + Sync + 'static {
    /// Before a segment is taken.
    fn reserve(&self) {}
    /// Bytes at a new address.
    fn add(&self, _address: u64) {}
    /// Fails if this is beside another access that it must not be beside.
    fn touch(&self, address: u64, access: Access);
}

/// What a stream was given: wait for `after`, then touch the bytes at `address`, then state that `number` is done.
pub(crate) struct Job {
    after: Waits,
    access: Access,
    address: u64,
    number: u64,
}

/// A stream's queue on the device: jobs, and whether the device stops.
pub(crate) struct Queue {
    pub(crate) jobs: Mutex<(VecDeque<Job>, bool)>,
    pub(crate) more: Condvar,
}

/// A device: a board, a queue a stream, addresses.
pub(crate) struct Device<B> {
    pub(crate) board: Board,
    pub(crate) queues: Vec<Queue>,
    limit: usize,
    used: AtomicUsize,
    next: Count,
    bytes: B,
}

impl<B: Bytes> Device<B> {
    /// With room for so many blocks.
    pub(crate) fn new(streams: usize, blocks: usize, bytes: B) -> std::sync::Arc<Self> {
        let queue = || Queue { jobs: Mutex::new((VecDeque::new(), false)), more: Condvar::new() };
        std::sync::Arc::new(Self {
            board: Board::new(streams),
            queues: (0..streams).map(|_| queue()).collect(),
            limit: blocks * BYTES,
            used: AtomicUsize::new(0),
            next: Count::new(1 << 20),
            bytes,
        })
    }

    /// Bytes of segments that were taken and not given back.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Does the work of one stream until the device stops.
    pub(crate) fn work(&self, mut progress: Progress) {
        let queue = &self.queues[progress.stream().index()];
        loop {
            let mut jobs = queue.jobs.lock();
            let job = loop {
                match jobs.0.pop_front() {
                    Some(job) => break job,
                    None if jobs.1 => return,
                    None => jobs = queue.more.wait(jobs),
                }
            };
            drop(jobs);
            for ticket in &job.after {
                self.board.wait(*ticket, Deadline::NEVER).unwrap();
            }
            self.bytes.touch(job.address, job.access);
            progress.publish(job.number);
        }
    }
}

struct Owner<B: Bytes>(std::sync::Arc<Device<B>>);

impl<B: Bytes> Drop for Owner<B> {
    fn drop(&mut self) {
        self.0.used.fetch_sub(BYTES, Ordering::Relaxed);
    }
}

/// The device as its memory sees it.
pub(crate) struct Handle<B>(pub(crate) std::sync::Arc<Device<B>>);

impl<B: Bytes> Source for Handle<B> {
    fn memory_bytes(&self) -> usize {
        self.0.limit
    }
    fn allocate(&self, bytes: usize) -> Result<Segment> {
        self.0.bytes.reserve();
        let used = self.0.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        assert!(used <= self.0.limit, "the budget was exceeded");
        let address = self.0.next.fetch_add(bytes as u64, std::sync::atomic::Ordering::Relaxed);
        self.0.bytes.add(address);
        Ok(Segment::new(address, bytes, Box::new(Owner(self.0.clone()))))
    }
    fn completed(&self, stream: StreamId) -> u64 {
        self.0.board.done(stream)
    }
    fn wait(&self, ticket: Ticket, _deadline: Instant) -> Result<()> {
        self.0.board.wait(ticket, Deadline::NEVER)
    }
}

/// A slot's payload, as a device's stream is.
pub(crate) struct Stream<B> {
    pub(crate) device: std::sync::Arc<Device<B>>,
    pub(crate) cache: StreamCache,
    pub(crate) submissions: Submissions,
}

impl<B: Bytes> Stream<B> {
    /// Submits work on a block whose hazards are known.
    pub(crate) fn submit(&mut self, block: &Block, hazards: &mut Hazards, access: Access) -> Ticket {
        let stream = self.submissions.stream();
        let mut known = VectorClock::new();
        self.device.board.read_into(&mut known);
        let mut after = Waits::new();
        hazards.collect(access, stream, &known, &mut after).unwrap();
        let queue = &self.device.queues[stream.index()];
        let ticket = self.submissions.submit(|number| {
            let mut jobs = queue.jobs.lock();
            assert!(!jobs.1, "INV-11: submitted after the device stopped");
            jobs.0.push_back(Job { after, access, address: block.address(), number });
            Ok(())
        });
        queue.more.notify_all();
        let ticket = ticket.unwrap();
        hazards.record(access, ticket);
        block.record(ticket);
        ticket
    }
}
