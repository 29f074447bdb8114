//! Allocation and free under loom: no double free, no overlap of live blocks, sizes and alignment right, bytes conserved, all freed is
//! nothing left. Two threads with two operations each, small blocks that share a slab and large ones that have a segment of their own.
#![cfg(loom)]

mod model;

use loom::thread;
use model::explore;
use model::memory::{BYTES, expect_all_back, setup};
use streampool_core::driver::ALIGNMENT;
use streampool_core::memory::{Block, MemoryPool, StreamCache};

/// A block is as large and as aligned as it must be.
fn allocate(cache: &mut StreamCache, bytes: usize) -> Block {
    let block = cache.alloc(bytes).unwrap();
    assert!(block.bytes() == bytes && block.capacity() >= bytes, "{block:?}");
    assert!(block.address().is_multiple_of(ALIGNMENT as u64), "{block:?}");
    block
}

/// Live blocks have no byte and no id in common.
fn assert_apart(blocks: &[&Block]) {
    for (i, a) in blocks.iter().enumerate() {
        for b in &blocks[i + 1..] {
            let apart = a.address() + a.capacity() as u64 <= b.address()
                || b.address() + b.capacity() as u64 <= a.address();
            assert!(apart && a.id() != b.id(), "{a:?} and {b:?} overlap");
        }
    }
}

/// The books agree at any moment, not only at the end.
fn live(pool: &MemoryPool) -> usize {
    pool.check();
    pool.stats().live
}

#[test]
fn two_streams_that_allocate_and_free_have_blocks_of_their_own() {
    explore("alloc / free: two streams, 2 threads x (2 allocations, 1 free), one slab each", 3, || {
        let (device, pool, mut a, mut b) = setup(8, false);
        let other = thread::spawn(move || {
            let first = allocate(&mut b, 64);
            let second = allocate(&mut b, 100);
            drop(first);
            second
        });
        let first = allocate(&mut a, 64);
        let second = allocate(&mut a, 100);
        drop(first);
        let third = other.join().unwrap();
        assert_apart(&[&second, &third]);
        assert_eq!(live(&pool), second.capacity() + third.capacity());
        drop((second, third));
        expect_all_back(&device, &pool);
    });
}

#[test]
fn blocks_of_one_slab_freed_by_another_thread_are_freed_once() {
    explore("alloc / free: one slab, 2 threads, 2 remote frees beside 2 allocations", 3, || {
        let (device, pool, mut a, _b) = setup(8, false);
        let (first, second) = (allocate(&mut a, 64), allocate(&mut a, 64));
        assert_apart(&[&first, &second]);
        let free = thread::spawn(move || {
            drop(first);
            drop(second);
        });
        let third = allocate(&mut a, 64);
        let fourth = allocate(&mut a, 64);
        assert_apart(&[&third, &fourth]);
        free.join().unwrap();
        assert_eq!(live(&pool), third.capacity() + fourth.capacity(), "INV-7");
        drop((third, fourth));
        expect_all_back(&device, &pool);
    });
}

#[test]
fn two_threads_that_free_into_one_shelf_lose_nothing() {
    explore("alloc / free: two remote frees at once, 3 threads, 2 blocks", 4, || {
        let (device, pool, mut a, _b) = setup(8, false);
        let (first, second) = (allocate(&mut a, 64), allocate(&mut a, BYTES));
        let frees = [first, second].map(|block| thread::spawn(move || drop(block)));
        pool.check();
        frees.into_iter().for_each(|free| free.join().unwrap());
        expect_all_back(&device, &pool);
    });
}

#[test]
fn a_limit_that_shrinks_beside_allocations_is_kept_or_refuses() {
    explore("alloc / free: a shrinking limit, 2 threads, 2 large blocks", 3, || {
        let (device, pool, mut a, _b) = setup(2, false);
        drop(allocate(&mut a, BYTES));
        let shrink = thread::spawn({
            let pool = pool.clone();
            move || pool.set_limit(BYTES)
        });
        let first = a.alloc(BYTES);
        let second = a.alloc(BYTES);
        shrink.join().unwrap();
        assert!(first.is_ok(), "INV-8: there is room for one at any limit");
        if let Err(error) = &second {
            assert!(error.is_out_of_memory());
        }
        drop((first, second));
        expect_all_back(&device, &pool);
    });
}
