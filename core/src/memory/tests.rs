//! The memory against a tiny fake device and, in random programs, against a model of what may be reused when.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::driver::{ALIGNMENT, Segment};
use crate::timeline::Ticket;

const STREAMS: usize = 4;
const MIB: usize = 1 << 20;

/// A device of addresses without memory, whose work ends when the test says so, or when somebody waits.
struct Fake {
    memory: usize,
    used: AtomicUsize,
    most_used: AtomicUsize,
    next: AtomicU64,
    calls: AtomicU64,
    /// Calls of `allocate` that fail, counted from 1.
    refuse: Mutex<Vec<u64>>,
    submitted: [AtomicU64; STREAMS],
    completed: [AtomicU64; STREAMS],
    stalled: AtomicBool,
    abandoned: AtomicBool,
    /// Who touches which addresses: from, to, under which ticket.
    uses: Mutex<Vec<(u64, u64, Ticket)>>,
    waits: AtomicU64,
}

#[derive(Clone)]
struct Device(std::sync::Arc<Fake>);

struct Owner {
    device: Device,
    from: u64,
    bytes: usize,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.device.used.fetch_sub(self.bytes, Ordering::SeqCst);
        if !std::thread::panicking() {
            self.device.expect_unused(self.from, self.bytes, None);
        }
    }
}

impl std::ops::Deref for Device {
    type Target = Fake;
    fn deref(&self) -> &Fake {
        &self.0
    }
}

impl Device {
    fn new(memory: usize) -> Self {
        Self(std::sync::Arc::new(Fake {
            memory,
            used: AtomicUsize::new(0),
            most_used: AtomicUsize::new(0),
            next: AtomicU64::new(1 << 20),
            calls: AtomicU64::new(0),
            refuse: Mutex::default(),
            submitted: Default::default(),
            completed: Default::default(),
            stalled: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            uses: Mutex::default(),
            waits: AtomicU64::new(0),
        }))
    }

    /// Submits work of a stream that touches a block.
    fn launch(&self, stream: u32, blocks: &[&Block]) -> Ticket {
        let number = self.submitted[stream as usize].fetch_add(1, Ordering::SeqCst) + 1;
        let ticket = Ticket { stream: StreamId(stream), number };
        for block in blocks {
            block.record(ticket);
            let from = block.address();
            self.uses.lock().unwrap().push((from, from + block.bytes() as u64, ticket));
        }
        ticket
    }

    fn complete(&self, ticket: Ticket) {
        self.completed[ticket.stream.0 as usize].fetch_max(ticket.number, Ordering::SeqCst);
    }

    fn complete_all(&self) {
        for (submitted, completed) in self.submitted.iter().zip(&self.completed) {
            completed.store(submitted.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }

    /// INV-6: no work in flight touches these bytes, but for work of the stream that gets them.
    fn expect_unused(&self, from: u64, bytes: usize, to: Option<StreamId>) {
        let uses = self.uses.lock().unwrap();
        for (start, end, ticket) in uses.iter().filter(|u| u.0 < from + bytes as u64 && from < u.1) {
            let done = self.completed[ticket.stream.0 as usize].load(Ordering::SeqCst) >= ticket.number;
            assert!(
                done || to == Some(ticket.stream),
                "INV-6: {ticket:?} still touches {start:#x}..{end:#x}"
            );
        }
    }
}

impl Source for Device {
    fn memory_bytes(&self) -> usize {
        self.memory
    }

    fn allocate(&self, bytes: usize) -> Result<Segment> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let used = self.used.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if used > self.memory || self.refuse.lock().unwrap().contains(&call) {
            self.used.fetch_sub(bytes, Ordering::SeqCst);
            return Err(Error::out_of_memory("the fake device is full"));
        }
        self.most_used.fetch_max(used, Ordering::SeqCst);
        let from = self.next.fetch_add((bytes as u64).next_multiple_of(64), Ordering::SeqCst);
        Ok(Segment::new(from, bytes, Box::new(Owner { device: self.clone(), from, bytes })))
    }

    fn completed(&self, stream: StreamId) -> u64 {
        self.completed[stream.0 as usize].load(Ordering::SeqCst)
    }

    fn wait(&self, ticket: Ticket, _deadline: Instant) -> Result<()> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        if self.stalled.load(Ordering::SeqCst) {
            return Err(Error::timeout("the fake device is stalled"));
        }
        self.complete(ticket);
        Ok(())
    }

    fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }
}

fn pool(memory: usize, limit: usize) -> (Device, Arc<MemoryPool>) {
    let device = Device::new(memory);
    let config = MemoryConfig { limit: Some(limit), ..MemoryConfig::default() };
    let pool = MemoryPool::new(device.clone(), config);
    (device, pool)
}

fn cache(pool: &Arc<MemoryPool>, stream: u32) -> StreamCache {
    pool.stream_cache(StreamId(stream)).unwrap()
}

#[test]
fn the_default_limit_is_nine_tenths_of_the_device() {
    let pool = MemoryPool::new(Device::new(1000), MemoryConfig::default());
    assert_eq!(pool.limit(), 900);
}

#[test]
fn a_freed_block_is_the_next_of_its_class_and_costs_the_device_nothing() {
    let (device, pool) = pool(MIB, MIB);
    let mut cache = cache(&pool, 0);
    let first = cache.alloc(100).unwrap();
    let (id, address) = (first.id(), first.address());
    assert_eq!((first.bytes(), first.capacity(), address % ALIGNMENT as u64), (100, 128, 0));
    assert_eq!((first.slice().address(), first.slice().bytes()), (address, 100));
    drop(first);
    let again = cache.alloc(128).unwrap();
    assert_eq!(again.address(), address);
    assert_ne!(again.id(), id, "an id is never used twice");
    assert_eq!(device.calls.load(Ordering::SeqCst), 1);
    pool.check();
}

#[test]
fn live_blocks_never_overlap_and_all_bytes_come_back() {
    let (device, pool) = pool(64 * MIB, 64 * MIB);
    let mut cache = cache(&pool, 0);
    let sizes = [1, 63, 64, 65, 511, 513, 4096, 100_000, 131_072, 131_073, 300_000, MIB, 3 * MIB + 1];
    let blocks: Vec<Block> = (0..4).flat_map(|_| sizes).map(|bytes| cache.alloc(bytes).unwrap()).collect();
    let mut ranges: Vec<_> =
        blocks.iter().map(|b| (b.address(), b.address() + b.capacity() as u64)).collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|w| w[0].1 <= w[1].0));
    let stats = pool.stats();
    assert_eq!(stats.live, blocks.iter().map(Block::capacity).sum::<usize>());
    assert_eq!(stats.peak_live, stats.live);
    assert_eq!(stats.reserved, device.used.load(Ordering::SeqCst));
    drop(blocks);
    pool.check();
    pool.empty_cache();
    let stats = pool.stats();
    assert_eq!((stats.live, stats.cached, stats.retired, stats.reserved), (0, 0, 0, 0));
    assert_eq!(device.used.load(Ordering::SeqCst), 0);
    assert!(stats.peak_reserved > 0);
    pool.reset_peak();
    assert_eq!((pool.stats().peak_reserved, pool.stats().peak_live), (0, 0));
}

#[test]
fn a_block_of_no_bytes_is_a_block() {
    let (device, pool) = pool(MIB, 0);
    let mut cache = cache(&pool, 1);
    let (a, b) = (cache.alloc(0).unwrap(), cache.alloc(0).unwrap());
    a.record(Ticket { stream: StreamId(0), number: 9 });
    assert!(a.id() != b.id() && a.bytes() == 0 && a.address() % 64 == 0 && a.slice().bytes() == 0);
    drop((a, b));
    assert_eq!(device.calls.load(Ordering::SeqCst), 0);
    pool.check();
}

