//! One behaviour a test.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::*;
use crate::driver::ALIGNMENT;
use crate::memory::budget::Budget;
use crate::memory::cache::far;
use crate::memory::class::Class;

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
    let stats = pool.stats();
    assert_eq!((stats.allocations, stats.driver_allocations, stats.reclaimed), (2, 1, 0));
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
    let error = pool.stream_cache(StreamId(4096)).err().unwrap();
    assert!(
        error.is_invalid_argument() && error.to_string().contains("stream numbers go to 4095"),
        "{error}"
    );
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
    device.complete_all();
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
        pool.empty_cache();
        assert_eq!((pool.stats().retired, pool.stats().reserved), (200_704, 200_704), "one ticket early");
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
    // Let go under running work, which frees nothing that it touches.
    device.leaks.store(true, Ordering::SeqCst);
    let mut a = cache(&pool, 0);
    let blocks: Vec<_> = (0..200).map(|_| a.alloc(4096).unwrap()).collect();
    assert_eq!(pool.stats().cached, 0);
    for (_, block) in blocks.iter().enumerate().filter(|(i, _)| *i != 100) {
        device.launch(1, &[block]);
    }
    // In the midst of a slab, so that no segment comes free with it.
    let ticket = device.launch(2, &[&blocks[100]]);
    drop(blocks);
    device.complete(ticket);
    // It is the 101st retired one; stream 1's need not be waited for.
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
    assert_eq!((pool.limit(), pool.stats().limit), (MIB, MIB));
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
    let (done, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(block);
        done.send(()).unwrap();
    });
    waits.recv_timeout(Duration::from_secs(20)).expect("the drop asked for a lock");
    drop(held);
    left_on_purpose(&*registry[0]);
    drop((a, registry, pool));
    assert!(device.used.load(Ordering::SeqCst) >= MIB, "leaked, not freed");
}

#[test]
fn a_pool_let_go_under_running_work_leaks_only_what_the_work_touches() {
    let (device, pool) = pool(64 * MIB, 64 * MIB);
    device.leaks.store(true, Ordering::SeqCst);
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

/// A device whose work ends at the n-th look at it.
struct EndsAtLook {
    looks: AtomicU64,
    ends_at: u64,
    used: AtomicUsize,
}

impl Source for std::sync::Arc<EndsAtLook> {
    fn memory_bytes(&self) -> usize {
        MIB
    }
    fn allocate(&self, bytes: usize) -> Result<Segment> {
        let from = (self.used.fetch_add(bytes, Ordering::SeqCst) + MIB) as u64;
        Ok(Segment::new(from, bytes, Box::new(())))
    }
    fn completed(&self, _stream: StreamId) -> u64 {
        u64::from(self.looks.fetch_add(1, Ordering::SeqCst) >= self.ends_at)
    }
    fn wait(&self, _ticket: Ticket, _deadline: Instant) -> Result<()> {
        self.looks.fetch_add(self.ends_at, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn work_that_ends_between_two_looks_of_the_ladder_costs_no_allocation() {
    for ends_at in 0..20 {
        let source = EndsAtLook { looks: AtomicU64::new(0), ends_at, used: AtomicUsize::new(0) };
        let config = MemoryConfig { limit: Some(MIB), ..MemoryConfig::default() };
        let pool = MemoryPool::new(std::sync::Arc::new(source), config);
        let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
        let block = a.alloc(MIB).unwrap();
        block.record(crate::timeline::Submissions::new(StreamId(0)).submit(|_| Ok(())).unwrap());
        drop(block);
        // The only memory is the first stream's, whose work on it ends at any moment of the search.
        let block = b.alloc(MIB);
        assert!(block.is_ok(), "ends at look {ends_at}: {}", block.unwrap_err());
    }
}

#[test]
fn a_deadline_that_has_passed_forbids_waits_and_nothing_else() {
    let (device, pool) = pool(4 * MIB, 4 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    let past = Instant::now();
    drop((a.alloc_until(MIB, past).unwrap(), a.alloc_until(2 * MIB, past).unwrap()));
    // Asked from the device, taken over, and in the place of what other caches had.
    assert!(b.alloc_until(MIB, past).is_ok() && b.alloc_until(3 * MIB, past).is_ok());
    assert_eq!(device.waits.load(Ordering::SeqCst), 0);
    assert!(far(Duration::MAX) > Instant::now() + Duration::from_secs(1 << 29), "for ever is far away");
}

#[test]
fn the_device_is_asked_three_times_whatever_there_is_to_wait_for() {
    let (device, pool) = pool(64 * MIB, 64 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    drop(a.alloc(MIB).unwrap());
    for n in 0..6 {
        let block = b.alloc((n + 2) * MIB).unwrap();
        device.launch(2, &[&block]);
    }
    let before = device.calls.load(Ordering::SeqCst);
    device.refuse.lock().unwrap().extend(before..before + 100);
    assert!(a.alloc(20 * MIB).unwrap_err().is_out_of_memory());
    assert_eq!(device.calls.load(Ordering::SeqCst) - before, 3);
    device.complete_all();
    pool.check();
}

#[test]
fn an_error_that_is_not_about_memory_is_the_callers_at_once() {
    let (device, pool) = pool(64 * MIB, 64 * MIB);
    let mut a = cache(&pool, 0);
    device.broken.store(true, Ordering::SeqCst);
    let error = a.alloc(MIB).unwrap_err();
    assert!(!error.is_out_of_memory() && error.to_string().contains("broken"), "{error}");
    assert_eq!(device.calls.load(Ordering::SeqCst), 1);
    assert_eq!(pool.stats().reserved, 0);
}

#[test]
fn room_that_was_promised_is_not_promised_again() {
    let budget = Budget::new(100);
    let Ok(promised) = budget.reserve(60) else { panic!("60 of 100 are free") };
    assert_eq!(budget.reserve(60).err(), Some(20));
    drop(promised);
    let Ok(promised) = budget.reserve(80) else { panic!("all is free again") };
    promised.commit();
    assert!(budget.may_find_room(20) && !budget.may_find_room(21));
    budget.depart(80);
    assert!(budget.may_find_room(100), "what moves may go back to the device");
    budget.arrive(80);
    assert!(!budget.may_find_room(21));
}

#[test]
fn a_stream_tells_its_own_figures_and_a_block_what_it_is() {
    let (_device, pool) = pool(MIB, MIB);
    let (mut a, b) = (cache(&pool, 0), cache(&pool, 1));
    let block = a.alloc(100).unwrap();
    let stats = a.stats();
    assert!(stats.live >= 100 && stats.peak_live >= 100 && stats.allocations == 1, "{stats:?}");
    assert_eq!(b.stats().allocations, 0);
    assert!(format!("{block:?}").contains("bytes: 100"), "{block:?}");
}

#[test]
fn large_classes_are_a_sixty_fourth_of_their_power_of_two_apart() {
    assert_eq!(Class::of(64 * MIB + 1).unwrap().capacity, 65 * MIB);
    assert_eq!(Class::of(66 * MIB).unwrap().capacity, 66 * MIB);
}
