//! Every schedule of the memory within the bounds each test prints. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p streampool-core --release --test loom_memory -- --nocapture`.
#![cfg(loom)]

use std::sync::atomic::{AtomicU64 as Count, Ordering as StdOrdering};
use std::time::Instant;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use loom::thread;
use streampool_core::driver::Segment;
use streampool_core::memory::{MemoryConfig, MemoryPool, Source, StreamCache};
use streampool_core::timeline::{StreamId, Submissions, Ticket};
use streampool_core::{Error, Result};

/// A large class: each block is a segment of its own.
const BYTES: usize = 256 << 10;

/// Runs `body` under every schedule (with at most so many preemptions, if bounded) and prints how many there were.
fn explore(name: &str, preemptions: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let executions = std::sync::Arc::new(Count::new(0));
    let counted = executions.clone();
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.max_branches = 100_000;
    assert!(
        model.max_duration.is_none() && model.max_permutations.is_none(),
        "a bound in time would hide schedules"
    );
    model.check(move || {
        counted.fetch_add(1, StdOrdering::Relaxed);
        body();
    });
    let executions = executions.load(StdOrdering::Relaxed);
    let bound = preemptions.map_or("any number of".into(), |most| format!("at most {most}"));
    println!("loom memory, {name}: {executions} executions, 2 threads, {bound} preemptions, exhausted");
    assert!(executions > 1, "threads were not interleaved");
}

/// A device of addresses, and for each the bytes behind it as loom sees them.
struct Fake {
    limit: usize,
    /// Loom's, so that another thread can look between the free of a segment and what follows.
    used: AtomicUsize,
    next: Count,
    completed: [AtomicU64; 3],
    refuse_first: bool,
    calls: Count,
}

#[derive(Clone)]
struct Device(std::sync::Arc<Fake>);

struct Owner(Device, usize);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.0.used.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Device {
    fn new(limit: usize, refuse_first: bool) -> Self {
        Self(std::sync::Arc::new(Fake {
            limit,
            used: AtomicUsize::new(0),
            next: Count::new(1 << 20),
            completed: std::array::from_fn(|_| AtomicU64::new(0)),
            refuse_first,
            calls: Count::new(0),
        }))
    }

    fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// A device's signal: all that the work did is visible to who sees the number.
    fn complete(&self, stream: u32, number: u64) {
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
fn ticket(stream: u32, number: u64) -> Ticket {
    let mut submissions = Submissions::new(StreamId(stream));
    (0..number).map(|_| submissions.submit(|_| Ok(())).unwrap()).last().unwrap()
}

fn setup(
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
fn expect_all_back(device: &Device, pool: &MemoryPool) {
    pool.check();
    assert_eq!(pool.stats().live, 0);
    pool.empty_cache();
    assert_eq!((pool.stats().reserved, device.used()), (0, 0));
}

#[test]
fn a_block_that_another_stream_uses_is_reused_only_after_that_work() {
    explore("retire and reuse", None, || {
        let (device, pool, mut a, _b) = setup(2, false);
        let block = a.alloc(BYTES).unwrap();
        // What stream 1 does with the block's bytes, up to its ticket 2.
        block.record(ticket(1, 2));
        let bytes = std::sync::Arc::new(UnsafeCell::new(()));
        let work = thread::spawn({
            let (device, bytes) = (device.clone(), bytes.clone());
            move || {
                device.complete(1, 1);
                bytes.with_mut(|_| ());
                device.complete(1, 2);
            }
        });
        let address = block.address();
        drop(block);
        let next = a.alloc(BYTES).unwrap();
        if next.address() == address {
            // INV-6: loom fails here if the other access is not known to be over.
            bytes.with_mut(|_| ());
        }
        drop(next);
        work.join().unwrap();
        expect_all_back(&device, &pool);
    });
}

#[test]
fn a_full_budget_waits_for_the_work_of_another_stream() {
    explore("wait for a retired block", None, || {
        let (device, pool, mut a, mut b) = setup(1, false);
        let block = a.alloc(BYTES).unwrap();
        block.record(ticket(2, 1));
        let bytes = std::sync::Arc::new(UnsafeCell::new(()));
        let work = thread::spawn({
            let (device, bytes) = (device.clone(), bytes.clone());
            move || {
                bytes.with_mut(|_| ());
                device.complete(2, 1);
            }
        });
        drop(block);
        // Another stream, another size: the segment goes back to the device in between.
        let next = b.alloc(BYTES / 2 + 1).unwrap();
        bytes.with_mut(|_| ());
        drop(next);
        work.join().unwrap();
        expect_all_back(&device, &pool);
    });
}

#[test]
fn a_free_by_another_thread_meets_an_allocation() {
    explore("remote free and allocation", None, || {
        let (device, pool, mut a, _b) = setup(2, false);
        let block = a.alloc(BYTES).unwrap();
        let bytes = std::sync::Arc::new(UnsafeCell::new(()));
        let address = block.address();
        let free = thread::spawn({
            let bytes = bytes.clone();
            move || {
                bytes.with_mut(|_| ());
                drop(block);
            }
        });
        let next = a.alloc(BYTES).unwrap();
        if next.address() == address {
            bytes.with_mut(|_| ());
        }
        pool.check();
        free.join().unwrap();
        drop(next);
        expect_all_back(&device, &pool);
    });
}

#[test]
fn an_idle_cache_goes_to_one_of_two_streams() {
    explore("take over and own allocation", None, || {
        let (device, pool, mut a, mut b) = setup(2, false);
        drop(a.alloc(BYTES).unwrap());
        let other = thread::spawn(move || b.alloc(BYTES).unwrap());
        let own = a.alloc(BYTES).unwrap();
        // INV-7 holds in the midst of a move, too.
        pool.check();
        let other = other.join().unwrap();
        assert_ne!(own.address(), other.address(), "one block to two owners");
        assert_ne!(own.id(), other.id());
        drop((own, other));
        expect_all_back(&device, &pool);
    });
}

#[test]
fn two_streams_never_exceed_the_budget_and_one_is_served() {
    explore("budget race", Some(4), || {
        let (device, pool, mut a, mut b) = setup(1, false);
        let other = thread::spawn(move || b.alloc(BYTES).is_ok_and(|block| block.bytes() == BYTES));
        let own = a.alloc(BYTES);
        if let Err(error) = &own {
            assert!(error.is_out_of_memory());
        }
        let served = own.is_ok();
        drop(own);
        assert!(other.join().unwrap() || served, "INV-8: there was room for one");
        expect_all_back(&device, &pool);
    });
}

#[test]
fn a_refusal_of_the_device_costs_no_other_stream_its_room() {
    explore("refusal and budget", Some(3), || {
        let (device, pool, mut a, mut b) = setup(2, true);
        // The device refuses whoever comes first; the budget has room for both, always.
        let other = thread::spawn(move || b.alloc(BYTES));
        let own = a.alloc(BYTES);
        let other = other.join().unwrap();
        assert!(own.is_ok() || other.is_ok());
        drop((own, other));
        assert_eq!(pool.stats().reserved, device.used());
        let both = (a.alloc(BYTES).unwrap(), a.alloc(BYTES).unwrap());
        drop(both);
        expect_all_back(&device, &pool);
    });
}

#[test]
fn emptying_the_cache_spares_what_is_taken_meanwhile() {
    explore("empty_cache and allocation", None, || {
        let (device, pool, mut a, _b) = setup(1, false);
        drop(a.alloc(BYTES).unwrap());
        let trim = thread::spawn({
            let pool = pool.clone();
            move || pool.empty_cache()
        });
        // Also while the segment is on its way back to the device, and the limit has no room for a second: no spurious failure.
        let block = a.alloc(BYTES).unwrap();
        assert_eq!(device.used(), BYTES, "{block:?} lost its segment");
        drop(block);
        trim.join().unwrap();
        expect_all_back(&device, &pool);
    });
}
