//! The program cache under loom: one compile per key, failure reaches all waiters, eviction never frees what runs.
#![cfg(loom)]

mod model;

use std::sync::Arc as StdArc;
use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use model::{explore, explore_with_clock};
use streampool_core::Error;
use streampool_core::once::OnceCache;
use streampool_core::sync::{Deadline, clock};

type Cache = OnceCache<u32, Program>;

/// A compiled program that knows whether it was freed.
struct Program {
    key: u32,
    freed: Arc<AtomicBool>,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.freed.store(true, Ordering::Relaxed);
    }
}

fn program(key: u32) -> streampool_core::Result<(StdArc<Program>, usize)> {
    Ok((StdArc::new(Program { key, freed: Arc::new(AtomicBool::new(false)) }), 10))
}

#[test]
fn a_key_is_compiled_once() {
    explore("three threads ask for one key", 3, || {
        let cache = Arc::new(Cache::new(100));
        let compiles = Arc::new(AtomicUsize::new(0));
        let ask = |cache: &Cache, compiles: &AtomicUsize| {
            let program = cache.get_or_compile(&1, Deadline::NEVER, || {
                compiles.fetch_add(1, Ordering::Relaxed);
                program(1)
            });
            assert_eq!(program.unwrap().key, 1);
        };
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (cache, compiles) = (cache.clone(), compiles.clone());
                thread::spawn(move || ask(&cache, &compiles))
            })
            .collect();
        ask(&cache, &compiles);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let stats = cache.stats();
        assert_eq!((compiles.load(Ordering::Relaxed), stats.compiles, stats.entries), (1, 1, 1));
        assert_eq!(stats.hits + stats.joins, 2);
    });
}

#[test]
fn a_failure_reaches_all_who_waited_and_is_retried_by_the_next() {
    explore("two threads ask, the first compile fails", 5, || {
        let cache = Arc::new(Cache::new(100));
        let attempts = Arc::new(AtomicUsize::new(0));
        let ask = |cache: &Cache, attempts: &AtomicUsize| {
            cache
                .get_or_compile(&1, Deadline::NEVER, || match attempts.fetch_add(1, Ordering::Relaxed) {
                    0 => Err(Error::unsupported("first")),
                    _ => program(1),
                })
                .map(drop)
        };
        let other = {
            let (cache, attempts) = (cache.clone(), attempts.clone());
            thread::spawn(move || ask(&cache, &attempts))
        };
        let failures = [ask(&cache, &attempts), other.join().unwrap()].into_iter().filter_map(Result::err);
        let failures = failures.inspect(|error| assert!(error.is_unsupported())).count();
        let stats = cache.stats();
        assert_eq!(stats.failures, 1);
        // Either the other one joined the failed flight, or it came later and compiled.
        assert_eq!(failures as u64, 1 + stats.joins, "a failure reaches its own flight, and nobody else");
        ask(&cache, &attempts).unwrap();
        assert_eq!(attempts.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_key_that_just_failed_is_never_answered_by_the_old_flight() {
    explore("a failing compile and one that asks twice", 4, || {
        let cache = Arc::new(Cache::new(100));
        let failing = {
            let cache = cache.clone();
            thread::spawn(move || {
                let failed = cache.get_or_compile(&1, Deadline::NEVER, || Err(Error::unsupported("old")));
                let _ = failed.map(drop);
            })
        };
        // Whoever has seen the failure compiles anew.
        if cache.get_or_compile(&1, Deadline::NEVER, || program(1)).is_err() {
            assert!(cache.get_or_compile(&1, Deadline::NEVER, || program(1)).is_ok(), "an old failure again");
        }
        failing.join().unwrap();
    });
}

#[test]
fn eviction_frees_only_what_nobody_runs() {
    explore("two programs in a cache for one", 4, || {
        let cache = Arc::new(Cache::new(10));
        let run = |cache: &Cache, key: u32| {
            let program = cache.get_or_compile(&key, Deadline::NEVER, || program(key)).unwrap();
            assert_eq!(program.key, key);
            assert!(!program.freed.load(Ordering::Relaxed), "freed while it runs");
        };
        let other = {
            let cache = cache.clone();
            thread::spawn(move || {
                run(&cache, 1);
                run(&cache, 2);
            })
        };
        run(&cache, 2);
        run(&cache, 1);
        other.join().unwrap();
        cache.trim(10);
        let stats = cache.stats();
        assert!(stats.bytes <= 10 && stats.bytes == stats.entries * 10, "{stats:?}");
        cache.trim(0);
        assert_eq!((cache.stats().bytes, cache.stats().entries), (0, 0));
    });
}

#[test]
fn clearing_beside_a_compile_loses_nothing() {
    explore("clearing while a program is compiled", 5, || {
        let cache = Arc::new(Cache::new(100));
        let compiler = {
            let cache = cache.clone();
            thread::spawn(move || {
                let program = cache.get_or_compile(&1, Deadline::NEVER, || program(1)).unwrap();
                assert!(!program.freed.load(Ordering::Relaxed));
            })
        };
        cache.clear();
        compiler.join().unwrap();
        let stats = cache.stats();
        assert_eq!(stats.bytes, stats.entries * 10, "INV-7 of the cache");
    });
}

#[test]
fn a_wait_for_anothers_compile_ends_at_its_deadline() {
    explore_with_clock("a compile, one that waits for it, and a clock", 4, || {
        let cache = Arc::new(Cache::new(100));
        let waiter = {
            let cache = cache.clone();
            thread::spawn(move || {
                let deadline = Deadline::after(Duration::from_secs(1));
                match cache.get_or_compile(&1, deadline, || program(1)) {
                    Ok(program) => assert_eq!(program.key, 1),
                    Err(error) => assert!(error.is_timeout()),
                }
            })
        };
        let time = thread::spawn(clock::expire);
        let program = cache.get_or_compile(&1, Deadline::NEVER, || program(1));
        assert!(program.is_ok());
        time.join().unwrap();
        waiter.join().unwrap();
        assert_eq!(cache.stats().compiles, 1);
    });
}
