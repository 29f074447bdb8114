//! The whole under loom: stream pool, memory and timeline composed as a device composes them, with a thread that does the work of each
//! stream. Small bounds: two user threads, two streams, one or two blocks of memory, one or two submissions each, shutdown beside.
//!
//! Checked: work runs after what it must come after (INV-5) and no memory is reused under it (INV-6), both by loom's own race detector
//! on the bytes; nothing is submitted after closing, no slot, wake-up or byte is lost (INV-2, 7, 11, 12).
#![cfg(loom)]

mod model;
mod system;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::thread::{self, JoinHandle};
use model::explore;
use streampool_core::hazard::{Access, Hazards};
use streampool_core::memory::{Block, MemoryConfig, MemoryPool};
use streampool_core::slot::{Policy, PoolOptions, SlotPool};
use streampool_core::sync::{Arc, Deadline, Mutex};
use streampool_core::timeline::{StreamId, Submissions, Ticket};
use streampool_core::{Error, Result};
use system::{BYTES, Bytes, Device, Handle};

const STREAMS: usize = 2;

std::thread_local! {
    // The bytes behind the addresses of the device, as loom sees them. All threads of one model run on one thread of the system.
    static BYTES_AT: RefCell<BTreeMap<u64, Rc<UnsafeCell<()>>>> = RefCell::default();
}

/// loom fails if two accesses race.
struct Seen;

impl Bytes for Seen {
    fn add(&self, address: u64) {
        BYTES_AT.with_borrow_mut(|all| all.insert(address, Rc::new(UnsafeCell::new(()))));
    }
    fn touch(&self, address: u64, access: Access) {
        let bytes = BYTES_AT.with_borrow(|all| all[&address].clone());
        match access {
            Access::Read => bytes.with(|_| ()),
            Access::Write => bytes.with_mut(|_| ()),
        }
    }
}

/// A stream whose submissions are remembered.
struct Stream {
    of_device: system::Stream<Seen>,
    submitted: Arc<Mutex<Vec<Ticket>>>,
}

impl Stream {
    fn alloc(&mut self) -> Result<Block> {
        self.of_device.cache.alloc(BYTES)
    }

    fn submit(&mut self, block: &Block, hazards: &mut Hazards, access: Access) {
        let ticket = self.of_device.submit(block, hazards, access);
        self.submitted.lock().push(ticket);
    }
}

struct System {
    device: std::sync::Arc<Device<Seen>>,
    memory: std::sync::Arc<MemoryPool>,
    pool: Arc<SlotPool<Stream>>,
    submitted: Arc<Mutex<Vec<Ticket>>>,
    workers: Vec<JoinHandle<()>>,
}

/// A system of so many slots and blocks, with a worker for each of the first `workers` streams.
fn system(slots: usize, blocks: usize, workers: usize) -> System {
    let device = Device::new(STREAMS, blocks, Seen);
    let config = MemoryConfig { limit: Some(blocks * BYTES), ..MemoryConfig::default() };
    let memory = MemoryPool::new(Handle(device.clone()), config);
    let submitted = Arc::new(Mutex::new(Vec::new()));
    let options =
        PoolOptions::default().with_size(slots).with_policy(Policy::Wait { deadline: Duration::MAX });
    let pool = SlotPool::new(options, {
        let (device, memory, submitted) = (device.clone(), memory.clone(), submitted.clone());
        move |stream| {
            let (device, cache) = (device.clone(), memory.stream_cache(stream)?);
            let of_device = system::Stream { device, cache, submissions: Submissions::new(stream) };
            Ok(Stream { of_device, submitted: submitted.clone() })
        }
    });
    let workers = (0..workers as u32)
        .map(|stream| {
            let progress = device.board.progress(StreamId(stream)).unwrap();
            let device = device.clone();
            thread::spawn(move || device.work(progress))
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
        assert_eq!(self.device.used(), 0);
        BYTES_AT.take();
    }
}

#[test]
fn a_block_that_is_handed_over_dropped_and_reused_is_never_touched_by_two() {
    explore("full system: hand-over and reuse, 2 threads + 2 device threads, 2 slots, 2 blocks", 1, || {
        let system = system(2, 2, 2);
        let mut hazards = Hazards::new();
        let mut run = system.pool.enter().unwrap();
        let block = run.alloc().unwrap();
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
        let next = run.alloc().unwrap();
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
        let block = run.alloc().unwrap();
        run.submit(&block, &mut Hazards::new(), Access::Write);
        drop(run);
        drop(block);
        let other = {
            let pool = system.pool.clone();
            thread::spawn(move || {
                let mut run = pool.enter().unwrap();
                // The only block is the first stream's: cached there while its work is in flight.
                let block = run.alloc().unwrap();
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
                        let block = run.alloc().unwrap();
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
            let block = run.alloc().unwrap();
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
            let block = run.alloc().unwrap();
            let other = {
                let pool = system.pool.clone();
                thread::spawn(move || {
                    let mut run = pool.enter().unwrap();
                    match run.alloc() {
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
