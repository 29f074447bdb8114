//! A thread's binding under loom (the cache of the slot that it used last): a thread sees one stream; binding, owner and free set agree, also
//! when a thread ends while others acquire and beside shutdown.
//!
//! Sections that unwind are left to shuttle (`shuttle_slot.rs`) and to real threads (`pool.rs`): loom's threads share one thread of the
//! system, and while one of them unwinds, loom's own locks take all of them for unwinding.
#![cfg(loom)]

mod model;

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use model::explore;
use streampool_core::slot::{Policy, PoolOptions, SlotPool};

type Pool = SlotPool<usize>;

fn pool(size: usize) -> Arc<Pool> {
    let policy = Policy::Wait { deadline: Duration::MAX };
    let options = PoolOptions::default().with_size(size).with_policy(policy);
    Arc::new(SlotPool::new(options, |_| Ok(0)).unwrap())
}

/// Owners, bindings and the free set agree: every slot is free or bound to a thread that runs nothing.
fn assert_agreed(pool: &Pool) {
    let stats = pool.stats().unwrap();
    assert_eq!((stats.running, stats.leased, stats.waiting), (0, 0, 0), "INV-2: {stats:?}");
    assert_eq!(stats.free + stats.bound_idle, stats.size, "{stats:?}");
    // Whatever is counted as free can be had, and no more than that.
    let leases: Vec<_> = (0..stats.size).map(|_| pool.lease_deadline(Duration::ZERO).unwrap()).collect();
    assert!(pool.lease_deadline(Duration::ZERO).is_err(), "INV-1: more owners than slots");
    drop(leases);
    assert_eq!(pool.stats().unwrap().free, stats.size, "all let go");
}

#[test]
fn a_thread_that_ends_while_another_acquires_leaves_its_slot() {
    explore("thread binding: thread exit during acquire, 3 threads, 1 slot", 3, || {
        let pool = pool(1);
        let ending = {
            let pool = pool.clone();
            thread::spawn(move || *pool.enter().unwrap() += 1)
        };
        let acquiring = {
            let pool = pool.clone();
            thread::spawn(move || {
                *pool.enter().unwrap() += 1;
                *pool.enter().unwrap() += 1;
            })
        };
        ending.join().unwrap();
        // The first thread's local storage is gone; the other may be anywhere.
        *pool.enter().unwrap() += 1;
        acquiring.join().unwrap();
        assert_agreed(&pool);
        assert_eq!(pool.close(Duration::ZERO).unwrap().payloads[0].1, 4, "no section was lost");
    });
}

#[test]
fn a_thread_keeps_its_stream_while_there_are_enough() {
    explore("thread binding: one stream a thread, 2 threads + opener, 3 slots", 2, || {
        let pool = pool(3);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || {
                    let first = pool.enter().unwrap().stream();
                    let second = pool.enter().unwrap().stream();
                    assert_eq!(first, second, "a thread sees one stream");
                    assert_eq!(pool.current().map(|(stream, _)| stream), Some(first), "and knows it");
                    first
                })
            })
            .collect();
        let own = pool.enter().unwrap().stream();
        assert_eq!(own.0, 0, "the opener is on stream 0");
        for thread in threads {
            assert_ne!(thread.join().unwrap(), own, "stream 0 is the opener's while there are others");
        }
        assert_agreed(&pool);
    });
}

#[test]
fn binding_and_shutdown_agree() {
    explore("thread binding: shutdown beside binding and thread exit, 3 threads, 2 slots", 3, || {
        let pool = pool(2);
        let sections = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (pool, sections) = (pool.clone(), sections.clone());
                thread::spawn(move || match pool.enter() {
                    Ok(mut run) => {
                        *run += 1;
                        sections.fetch_add(1, Ordering::Relaxed);
                        drop(run);
                        if let Some((stream, _)) = pool.current() {
                            assert!(stream.index() < 2);
                        }
                    }
                    Err(error) => {
                        assert!(error.is_shut_down());
                        assert_eq!(pool.current(), None, "nothing is bound in a closed pool");
                    }
                })
            })
            .collect();
        let drained = pool.close(Duration::MAX).unwrap();
        assert!(drained.running.is_empty());
        assert_eq!(pool.current(), None);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let put_back: usize = drained.payloads.iter().map(|(_, sections)| sections).sum();
        assert_eq!(put_back, sections.load(Ordering::Relaxed), "INV-11: a section after closing");
        assert!(pool.enter().map(drop).unwrap_err().is_shut_down());
        assert!(pool.lease().map(drop).unwrap_err().is_shut_down());
    });
}
