//! What the reclaim ladder chooses, and what it says if that fails.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::*;

/// What an allocation of more than the limit says.
fn says_out_of_memory(cache: &mut StreamCache, bytes: usize) -> String {
    let error = cache.alloc(bytes).unwrap_err();
    assert!(error.is_out_of_memory(), "{error}");
    error.to_string()
}

#[test]
fn out_of_memory_tells_what_was_asked_and_what_all_streams_have() {
    let (device, pool) = pool(64 * MIB, 16 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    let live = [a.alloc(MIB).unwrap(), b.alloc(2 * MIB).unwrap()];
    let (freed, in_use) = (a.alloc(3 * MIB).unwrap(), b.alloc(4 * MIB).unwrap());
    device.launch(2, &[&in_use]);
    drop((freed, in_use));
    let text = says_out_of_memory(&mut a, 20 * MIB);
    let expected = "out of memory: asked 20.0 MiB (20971520 bytes); free 6.0 MiB of the limit 16.0 MiB; live 3.0 MiB, cached 3.0 MiB, \
                    retired (freed, in use by work in flight) 4.0 MiB. Drop tensors";
    assert!(text.starts_with(expected), "{text}");
    device.complete_all();
    drop(live);
}

#[test]
fn what_is_being_asked_from_the_device_is_not_free() {
    let (device, pool) = pool(64 * MIB, 16 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    let live = a.alloc(2 * MIB).unwrap();
    let (text, told) = std::sync::mpsc::channel();
    device.during_the_next_call(move || text.send(says_out_of_memory(&mut b, 17 * MIB)).unwrap());
    let asked = a.alloc(5 * MIB).unwrap();
    let text = told.recv().unwrap();
    assert!(text.contains("free 9.0 MiB of the limit 16.0 MiB; live 2.0 MiB"), "{text}");
    drop((live, asked));
}

#[test]
fn a_lower_limit_is_kept_also_if_it_comes_while_the_device_is_asked() {
    let (device, pool) = pool(64 * MIB, 16 * MIB);
    let mut a = cache(&pool, 0);
    drop(a.alloc(2 * MIB).unwrap());
    let other = pool.clone();
    device.during_the_next_call(move || other.set_limit(5 * MIB));
    let asked = a.alloc(4 * MIB).unwrap();
    assert_eq!(pool.stats().reserved, 4 * MIB, "the cache went back, for both together are above the limit");
    drop(asked);
}

#[test]
fn the_figures_add_up_also_while_memory_goes_back_to_the_device() {
    let (device, pool) = pool(64 * MIB, 16 * MIB);
    drop(cache(&pool, 0).alloc(2 * MIB).unwrap());
    let other = pool.clone();
    let (stats, seen) = std::sync::mpsc::channel();
    device.during_the_next_call(move || stats.send(other.stats()).unwrap());
    assert_eq!(pool.empty_cache(), 2 * MIB);
    let stats = seen.recv().unwrap();
    assert_eq!((stats.live, stats.cached, stats.retired, stats.reserved), (0, 2 * MIB, 0, 2 * MIB));
}

#[test]
fn memory_on_its_way_back_to_the_device_is_waited_for() {
    let (device, pool) = pool(64 * MIB, 2 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    drop(a.alloc(2 * MIB).unwrap());
    let looks = device.clone();
    let (ended, result) = std::sync::mpsc::channel();
    // The segment is in nobody's hands until the other thread has looked for room a hundred times, or has given up.
    device.during_the_next_call(move || {
        let before = looks.looks.load(Ordering::SeqCst);
        let thread = std::thread::spawn(move || b.alloc(MIB));
        let start = Instant::now();
        while looks.looks.load(Ordering::SeqCst) < before + 100 && !thread.is_finished() {
            assert!(start.elapsed() < Duration::from_secs(20), "neither looks nor gives up");
            std::thread::yield_now();
        }
        ended.send(thread).unwrap();
    });
    assert_eq!(pool.empty_cache(), 2 * MIB);
    let block = result.recv().unwrap().join().unwrap();
    assert!(block.is_ok(), "{}", block.unwrap_err());
}

#[test]
fn after_a_refusal_of_the_device_every_cache_goes_back() {
    let (device, pool) = pool(64 * MIB, 64 * MIB);
    let (mut a, mut b, mut c) = (cache(&pool, 0), cache(&pool, 1), cache(&pool, 2));
    drop((a.alloc(4 * MIB).unwrap(), b.alloc(MIB).unwrap()));
    device.refuse.lock().unwrap().push(3);
    let block = c.alloc(3 * MIB).unwrap();
    // The first cache alone is as much as is asked for, but perhaps not in one piece with what is free.
    assert_eq!((pool.stats().cached, pool.stats().reserved), (0, 3 * MIB));
    drop(block);
}

#[test]
fn a_device_that_is_lost_during_the_wait_is_said_to_be_lost() {
    let (device, pool) = pool(64 * MIB, MIB);
    device.leaks.store(true, Ordering::SeqCst);
    let mut a = cache(&pool, 0);
    let block = a.alloc(MIB).unwrap();
    device.launch(1, &[&block]);
    drop(block);
    device.lost.store(true, Ordering::SeqCst);
    let error = a.alloc(MIB).unwrap_err();
    assert!(error.is_device_lost(), "{error}");
    assert_eq!(pool.stats().out_of_memory, 0);
}

#[test]
fn memory_under_work_that_failed_is_free_once_that_work_has_ended() {
    let (device, pool) = pool(64 * MIB, MIB);
    let mut a = cache(&pool, 0);
    let block = a.alloc(MIB).unwrap();
    device.launch(1, &[&block]);
    drop(block);
    device.failing.store(true, Ordering::SeqCst);
    drop(a.alloc(MIB).unwrap());
    assert_eq!(device.waits.load(Ordering::SeqCst), 1);
}

#[test]
fn of_several_segments_in_flight_the_least_that_is_enough_is_waited_for() {
    let (device, pool) = pool(64 * MIB, 9 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    let blocks = [a.alloc(MIB).unwrap(), a.alloc(5 * MIB).unwrap(), a.alloc(3 * MIB).unwrap()];
    for (stream, block) in (1..).zip(&blocks) {
        device.launch(stream, &[block]);
        device.launch(stream, &[block]);
    }
    drop(blocks);
    drop(b.alloc(2 * MIB).unwrap());
    let done: Vec<_> = (1..4).map(|stream| device.completed(StreamId(stream))).collect();
    assert_eq!(done, [0, 0, 2], "the third alone");
    device.complete_all();
}

#[test]
fn if_no_segment_in_flight_is_enough_the_largest_is_waited_for_first() {
    let (device, pool) = pool(64 * MIB, 6 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    let blocks = [a.alloc(MIB).unwrap(), a.alloc(3 * MIB).unwrap(), a.alloc(2 * MIB).unwrap()];
    for (stream, block) in (1..).zip(&blocks) {
        device.launch(stream, &[block]);
    }
    drop(blocks);
    drop(b.alloc(5 * MIB).unwrap());
    let done: Vec<_> = (1..4).map(|stream| device.completed(StreamId(stream))).collect();
    assert_eq!(done, [0, 1, 1], "the largest, then the least that is enough beside it");
    device.complete_all();
}

#[test]
fn a_wait_is_for_a_block_that_will_serve() {
    let (device, pool) = pool(64 * MIB, 2 * MIB + 4096);
    let mut a = cache(&pool, 0);
    let mut small: Vec<_> = (0..64).map(|_| a.alloc(64).unwrap()).collect();
    let blocks = [a.alloc(3 * MIB / 2).unwrap(), a.alloc(MIB / 2).unwrap()];
    for (stream, block) in [(1, &small[0]), (2, &blocks[0]), (3, &blocks[1])] {
        device.launch(stream, &[block]);
    }
    drop(small.swap_remove(0));
    drop(blocks);
    let done = || [1, 2, 3].map(|stream| device.completed(StreamId(stream)));
    let large = a.alloc(MIB / 2).unwrap();
    assert_eq!(done(), [0, 0, 1], "neither the smaller nor the larger");
    // The small block's segment has live blocks, so only the block itself is of use.
    let again = a.alloc(64).unwrap();
    assert_eq!(done(), [1, 0, 1]);
    drop((small, large, again));
    device.complete_all();
}

#[test]
fn a_pool_let_go_after_its_work_has_ended_frees_what_other_streams_used() {
    let (device, pool) = pool(64 * MIB, 64 * MIB);
    let mut a = cache(&pool, 0);
    let block = a.alloc(MIB).unwrap();
    let ticket = device.launch(1, &[&block]);
    drop(block);
    device.complete(ticket);
    drop((a, pool));
    assert_eq!(device.used.load(Ordering::SeqCst), 0);
}

#[test]
fn no_slab_is_larger_than_the_configured_most() {
    let (_device, pool) = pool(64 * MIB, 64 * MIB);
    let mut a = cache(&pool, 0);
    let mut blocks = Vec::new();
    let mut most = 0;
    for _ in 0..40 {
        let before = pool.stats().reserved;
        blocks.push(a.alloc(128 << 10).unwrap());
        most = most.max(pool.stats().reserved - before);
    }
    assert_eq!(most, MemoryConfig::default().largest_slab);
}

#[test]
fn a_slab_is_as_large_as_what_the_stream_has_of_its_class_now_not_as_what_it_had() {
    let (_device, pool) = pool(64 * MIB, 64 * MIB);
    let mut a = cache(&pool, 0);
    // Slabs of 64, 64, 128 and 256 blocks.
    let mut blocks: Vec<_> = (0..512).map(|_| a.alloc(64).unwrap()).collect();
    assert_eq!(pool.stats().reserved, 512 * 64);
    blocks.drain(..256);
    assert_eq!(pool.empty_cache(), 256 * 64);
    blocks.push(a.alloc(64).unwrap());
    assert_eq!(pool.stats().reserved, 2 * 256 * 64);
}

#[test]
fn the_figures_of_the_pool_are_the_sums_of_its_streams() {
    let (device, pool) = pool(64 * MIB, 16 * MIB);
    let (mut a, mut b) = (cache(&pool, 0), cache(&pool, 1));
    drop((a.alloc(2 * MIB).unwrap(), b.alloc(MIB).unwrap()));
    // Each takes the other's over.
    let taken = [a.alloc(MIB).unwrap(), b.alloc(2 * MIB).unwrap()];
    for (small, cache) in [(4096, &mut a), (8192, &mut b)] {
        drop(cache.alloc(small).unwrap());
        let block = cache.alloc(3 * MIB).unwrap();
        device.launch(2, &[&block]);
        says_out_of_memory(cache, 17 * MIB);
    }
    let sum =
        |figure: fn(&StreamMemoryStats) -> u64| pool.stream_stats().iter().map(|s| figure(&s.1)).sum::<u64>();
    let stats = pool.stats();
    assert_eq!((stats.live, stats.cached, stats.retired), (3 * MIB, 4096 + 8192, 6 * MIB));
    assert_eq!(
        (stats.live + stats.cached + stats.retired, stats.reserved),
        (stats.reserved, 9 * MIB + 4096 + 8192)
    );
    assert_eq!((stats.allocations, stats.driver_allocations), (8, 6));
    assert_eq!((stats.reclaimed, stats.out_of_memory), (2, 2));
    assert_eq!(stats.peak_live as u64, sum(|s| s.peak_live as u64));
    assert!(pool.stream_stats().iter().all(|s| s.1.peak_live >= 3 * MIB));
    drop(taken);
    device.complete_all();
}

#[test]
#[should_panic(expected = "INV-7: live, cached, retired")]
fn a_check_sees_books_that_do_not_agree() {
    let (_device, pool) = pool(MIB, MIB);
    let block = cache(&pool, 0).alloc(64).unwrap();
    pool.shelves()[0].bins().stats.live += 64;
    let _kept = block;
    pool.check();
}
