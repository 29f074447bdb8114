//! The whole under loom: stream pool, memory and timeline composed as a device composes them, with a thread that does the work of each
//! stream. Small bounds: two user threads, two streams, one or two blocks of memory, one or two submissions each, shutdown beside.
//!
//! Checked: work runs after what it must come after (INV-5) and no memory is reused under it (INV-6), both by loom's own race detector
//! on the bytes; nothing is submitted after closing, no slot, wake-up or byte is lost (INV-2, 7, 11, 12).
#![cfg(loom)]

mod model;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64 as Count, Ordering as StdOrdering};
use std::time::{Duration, Instant};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, JoinHandle};
use model::explore;
use streampool_core::driver::Segment;
use streampool_core::hazard::{Access, Hazards, Waits};
use streampool_core::memory::{Block, MemoryConfig, MemoryPool, Source, StreamCache};
use streampool_core::slot::{Policy, PoolOptions, SlotPool};
use streampool_core::sync::{Arc, Condvar, Deadline, Mutex};
use streampool_core::timeline::{Board, StreamId, Submissions, Ticket, VectorClock};
use streampool_core::{Error, Result};

/// A large class: each block is a segment of its own.
const BYTES: usize = 256 << 10;
const STREAMS: usize = 2;

std::thread_local! {
    // The bytes behind the addresses of the device, as loom sees them. All threads of one model run on one thread of the system.
    static BYTES_AT: RefCell<BTreeMap<u64, Rc<UnsafeCell<()>>>> = RefCell::default();
}

/// Touches the bytes at an address. loom fails here if this races with another access.
fn touch(address: u64, access: Access) {
    let bytes = BYTES_AT.with_borrow(|all| all[&address].clone());
    match access {
        Access::Read => bytes.with(|_| ()),
        Access::Write => bytes.with_mut(|_| ()),
    }
}

/// What a stream was given: wait for `after`, then touch the bytes at `address`, then state that `number` is done.
struct Job {
    after: Waits,
    access: Access,
    address: u64,
    number: u64,
}

/// A stream's queue on the device.
struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    more: Condvar,
}

/// A device: a board, a queue a stream, addresses.
struct Device {
    board: Board,
    queues: Vec<Queue>,
    limit: usize,
    used: AtomicUsize,
    next: Count,
}

