use super::*;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn value(v: u32) -> Result<(StdArc<u32>, usize)> {
    Ok((StdArc::new(v), 10))
}

fn cached(cache: &OnceCache<u32, u32>, key: u32) -> Result<StdArc<u32>> {
    cache.get_or_compile(&key, Deadline::after(SOON), || value(key))
}

#[test]
fn many_threads_and_keys_compile_each_key_once() {
    let cache = OnceCache::<u32, u32>::new(usize::MAX);
    let compiles = AtomicUsize::new(0);
    let barrier = Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                barrier.wait();
                for key in 0..50 {
                    let got = cache
                        .get_or_compile(&key, Deadline::after(SOON), || {
                            compiles.fetch_add(1, Ordering::Relaxed);
                            std::thread::yield_now();
                            value(key * 7)
                        })
                        .unwrap();
                    assert_eq!(*got, key * 7);
                }
            });
        }
    });
    let stats = cache.stats();
    assert_eq!((compiles.into_inner(), stats.compiles, stats.entries), (50, 50, 50));
    assert_eq!(stats.hits + stats.joins, 16 * 50 - 50);
    assert_eq!(stats.bytes, 500);
}

#[test]
fn a_failure_reaches_those_who_waited_and_the_next_call_tries_again() {
    let cache = OnceCache::<u32, u32>::new(usize::MAX);
    let (begun, waiting) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        let joined = scope.spawn(|| {
            begun.wait();
            waiting.wait();
            cache.get_or_compile(&1, Deadline::after(SOON), || panic!("joins the flight"))
        });
        let failed = cache.get_or_compile(&1, Deadline::after(SOON), || {
            begun.wait();
            waiting.wait();
            while cache.stats().joins == 0 {
                std::thread::yield_now();
            }
            Err(Error::unsupported("no such kernel"))
        });
        for error in [failed.unwrap_err(), joined.join().unwrap().unwrap_err()] {
            assert!(error.is_unsupported() && error.to_string() == "no such kernel");
        }
    });
    assert_eq!(*cached(&cache, 1).unwrap(), 1);
    let stats = cache.stats();
    assert_eq!((stats.compiles, stats.failures, stats.entries), (2, 1, 1));
}

#[test]
fn a_panicking_compile_fails_those_who_waited_and_poisons_nothing() {
    let cache = OnceCache::<u32, u32>::new(usize::MAX);
    let begun = Barrier::new(2);
    std::thread::scope(|scope| {
        let joined = scope.spawn(|| {
            begun.wait();
            cache.get_or_compile(&1, Deadline::after(SOON), || panic!("joins the flight"))
        });
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cache.get_or_compile(&1, Deadline::after(SOON), || {
                begun.wait();
                while cache.stats().joins == 0 {
                    std::thread::yield_now();
                }
                std::panic::resume_unwind(Box::new("compiler bug"))
            })
        }));
        assert!(panicked.is_err());
        let error = joined.join().unwrap().unwrap_err();
        assert!(error.is_internal() && error.to_string().contains("panicked"), "{error}");
    });
    assert_eq!(*cached(&cache, 1).unwrap(), 1);
}

#[test]
fn a_wait_for_anothers_compile_ends_at_its_deadline() {
    let cache = OnceCache::<u32, u32>::new(usize::MAX);
    cache
        .get_or_compile(&1, Deadline::after(SOON), || {
            std::thread::scope(|scope| {
                let late = scope.spawn(|| {
                    cache.get_or_compile(&1, Deadline::after(Duration::from_millis(5)), || value(2))
                });
                assert!(late.join().unwrap().unwrap_err().is_timeout());
            });
            value(1)
        })
        .unwrap();
    assert_eq!(*cache.get(&1).unwrap(), 1);
}

#[test]
fn a_compile_that_asks_for_itself_gets_an_error_and_may_ask_for_others() {
    let cache = OnceCache::<u32, u32>::new(usize::MAX);
    let got = cache.get_or_compile(&1, Deadline::after(SOON), || {
        let error = cached(&cache, 1).unwrap_err();
        assert!(error.is_internal(), "{error}");
        value(*cached(&cache, 2)? + 40)
    });
    assert_eq!(*got.unwrap(), 42);
    assert_eq!(cache.stats().compiles, 2);
}

#[test]
fn the_least_recently_used_go_first_and_never_what_is_in_use() {
    let cache = OnceCache::<u32, u32>::new(30);
    let held = cached(&cache, 0).unwrap();
    for key in [1, 2] {
        cached(&cache, key).unwrap();
    }
    assert_eq!(cache.stats().bytes, 30);
    assert!(cache.get(&1).is_some(), "1 is used after 2");
    cached(&cache, 3).unwrap();
    assert!(cache.get(&2).is_none(), "2 was the least recently used");
    for key in 4..10 {
        cached(&cache, key).unwrap();
        assert_eq!(cache.stats().bytes, 30);
    }
    assert_eq!(*cache.get(&0).unwrap(), 0, "in use all the time");
    assert_eq!(cache.stats().evictions, 7);
    assert_eq!(cache.stats().hits, 2, "looked at and found: 1, then 0");
    drop(held);
    cache.set_limit(10);
    let stats = cache.stats();
    assert_eq!(
        (stats.limit, stats.bytes, stats.entries),
        (10, 10, 1),
        "a lower limit drops what no longer fits"
    );
    cache.trim(0);
    let stats = cache.stats();
    assert_eq!((stats.bytes, stats.entries), (0, 0));
}

#[test]
fn what_is_in_use_may_exceed_the_limit_and_clearing_takes_nothing_from_its_users() {
    let cache = OnceCache::<u32, u32>::new(15);
    let held: Vec<_> = (0..4).map(|key| cached(&cache, key).unwrap()).collect();
    assert_eq!(cache.stats().bytes, 40);
    cache.set_limit(5);
    assert_eq!(cache.stats().bytes, 40);
    cache.clear();
    assert_eq!((cache.stats().bytes, cache.stats().entries), (0, 0));
    assert!((0..4).zip(&held).all(|(key, value)| **value == key && StdArc::strong_count(value) == 1));
}
