//! Every schedule of the memory within the bounds each test prints. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p streampool-core --release --test loom_memory -- --nocapture`.
#![cfg(loom)]

mod model;

use loom::cell::UnsafeCell;
use loom::thread;
use model::memory::{BYTES, expect_all_back, setup, ticket};

/// Every schedule with at most so many preemptions, or all of them.
fn explore(name: &str, preemptions: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    model::explore_bounded(&format!("loom memory, {name}, 2 threads"), preemptions, body);
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