struct Owner(std::sync::Arc<Device>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.used.fetch_sub(BYTES, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Handle(std::sync::Arc<Device>);

impl Source for Handle {
    fn memory_bytes(&self) -> usize {
        self.0.limit
    }
    fn allocate(&self, bytes: usize) -> Result<Segment> {
        let used = self.0.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        assert!(used <= self.0.limit, "the budget was exceeded");
        let address = self.0.next.fetch_add(bytes as u64, StdOrdering::Relaxed);
        BYTES_AT.with_borrow_mut(|all| all.insert(address, Rc::new(UnsafeCell::new(()))));
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
struct Stream {
    device: std::sync::Arc<Device>,
    cache: StreamCache,
    submissions: Submissions,
    last: Arc<Mutex<Vec<Ticket>>>,
}

impl Stream {
    /// Submits work on a block whose hazards are known.
    fn submit(&mut self, block: &Block, hazards: &mut Hazards, access: Access) -> Ticket {
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
        self.last.lock().push(ticket);
        ticket
    }
}

struct System {
    device: std::sync::Arc<Device>,
    memory: std::sync::Arc<MemoryPool>,
    pool: Arc<SlotPool<Stream>>,
    submitted: Arc<Mutex<Vec<Ticket>>>,
    workers: Vec<JoinHandle<()>>,
}

/// A system of so many slots and blocks, with a worker for each of the first `workers` streams.
fn system(slots: usize, blocks: usize, workers: usize) -> System {
    let board = Board::new(STREAMS);
    let queue = || Queue { jobs: Mutex::new((VecDeque::new(), false)), more: Condvar::new() };
    let device = std::sync::Arc::new(Device {
        board: board.clone(),
        queues: (0..STREAMS).map(|_| queue()).collect(),
        limit: blocks * BYTES,
        used: AtomicUsize::new(0),
        next: Count::new(1 << 20),
    });
    let config = MemoryConfig { limit: Some(blocks * BYTES), ..MemoryConfig::default() };
    let memory = MemoryPool::new(Handle(device.clone()), config);
    let submitted = Arc::new(Mutex::new(Vec::new()));
    let options =
        PoolOptions::default().with_size(slots).with_policy(Policy::Wait { deadline: Duration::MAX });
    let pool = SlotPool::new(options, {
        let (device, memory, last) = (device.clone(), memory.clone(), submitted.clone());
        move |stream| {
            Ok(Stream {
                device: device.clone(),
                cache: memory.stream_cache(stream)?,
                submissions: Submissions::new(stream),
                last: last.clone(),
            })
        }
    });
    let workers = (0..workers as u32)
        .map(|stream| {
            let mut progress = board.progress(StreamId(stream)).unwrap();
            let device = device.clone();
            thread::spawn(move || {
                let queue = &device.queues[stream as usize];
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
                        device.board.wait(*ticket, Deadline::NEVER).unwrap();
                    }
                    touch(job.address, job.access);
                    progress.publish(job.number);
                }
            })
        })
        .collect();
    System { device, memory, pool: Arc::new(pool.unwrap()), submitted, workers }
}

impl System {
    /// Shuts down as a device does, and nothing is left.
    fn shut_down(self) {
        let drained = self.pool.close(Duration::MAX).unwrap();
        assert!(drained.running.is_empty());
        assert!(self.pool.enter().map(drop).unwrap_err().is_shut_down());
        let submitted = self.submitted.lock().clone();
        for ticket in &submitted {
            self.device.board.wait(*ticket, Deadline::NEVER).unwrap();
        }
        for queue in &self.device.queues {
            let mut jobs = queue.jobs.lock();
            assert!(jobs.0.is_empty(), "INV-11: work is left");
            jobs.1 = true;
            drop(jobs);
            queue.more.notify_all();
        }
        self.workers.into_iter().for_each(|worker| worker.join().unwrap());
        drop(drained);
        self.memory.check();
        self.memory.empty_cache();
        let stats = self.memory.stats();
        assert_eq!((stats.live, stats.reserved), (0, 0), "INV-7: {stats:?}");
        assert_eq!(self.device.used.load(Ordering::Relaxed), 0);
        BYTES_AT.take();
    }
}

#[test]
fn a_block_that_is_handed_over_dropped_and_reused_is_never_touched_by_two() {
    explore("full system: hand-over and reuse, 2 threads + 2 device threads, 2 slots, 2 blocks", 1, || {
        let system = system(2, 2, 2);
        let mut hazards = Hazards::new();
        let mut run = system.pool.enter().unwrap();
        let block = run.cache.alloc(BYTES).unwrap();
        run.submit(&block, &mut hazards, Access::Write);
        drop(run);
        let consumer = {
            let pool = system.pool.clone();
            thread::spawn(move || {
                let mut run = pool.enter().unwrap();
                run.submit(&block, &mut hazards, Access::Read);
            })
        };
        // The home stream takes another block, which may be the same memory.
        let mut run = system.pool.enter().unwrap();
        let next = run.cache.alloc(BYTES).unwrap();
        run.submit(&next, &mut Hazards::new(), Access::Write);
        drop(run);
        drop(next);
        consumer.join().unwrap();
        system.shut_down();
    });
}

#[test]
fn a_full_budget_moves_a_block_between_streams_after_its_work() {
    explore("full system: one block for two streams, 2 threads + 2 device threads, 2 slots", 1, || {
        let system = system(2, 1, 2);
        let mut run = system.pool.enter().unwrap();
        let block = run.cache.alloc(BYTES).unwrap();
        run.submit(&block, &mut Hazards::new(), Access::Write);
        drop(run);
        drop(block);
        let other = {
            let pool = system.pool.clone();
            thread::spawn(move || {
                let mut run = pool.enter().unwrap();
                // The only block is the first stream's: cached there while its work is in flight.
                let block = run.cache.alloc(BYTES).unwrap();
                run.submit(&block, &mut Hazards::new(), Access::Write);
            })
        };
        other.join().unwrap();
        system.shut_down();
    });
}

#[test]
fn shutting_down_beside_busy_threads_ends_and_leaves_nothing() {
    explore("full system: shutdown beside 2 threads on 1 slot, 1 device thread, 1 block", 2, || {
        let system = system(1, 1, 1);
        let users: Vec<_> = (0..2)
            .map(|_| {
                let pool = system.pool.clone();
                thread::spawn(move || {
                    let entered = pool.enter().map(|mut run| {
                        let block = run.cache.alloc(BYTES).unwrap();
                        run.submit(&block, &mut Hazards::new(), Access::Write);
                    });
                    assert!(
                        entered.is_ok_and(|()| true) || pool.enter().map(drop).unwrap_err().is_shut_down()
                    );
                })
            })
            .collect();
        let drained = system.pool.close(Duration::MAX).unwrap();
        assert!(drained.running.is_empty());
        drop(drained);
        users.into_iter().for_each(|user| user.join().unwrap());
        system.shut_down();
    });
}

#[test]
fn two_threads_on_one_slot_with_one_block_are_both_served() {
    explore("full system: 2 threads on 1 slot with 1 block, 1 device thread", 2, || {
        let system = system(1, 1, 1);
        let work = |pool: &SlotPool<Stream>| {
            let mut run = pool.enter().unwrap();
            let block = run.cache.alloc(BYTES).unwrap();
            run.submit(&block, &mut Hazards::new(), Access::Write);
        };
        let other = {
            let pool = system.pool.clone();
            thread::spawn(move || work(&pool))
        };
        work(&system.pool);
        other.join().unwrap();
        assert_eq!(system.submitted.lock().len(), 2);
        system.shut_down();
    });
}

#[test]
fn a_failed_allocation_is_a_value_and_harms_nobody() {
    explore(
        "full system: out of memory beside work, 2 threads, 2 slots, 1 block, 1 device thread",
        2,
        || {
            let system = system(2, 1, 1);
            let mut run = system.pool.enter().unwrap();
            let block = run.cache.alloc(BYTES).unwrap();
            let other = {
                let pool = system.pool.clone();
                thread::spawn(move || {
                    let mut run = pool.enter().unwrap();
                    match run.cache.alloc(BYTES) {
                        Ok(_) => {}
                        Err(error) => assert!(Error::is_out_of_memory(&error), "INV-8"),
                    }
                })
            };
            run.submit(&block, &mut Hazards::new(), Access::Write);
            drop(run);
            drop(block);
            other.join().unwrap();
            system.shut_down();
        },
    );
}