#[test]
fn ids_of_streams_do_not_meet() {
    let (_, pool) = pool(MIB, MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 3));
    let (x, y) = (a.alloc(1).unwrap(), b.alloc(1).unwrap());
    assert_ne!(x.id(), y.id());
    assert_eq!(x.id() >> 52, 0);
    assert_eq!(y.id() >> 52, 3);
    assert!(pool.stream_cache(StreamId(4096)).err().unwrap().is_invalid_argument());
}

#[test]
fn absurd_sizes_are_out_of_memory_at_once() {
    let (device, pool) = pool(MIB, MIB);
    let mut cache = cache(&pool, 0);
    device.stalled.store(true, Ordering::SeqCst);
    for bytes in [usize::MAX, usize::MAX - 1, isize::MAX as usize, 100 << 30, MIB + 1] {
        let error = cache.alloc(bytes).unwrap_err();
        assert!(error.is_out_of_memory(), "{error}");
    }
    let text = cache.alloc(100 << 30).unwrap_err().to_string();
    for part in [
        "asked 100.0 GiB (107374182400 bytes)",
        "limit 1.0 MiB",
        "live 0 bytes",
        "cached",
        "retired",
        "raise",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert_eq!(device.calls.load(Ordering::SeqCst), 0, "the device was not even asked");
    assert_eq!(pool.stats().out_of_memory, 6);
    // INV-8: the next request is served.
    assert!(cache.alloc(MIB).is_ok());
    pool.check();
}

#[test]
fn use_on_the_own_stream_keeps_nothing_and_reuse_need_not_wait() {
    let (device, pool) = pool(MIB, MIB);
    let mut cache = cache(&pool, 0);
    let block = cache.alloc(1000).unwrap();
    for _ in 0..5 {
        device.launch(0, &[&block]);
    }
    assert_eq!(block.tickets_kept(), 0);
    let address = block.address();
    drop(block);
    assert_eq!(pool.stats().retired, 0);
    assert_eq!(
        cache.alloc(1000).unwrap().address(),
        address,
        "in order with what the stream still has to do"
    );
}

#[test]
fn a_block_in_use_on_another_stream_is_withheld_until_its_very_ticket_is_done() {
    let (device, pool) = pool(MIB, MIB);
    let mut home = cache(&pool, 0);
    let block = home.alloc(200_000).unwrap();
    let before = device.launch(1, &[]);
    device.launch(1, &[&block]);
    let last = device.launch(1, &[&block]);
    assert_eq!(block.tickets_kept(), 1, "one number a stream");
    let address = block.address();
    drop(block);
    assert_eq!(pool.stats().retired, 200_704);
    pool.check();
    for done in [before, Ticket { number: last.number - 1, ..last }] {
        device.complete(done);
        assert_ne!(home.alloc(200_000).unwrap().address(), address, "one ticket early");
        assert_eq!(pool.stats().retired, 200_704);
    }
    device.complete(last);
    pool.empty_cache();
    assert_eq!(pool.stats().reserved, 0);
}

#[test]
fn done_work_of_other_streams_is_not_kept() {
    let (device, pool) = pool(MIB, MIB);
    let mut home = cache(&pool, 0);
    let block = home.alloc(64).unwrap();
    let ticket = device.launch(2, &[]);
    device.complete(ticket);
    block.record(ticket);
    assert_eq!(block.tickets_kept(), 0);
}

#[test]
fn a_finished_free_is_found_before_the_device_is_asked() {
    let (device, pool) = pool(MIB, MIB);
    let mut home = cache(&pool, 0);
    let block = home.alloc(200_000).unwrap();
    let ticket = device.launch(1, &[&block]);
    let address = block.address();
    drop(block);
    device.complete(ticket);
    assert_eq!(home.alloc(200_000).unwrap().address(), address);
    assert_eq!(device.calls.load(Ordering::SeqCst), 1);
}

#[test]
fn another_streams_idle_cache_is_taken_over_but_not_under_its_running_work() {
    let (device, pool) = pool(8 * MIB, 8 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    let block = a.alloc(MIB).unwrap();
    let ticket = device.launch(0, &[&block]);
    let address = block.address();
    drop(block);
    // Stream 0 is at work on it: stream 1 gets memory of its own.
    let other = b.alloc(MIB).unwrap();
    assert_ne!(other.address(), address);
    device.complete(ticket);
    let taken = b.alloc(MIB).unwrap();
    assert_eq!((taken.address(), taken.home()), (address, StreamId(1)));
    assert_eq!((pool.stats().reclaimed, pool.stats().driver_allocations), (1, 2));
    // The old home's numbers mean nothing to the new one.
    drop((other, taken));
    assert_eq!(pool.empty_cache(), 2 * MIB);
    pool.check();
}

#[test]
fn caches_of_other_sizes_make_room_when_the_budget_is_used_up() {
    let (device, pool) = pool(64 * MIB, 4 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    let blocks: Vec<_> = (0..4).map(|_| a.alloc(MIB).unwrap()).collect();
    assert!(b.alloc(2 * MIB).unwrap_err().is_out_of_memory());
    drop(blocks);
    let block = b.alloc(2 * MIB).unwrap();
    assert_eq!(pool.stats().reserved, 4 * MIB, "no more was given back than was needed");
    assert_eq!(pool.stats().cached, 2 * MIB);
    drop(block);
    assert!(device.most_used.load(Ordering::SeqCst) <= 4 * MIB);
}

#[test]
fn the_last_resort_is_a_wait_for_freed_memory_in_flight() {
    let (device, pool) = pool(64 * MIB, 2 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    let (x, y) = (a.alloc(MIB).unwrap(), a.alloc(MIB).unwrap());
    device.launch(0, &[&x]);
    device.launch(1, &[&y]);
    drop((x, y));
    assert_eq!((pool.stats().cached, pool.stats().retired), (MIB, MIB));
    // Needs both: the one that stream 0 is still at work on and the one that stream 1 is.
    drop(b.alloc(2 * MIB).unwrap());
    assert_eq!(device.waits.load(Ordering::SeqCst), 2);
    pool.check();
}

#[test]
fn no_wait_when_waiting_cannot_help() {
    let (device, pool) = pool(64 * MIB, 2 * MIB);
    let mut a = cache(&pool, 0);
    let (held, freed) = (a.alloc(MIB).unwrap(), a.alloc(MIB).unwrap());
    device.launch(1, &[&freed]);
    drop(freed);
    assert!(a.alloc(3 * MIB / 2).unwrap_err().is_out_of_memory());
    assert_eq!(device.waits.load(Ordering::SeqCst), 0);
    drop(held);
    assert!(a.alloc(3 * MIB / 2).is_ok());
}

#[test]
fn a_stalled_stream_ends_in_out_of_memory_that_says_so() {
    let (device, pool) = pool(64 * MIB, MIB);
    let mut a = cache(&pool, 0);
    let block = a.alloc(MIB).unwrap();
    let ticket = device.launch(1, &[&block]);
    drop(block);
    device.stalled.store(true, Ordering::SeqCst);
    let error = a.alloc_until(MIB, Instant::now() + Duration::from_millis(5)).unwrap_err();
    assert!(error.is_out_of_memory() && error.to_string().contains("stalled"), "{error}");
    pool.check();
    device.complete(ticket);
    assert!(a.alloc(MIB).is_ok());
}

#[test]
fn a_waiter_finds_its_block_behind_many_that_are_still_in_flight() {
    let (device, pool) = pool(64 * MIB, 200 * 4096);
    let mut a = cache(&pool, 0);
    let blocks: Vec<_> = (0..200).map(|_| a.alloc(4096).unwrap()).collect();
    assert_eq!(pool.stats().cached, 0);
    for block in &blocks[..199] {
        device.launch(1, &[block]);
    }
    let ticket = device.launch(2, &[&blocks[199]]);
    drop(blocks);
    device.complete(ticket);
    // Its block is the 200th retired one; streams 1's need not be waited for.
    assert!(a.alloc(4096).is_ok());
    assert_eq!(device.waits.load(Ordering::SeqCst), 0);
}

#[test]
fn a_refusal_of_the_device_gives_the_budget_back() {
    let (device, pool) = pool(64 * MIB, 2 * MIB);
    let mut a = cache(&pool, 0);
    device.refuse.lock().unwrap().extend([1, 2, 3]);
    for _ in 0..3 {
        let error = a.alloc(2 * MIB).unwrap_err();
        assert!(
            error.is_out_of_memory() && error.to_string().contains("the device itself refused"),
            "{error}"
        );
        assert_eq!(pool.stats().reserved, 0);
    }
    // All of the limit is there again.
    assert!(a.alloc(2 * MIB).is_ok());
    pool.check();
}

#[test]
fn a_refusal_of_the_device_is_tried_again_after_the_caches_went_back() {
    let (device, pool) = pool(2 * MIB, 64 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    drop((a.alloc(MIB).unwrap(), a.alloc(MIB / 2).unwrap()));
    assert!(b.alloc(2 * MIB).is_ok(), "1.5 MiB of caches were in the way");
    assert_eq!(device.calls.load(Ordering::SeqCst), 4);
}

#[test]
fn a_slab_grows_with_what_the_stream_needs() {
    let (device, pool) = pool(64 * MIB, 64 * MIB);
    let mut a = cache(&pool, 0);
    let blocks: Vec<_> = (1..=10_000)
        .map(|n| {
            let block = a.alloc(64).unwrap();
            assert!(pool.stats().reserved <= (2 * n * 64).max(4096), "at most twice what is live");
            block
        })
        .collect();
    assert!(device.calls.load(Ordering::SeqCst) < 10);
    drop(blocks);
    pool.check();
}

#[test]
fn near_the_limit_a_slab_is_a_single_block() {
    let (_, pool) = pool(64 * MIB, 4096 + 64);
    let mut a = cache(&pool, 0);
    let blocks: Vec<_> = (0..65).map(|_| a.alloc(64).unwrap()).collect();
    assert_eq!(pool.stats().live, pool.limit());
    assert!(a.alloc(1).unwrap_err().is_out_of_memory());
    drop(blocks);
}

#[test]
fn a_lower_limit_takes_caches_back_and_spares_what_is_live() {
    let (_, pool) = pool(64 * MIB, 8 * MIB);
    let mut a = cache(&pool, 0);
    let held = a.alloc(2 * MIB).unwrap();
    drop(a.alloc(MIB).unwrap());
    pool.set_limit(MIB);
    assert_eq!(pool.stats().reserved, 2 * MIB);
    assert!(a.alloc(1).unwrap_err().is_out_of_memory());
    drop(held);
    assert!(a.alloc(1).is_ok());
    assert!(pool.stats().reserved <= MIB);
}

#[test]
fn drain_waits_for_all_in_flight_and_gives_everything_back() {
    let (device, pool) = pool(64 * MIB, 64 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    let blocks = [a.alloc(64).unwrap(), a.alloc(MIB).unwrap(), b.alloc(MIB).unwrap()];
    for stream in 0..3 {
        device.launch(stream, &blocks.iter().collect::<Vec<_>>());
    }
    drop(blocks);
    device.stalled.store(true, Ordering::SeqCst);
    assert!(pool.drain(Instant::now()).unwrap_err().is_timeout());
    device.stalled.store(false, Ordering::SeqCst);
    pool.drain(Instant::now()).unwrap();
    assert_eq!((pool.stats().reserved, device.used.load(Ordering::SeqCst)), (0, 0));
}

#[test]
fn in_an_abandoned_process_drops_touch_neither_locks_nor_the_device() {
    let (device, pool) = pool(64 * MIB, 64 * MIB);
    let mut a = cache(&pool, 0);
    let (block, freed) = (a.alloc(64).unwrap(), a.alloc(MIB).unwrap());
    drop(freed);
    device.abandoned.store(true, Ordering::SeqCst);
    // Another thread held the shelf's lock when the process was forked: here, this one.
    let registry = pool.shelves();
    let held = registry[0].bins();
    drop(block);
    drop(held);
    drop((a, registry, pool));
    assert!(device.used.load(Ordering::SeqCst) >= MIB, "leaked, not freed");
}

#[test]
fn a_pool_let_go_under_running_work_leaks_only_what_the_work_touches() {
    let (device, pool) = pool(64 * MIB, 64 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    let (busy, idle) = (a.alloc(MIB).unwrap(), b.alloc(2 * MIB).unwrap());
    device.launch(0, &[&busy]);
    drop((busy, idle, a, b, pool));
    assert_eq!(device.used.load(Ordering::SeqCst), MIB, "INV-11: nothing is freed under running work");
}

#[test]
fn a_stream_opened_again_finds_its_cache() {
    let (device, pool) = pool(MIB, MIB);
    drop(cache(&pool, 0).alloc(1000).unwrap());
    drop(cache(&pool, 0).alloc(1000).unwrap());
    assert_eq!(device.calls.load(Ordering::SeqCst), 1);
    assert_eq!(pool.stream_stats().len(), 1);
}

#[test]
fn threads_that_allocate_hand_over_and_free_keep_the_books() {
    let (device, pool) = pool(3 * MIB, 3 * MIB);
    let (send, receive) = std::sync::mpsc::channel::<Block>();
    let receive = std::sync::Mutex::new(receive);
    let live: Mutex<std::collections::BTreeMap<u64, u64>> = Mutex::default();
    let served = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for stream in 0..STREAMS as u32 {
            let (device, pool, send, receive) = (&device, &pool, send.clone(), &receive);
            let (live, served) = (&live, &served);
            scope.spawn(move || {
                let mut cache = cache(pool, stream);
                let mut random = u64::from(stream) + 1;
                for i in 0..2000 {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let bytes = [200, 3000, 70_000, 300_000, MIB][(random >> 33) as usize % 5];
                    match cache.alloc(bytes) {
                        Ok(block) => {
                            let (from, end) = (block.address(), block.address() + block.capacity() as u64);
                            device.expect_unused(from, block.capacity(), Some(StreamId(stream)));
                            let mut live = live.lock().unwrap();
                            assert!(live.range(..end).next_back().is_none_or(|(_, &e)| e <= from), "overlap");
                            live.insert(from, end);
                            drop(live);
                            device.launch(stream, &[&block]);
                            served.fetch_add(1, Ordering::Relaxed);
                            send.send(block).unwrap();
                        }
                        Err(error) => assert!(error.is_out_of_memory(), "{error}"),
                    }
                    if random >> 62 != 0 {
                        if let Ok(block) = receive.lock().unwrap().try_recv() {
                            device.launch(stream, &[&block]);
                            live.lock().unwrap().remove(&block.address());
                            drop(block);
                        }
                    }
                    if i % 100 == 0 {
                        pool.check();
                        assert!(pool.stats().reserved <= pool.limit());
                        // Done work is forgotten, or the list of uses would grow for ever.
                        let mut uses = device.uses.lock().unwrap();
                        uses.retain(|u| {
                            device.completed[u.2.stream.0 as usize].load(Ordering::SeqCst) < u.2.number
                        });
                    }
                }
            });
        }
    });
    drop(receive);
    assert!(served.into_inner() > 1000);
    assert!(device.most_used.load(Ordering::SeqCst) <= 3 * MIB);
    pool.drain(Instant::now()).unwrap();
    pool.check();
    assert_eq!((pool.stats().reserved, device.used.load(Ordering::SeqCst)), (0, 0));
}

/// One step of a random program. Numbers choose among what there is at that moment.
#[derive(Clone, Debug)]
enum Step {
    Alloc {
        stream: u32,
        bytes: usize,
    },
    Use {
        stream: u32,
        block: usize,
    },
    Free {
        block: usize,
    },
    /// Some of a stream's work ends.
    Complete {
        stream: u32,
        some: u64,
    },
    EmptyCache,
    Limit {
        bytes: usize,
    },
    Refuse {
        next: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..STREAMS as u32;
    let bytes = prop_oneof![0_usize..300, 4000_usize..5000, 100_000_usize..200_000, 300_000_usize..900_000];
    prop_oneof![
        6 => (stream.clone(), bytes).prop_map(|(stream, bytes)| Step::Alloc { stream, bytes }),
        6 => (stream.clone(), any::<usize>()).prop_map(|(stream, block)| Step::Use { stream, block }),
        5 => any::<usize>().prop_map(|block| Step::Free { block }),
        3 => (stream, 1_u64..4).prop_map(|(stream, some)| Step::Complete { stream, some }),
        1 => Just(Step::EmptyCache),
        1 => (500_000_usize..3_000_000).prop_map(|bytes| Step::Limit { bytes }),
        1 => (1_u64..3).prop_map(|next| Step::Refuse { next }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_reuse_nothing_early_and_lose_nothing(steps in prop::collection::vec(step(), 1..200)) {
        let (device, pool) = pool(8 * MIB, 2 * MIB);
        let mut caches: Vec<_> = (0..STREAMS as u32).map(|s| cache(&pool, s)).collect();
        let mut blocks: Vec<Block> = Vec::new();
        let mut ids = std::collections::HashSet::new();
        for step in steps {
            match step {
                Step::Alloc { stream, bytes } => match caches[stream as usize].alloc(bytes) {
                    Ok(block) => {
                        prop_assert!(ids.insert(block.id()));
                        prop_assert!(block.bytes() == bytes && block.capacity() >= bytes && block.address() % 64 == 0);
                        let (from, capacity) = (block.address(), block.capacity() as u64);
                        prop_assert!(bytes == 0 || blocks.iter().all(|b| {
                            b.address() + b.capacity() as u64 <= from || from + capacity <= b.address()
                        }), "live blocks overlap");
                        device.expect_unused(from, block.capacity(), Some(StreamId(stream)));
                        blocks.push(block);
                    }
                    Err(error) => {
                        prop_assert!(error.is_out_of_memory());
                        // Every wait ends on this device, so nothing that could make room was left.
                        let stats = pool.stats();
                        let refused = error.to_string().contains("refused");
                        prop_assert!(refused || stats.reserved + bytes + bytes / 8 + 64 > stats.limit, "{error}");
                    }
                },
                Step::Use { stream, block } if !blocks.is_empty() => {
                    device.launch(stream, &[&blocks[block % blocks.len()]]);
                }
                Step::Free { block } if !blocks.is_empty() => drop(blocks.swap_remove(block % blocks.len())),
                Step::Complete { stream, some } => {
                    let (submitted, completed) = (&device.submitted[stream as usize], &device.completed[stream as usize]);
                    let upto = completed.load(Ordering::SeqCst) + some;
                    completed.store(upto.min(submitted.load(Ordering::SeqCst)), Ordering::SeqCst);
                }
                Step::EmptyCache => {
                    pool.empty_cache();
                }
                Step::Limit { bytes } => pool.set_limit(bytes),
                Step::Refuse { next } => {
                    let call = device.calls.load(Ordering::SeqCst) + next;
                    device.refuse.lock().unwrap().push(call);
                }
                Step::Use { .. } | Step::Free { .. } => {}
            }
            pool.check();
            let stats = pool.stats();
            prop_assert_eq!(stats.live + stats.cached + stats.retired, stats.reserved);
            prop_assert_eq!(stats.reserved, device.used.load(Ordering::SeqCst));
            prop_assert_eq!(stats.live, blocks.iter().map(Block::capacity).sum::<usize>());
        }
        drop(blocks);
        device.complete_all();
        pool.empty_cache();
        prop_assert_eq!(pool.stats().reserved, 0);
        prop_assert_eq!(device.used.load(Ordering::SeqCst), 0);
    }
}
