//! The stream pool with real threads: more threads than slots, wandering, panics, policies, shutdown.
#![cfg(not(any(loom, shuttle)))]

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use streampool_core::Error;
use streampool_core::slot::{Policy, PoolOptions, SlotPool, Stats};
use streampool_core::timeline::StreamId;

/// A stream's resources: counts its sections without synchronisation, which only exclusive use makes right.
struct Payload {
    stream: StreamId,
    sections: u64,
    alive: Arc<AtomicUsize>,
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Fixture {
    pool: SlotPool<Payload>,
    alive: Arc<AtomicUsize>,
}

fn pool(size: usize, policy: Policy) -> Fixture {
    let alive = Arc::new(AtomicUsize::new(0));
    let made = alive.clone();
    let pool = SlotPool::new(PoolOptions::default().with_size(size).with_policy(policy), move |stream| {
        made.fetch_add(1, Ordering::SeqCst);
        Ok(Payload { stream, sections: 0, alive: made.clone() })
    })
    .unwrap();
    Fixture { pool, alive }
}

fn waiting(pool: &SlotPool<Payload>) -> usize {
    pool.stats().unwrap().waiting
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not happen");
        thread::yield_now();
    }
}

/// Nothing is owned or waited for, but for `bound` bindings of threads that live.
///
/// The end of a scope is the end of its threads' closures, not yet of their locals; so this may come true a little later.
fn assert_at_rest(pool: &SlotPool<Payload>, bound: usize) {
    let at_rest = |stats: &Stats| {
        (stats.running, stats.leased, stats.waiting, stats.guests) == (0, 0, 0, 0)
            && (stats.bound_idle, stats.free) == (bound, stats.size - bound)
    };
    let start = Instant::now();
    loop {
        let stats = pool.stats().unwrap();
        if at_rest(&stats) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "INV-2: {stats:?}");
        thread::yield_now();
    }
}

const WAIT: Policy = Policy::Wait { deadline: Duration::from_secs(20) };

#[test]
fn a_thousand_threads_on_32_slots_all_make_progress() {
    const THREADS: usize = 1000;
    const RUNS: u64 = 5;
    let Fixture { pool, alive } = pool(32, WAIT);
    let barrier = Barrier::new(THREADS);
    let busy: Vec<_> = (0..32).map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            thread::Builder::new()
                .stack_size(128 << 10)
                .spawn_scoped(scope, || {
                    barrier.wait();
                    for _ in 0..RUNS {
                        let mut run = pool.enter().unwrap();
                        assert_eq!(run.stream, run.stream());
                        assert!(!busy[run.stream().index()].swap(true, Ordering::SeqCst), "INV-1");
                        run.sections += 1;
                        thread::yield_now();
                        busy[run.stream().index()].store(false, Ordering::SeqCst);
                    }
                    // Idle threads starve nobody: all stay alive until the last is done.
                    barrier.wait();
                })
                .unwrap();
        }
    });
    assert_at_rest(&pool, usize::from(pool.current().is_some()));
    let drained = pool.close(Duration::ZERO).unwrap();
    assert!(drained.running.is_empty());
    let sections: u64 = drained.payloads.iter().map(|(_, payload)| payload.sections).sum();
    assert_eq!(sections, THREADS as u64 * RUNS);
    let streams: HashSet<_> = drained.payloads.iter().map(|(stream, _)| *stream).collect();
    assert_eq!(streams.len(), drained.payloads.len(), "one payload a stream");
    drop(drained);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn the_opener_has_stream_0_and_sequential_threads_wander_over_the_others() {
    let Fixture { pool, .. } = pool(32, WAIT);
    assert_eq!(pool.enter().unwrap().stream(), StreamId(0));
    let owners: Vec<_> = (0..64)
        .map(|_| {
            thread::scope(|scope| {
                scope
                    .spawn(|| {
                        let (first, generation) = {
                            let run = pool.enter().unwrap();
                            (run.stream(), run.generation())
                        };
                        assert_eq!(pool.enter().unwrap().stream(), first, "a thread keeps its stream");
                        assert_eq!(pool.current(), Some((first, generation)));
                        (first, generation)
                    })
                    .join()
                    .unwrap()
            })
        })
        .collect();
    let streams: HashSet<_> = owners.iter().map(|(stream, _)| *stream).collect();
    assert_eq!(streams, (1..32).map(StreamId).collect(), "all but the opener's");
    assert_eq!(
        owners.iter().collect::<HashSet<_>>().len(),
        64,
        "a stream that is used again has another generation"
    );
    assert_at_rest(&pool, 1);
    assert_eq!(pool.current(), Some((StreamId(0), 1)), "nobody needed the opener's");
}

#[test]
fn live_threads_have_streams_of_their_own_while_slots_last() {
    let Fixture { pool, .. } = pool(32, Policy::Refuse);
    drop(pool.enter().unwrap());
    let barrier = Barrier::new(31);
    let streams: HashSet<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..31)
            .map(|_| {
                scope.spawn(|| {
                    let stream = pool.enter().unwrap().stream();
                    barrier.wait();
                    assert_eq!(pool.enter().unwrap().stream(), stream);
                    barrier.wait();
                    stream
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(streams, (1..32).map(StreamId).collect());
    assert_at_rest(&pool, 1);
}

#[test]
fn an_idle_binding_is_taken_over_and_its_thread_notices() {
    let Fixture { pool, .. } = pool(1, Policy::Refuse);
    drop(pool.enter().unwrap());
    let before = pool.current().unwrap();
    // The only slot is the opener's, and the opener runs nothing.
    let (other, generation) = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let run = pool.enter().unwrap();
            (run.stream(), run.generation())
        });
        worker.join().unwrap()
    });
    assert_eq!((other, before.0), (StreamId(0), StreamId(0)));
    assert!(generation > before.1);
    assert_eq!(pool.current(), None, "INV-3: the old generation owns nothing");
    let run = pool.enter().unwrap();
    assert!(run.generation() > generation);
    assert_eq!(run.sections, 0);
}

#[test]
fn the_opener_gets_stream_0_back_when_it_is_free_again() {
    let Fixture { pool, .. } = pool(3, WAIT);
    let leases: Vec<_> = (0..3).map(|_| pool.lease().unwrap()).collect();
    assert_eq!(pool.current(), None, "leased away while the opener ran nothing");
    drop(leases);
    assert_eq!(pool.enter().unwrap().stream(), StreamId(0));
}

#[test]
fn stream_0_is_the_last_that_others_get_also_after_it_was_leased() {
    let Fixture { pool, .. } = pool(3, WAIT);
    let leases: Vec<_> = (0..3).map(|_| pool.lease().unwrap()).collect();
    assert_eq!(leases[2].stream(), StreamId(0), "the last resort");
    leases.into_iter().rev().for_each(drop);
    let again: Vec<_> = (0..3).map(|_| pool.lease().unwrap()).collect();
    let streams: Vec<_> = again.iter().map(|lease| lease.stream().0).collect();
    assert_eq!(streams, [2, 1, 0], "the longest free first, but stream 0");
}

#[test]
fn waiters_are_served_in_the_order_of_arrival() {
    let Fixture { pool, .. } = pool(1, WAIT);
    let (order, served) = mpsc::channel();
    thread::scope(|scope| {
        let mut held = Some(pool.lease().unwrap());
        for arrival in 0..20 {
            let (order, pool) = (order.clone(), &pool);
            scope.spawn(move || {
                let run;
                let lease;
                if arrival % 2 == 0 {
                    run = pool.enter().unwrap();
                    order.send(arrival).unwrap();
                    drop(run);
                } else {
                    lease = pool.lease().unwrap();
                    order.send(arrival).unwrap();
                    drop(lease);
                }
            });
            wait_for("queueing", || waiting(pool) == arrival + 1);
        }
        held.take();
        drop(order);
        assert_eq!(served.iter().collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    });
    assert_at_rest(&pool, 0);
}

#[test]
fn a_busy_owner_gives_its_slot_to_a_waiter_at_the_end_of_its_run() {
    let Fixture { pool, .. } = pool(1, WAIT);
    let got = AtomicBool::new(false);
    thread::scope(|scope| {
        let run = pool.enter().unwrap();
        scope.spawn(|| {
            drop(pool.lease().unwrap());
            got.store(true, Ordering::SeqCst);
        });
        wait_for("queueing", || waiting(&pool) == 1);
        drop(run);
        // This thread may enter again at once, but only behind the one that waited.
        drop(pool.enter().unwrap());
        wait_for("the lease", || got.load(Ordering::SeqCst));
    });
}

#[test]
fn exhaustion_names_the_size_the_users_and_the_ways_out() {
    for policy in [Policy::Refuse, Policy::Wait { deadline: Duration::from_millis(20) }] {
        let Fixture { pool, .. } = pool(2, policy);
        let _lease = pool.lease().unwrap();
        let _run = pool.enter().unwrap();
        let start = Instant::now();
        let (entered, leased) = thread::scope(|scope| {
            let worker = scope.spawn(|| (pool.enter().map(drop).unwrap_err(), pool.lease().unwrap_err()));
            worker.join().unwrap()
        });
        if policy != Policy::Refuse {
            assert!(start.elapsed() >= Duration::from_millis(40), "both waited");
        }
        for error in [entered, leased] {
            assert!(error.is_pool_exhausted());
            let text = error.to_string();
            let why =
                if policy == Policy::Refuse { "the policy is to refuse" } else { "the wait for one ended" };
            let figures = "2 streams 1 are running and 1 are leased, and 0 callers wait";
            for part in [why, figures, "size", "Policy::Wait", "Policy::Share"] {
                assert!(text.contains(part), "'{part}' is not in: {text}");
            }
        }
        assert_eq!(waiting(&pool), 0, "who gave up waits no more");
        assert!(pool.lease_deadline(Duration::ZERO).unwrap_err().is_pool_exhausted());
    }
}

#[test]
fn a_section_that_panics_puts_its_stream_back() {
    let Fixture { pool, alive } = pool(1, WAIT);
    for _ in 0..3 {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut run = pool.enter().unwrap();
            run.sections += 1;
            resume_unwind(Box::new("kernel bug"));
        }));
        assert!(panicked.is_err());
    }
    assert_eq!(pool.enter().unwrap().sections, 3);
    // A whole thread that panics inside a section, with somebody waiting.
    thread::scope(|scope| {
        let (entered, has_entered) = mpsc::channel();
        let pool = &pool;
        let doomed = scope.spawn(move || {
            let _run = pool.enter().unwrap();
            entered.send(()).unwrap();
            wait_for("a waiter", || waiting(pool) == 1);
            resume_unwind(Box::new("worker bug"));
        });
        has_entered.recv().unwrap();
        assert_eq!(pool.enter().unwrap().sections, 3);
        assert!(doomed.join().is_err());
    });
    assert_at_rest(&pool, 1);
    assert_eq!(alive.load(Ordering::SeqCst), 1, "the same payload all along");
}

#[test]
fn threads_that_end_leave_nothing_behind() {
    let Fixture { pool, .. } = pool(8, WAIT);
    for batch in 0..4 {
        let barrier = Barrier::new(20);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..20)
                .map(|worker| {
                    let (pool, barrier) = (&pool, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        pool.enter().unwrap().sections += 1;
                        barrier.wait();
                        if (worker + batch) % 3 == 0 {
                            resume_unwind(Box::new("after its run"));
                        }
                    })
                })
                .collect();
            let ended = workers.into_iter().map(|worker| worker.join()).filter(Result::is_err).count();
            assert!((6..=7).contains(&ended));
        });
        assert_at_rest(&pool, usize::from(pool.current().is_some()));
    }
}

#[test]
fn a_thread_cannot_enter_twice_but_may_lease_beside() {
    for policy in [WAIT, Policy::Share, Policy::Refuse] {
        let Fixture { pool, .. } = pool(2, policy);
        let outer = pool.enter().unwrap();
        let error = pool.enter().map(drop).unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains("already inside"), "{error}");
        let mut lease = pool.lease().unwrap();
        assert_ne!(lease.enter().unwrap().stream(), outer.stream());
    }
}

#[test]
fn share_runs_on_streams_of_others_never_two_at_once() {
    let Fixture { pool, .. } = pool(3, Policy::Share);
    let busy: Vec<_> = (0..3).map(|_| AtomicBool::new(false)).collect();
    let guests = AtomicUsize::new(0);
    let section = |mut run: streampool_core::slot::Running<'_, Payload>| {
        assert!(!busy[run.stream().index()].swap(true, Ordering::SeqCst), "two at once");
        assert_eq!(run.stream, run.stream());
        run.sections += 1;
        guests.fetch_add(usize::from(run.is_guest()), Ordering::SeqCst);
        thread::yield_now();
        busy[run.stream().index()].store(false, Ordering::SeqCst);
    };
    thread::scope(|scope| {
        // Two streams are leased for the whole time, one is bound by whoever runs on it.
        for _ in 0..2 {
            let mut lease = pool.lease().unwrap();
            let section = &section;
            scope.spawn(move || {
                for _ in 0..200 {
                    section(lease.enter().unwrap());
                }
            });
        }
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..100 {
                    section(pool.enter().unwrap());
                }
            });
        }
    });
    assert!(guests.into_inner() > 0);
    let drained = pool.close(Duration::ZERO).unwrap();
    assert_eq!(drained.payloads.iter().map(|(_, payload)| payload.sections).sum::<u64>(), 2 * 200 + 10 * 100);
}

#[test]
fn share_goes_round_over_all_streams() {
    let Fixture { pool, .. } = pool(4, Policy::Share);
    let leases: Vec<_> = (0..4).map(|_| pool.lease().unwrap()).collect();
    let streams: Vec<_> = (0..8)
        .map(|_| {
            let run = pool.enter().unwrap();
            assert!(run.is_guest());
            run.stream().0
        })
        .collect();
    assert_eq!(streams, [0, 1, 2, 3, 0, 1, 2, 3]);
    assert!(pool.lease_deadline(Duration::ZERO).is_err(), "leases stay exclusive");
    drop(leases);
    assert_at_rest(&pool, 0);
}

#[test]
fn generations_count_the_owners_of_each_stream_and_guests_see_the_owners() {
    let Fixture { pool, .. } = pool(2, Policy::Share);
    (0..2).for_each(|_| drop(pool.lease().unwrap()));
    let (third, openers) = (pool.lease().unwrap(), pool.lease().unwrap());
    assert_eq!((third.stream(), openers.stream()), (StreamId(1), StreamId(0)));
    assert_eq!((third.generation(), openers.generation()), (3, 2));
    assert_eq!(pool.stats().unwrap().generations, [2, 3]);
    let seen: Vec<_> = (0..2)
        .map(|_| {
            let guest = pool.enter().unwrap();
            (guest.stream().0, guest.generation())
        })
        .collect();
    assert_eq!(seen, [(0, 2), (1, 3)]);
}

#[test]
fn a_factory_that_fails_fails_that_entry_only() {
    let attempts = AtomicUsize::new(0);
    let pool = SlotPool::new(PoolOptions::default().with_size(1), move |stream| {
        match attempts.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Error::out_of_memory(format!("no queue for {stream}"))),
            1 => resume_unwind(Box::new("driver bug")),
            _ => Ok(()),
        }
    })
    .unwrap();
    assert!(pool.enter().map(drop).unwrap_err().is_out_of_memory());
    assert!(catch_unwind(AssertUnwindSafe(|| pool.enter().map(drop))).is_err());
    let mut lease = pool.lease().unwrap();
    drop(lease.enter().unwrap());
    drop(lease);
    drop(pool.enter().unwrap());
    assert_eq!(pool.stats().unwrap().running, 0);
}

#[test]
fn sizes_out_of_range_are_refused() {
    for size in [0, 1025, usize::MAX] {
        let error = SlotPool::new(PoolOptions::default().with_size(size), |_| Ok(())).unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains("1 to 1024"), "{error}");
    }
    for size in [1, 1024] {
        assert_eq!(SlotPool::new(PoolOptions::default().with_size(size), |_| Ok(())).unwrap().size(), size);
    }
}

#[test]
fn closing_fails_waiters_waits_for_runs_and_returns_all_payloads() {
    let Fixture { pool, alive } = pool(2, WAIT);
    let (running, is_running) = mpsc::channel();
    thread::scope(|scope| {
        let (pool, running) = (&pool, &running);
        for _ in 0..2 {
            let running = running.clone();
            scope.spawn(move || {
                let mut run = pool.enter().unwrap();
                running.send(()).unwrap();
                wait_for("closing", || pool.gate().check().is_err());
                thread::sleep(Duration::from_millis(20));
                run.sections += 1;
            });
            is_running.recv().unwrap();
        }
        let waiter = scope.spawn(|| pool.enter().map(drop).unwrap_err());
        wait_for("queueing", || waiting(pool) == 1);
        let drained = pool.close(Duration::from_secs(20)).unwrap();
        assert!(waiter.join().unwrap().is_shut_down());
        assert_eq!(drained.running, []);
        let sections: Vec<_> =
            drained.payloads.iter().map(|(id, payload)| (id.0, payload.sections)).collect();
        assert_eq!(sections, [(0, 1), (1, 1)], "returned after the sections ended");
    });
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert!(pool.enter().map(drop).unwrap_err().is_shut_down());
    assert!(pool.lease().unwrap_err().is_shut_down());
    assert!(pool.close(Duration::ZERO).unwrap().payloads.is_empty());
}

#[test]
fn closing_keeps_its_deadline_and_what_ends_later_is_collected_later() {
    let Fixture { pool, alive } = pool(2, WAIT);
    let mut lease = pool.lease().unwrap();
    let run = lease.enter().unwrap();
    let own = pool.close(Duration::from_secs(20)).unwrap();
    assert_eq!(own.running, [run.stream()], "it does not wait for the caller's own section");
    let start = Instant::now();
    thread::scope(|scope| {
        let closer = scope.spawn(|| pool.close(Duration::from_millis(20)).unwrap());
        assert_eq!(closer.join().unwrap().running, [run.stream()]);
    });
    assert!(start.elapsed() >= Duration::from_millis(20));
    drop(run);
    assert!(lease.enter().map(drop).unwrap_err().is_shut_down());
    assert_eq!(pool.close(Duration::ZERO).unwrap().payloads.len(), 1);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_dropped_pool_drops_its_payloads_and_running_sections_theirs_at_their_end() {
    let Fixture { pool, alive } = pool(4, WAIT);
    drop(pool.enter().unwrap());
    let mut lease = pool.lease().unwrap();
    let run = lease.enter().unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 2);
    drop(pool);
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    drop(run);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert!(lease.enter().map(drop).unwrap_err().is_shut_down());
}

#[test]
fn a_thread_may_use_many_pools() {
    let pools: Vec<_> = (0..50).map(|_| pool(2, WAIT)).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    for Fixture { pool, .. } in &pools {
                        pool.enter().unwrap().sections += 1;
                    }
                }
            });
        }
    });
    for Fixture { pool, .. } in &pools {
        let drained = pool.close(Duration::ZERO).unwrap();
        assert_eq!(drained.payloads.iter().map(|(_, payload)| payload.sections).sum::<u64>(), 12);
    }
}

#[test]
fn a_lease_and_its_sections_say_which_stream_and_which_ownership_of_it_they_are_of() {
    let fixture = pool(1, Policy::Refuse);
    let mut first = fixture.pool.lease().unwrap();
    let generation = first.generation();
    assert_eq!(format!("{first:?}"), format!("StreamLease {{ stream: 0, generation: {generation}, .. }}"));
    let running = format!("{:?}", first.enter().unwrap());
    let grant = format!("Grant {{ slot: 0, generation: {generation} }}");
    assert_eq!(running, format!("Running {{ grant: {grant}, guest: false, .. }}"));
    drop(first);
    let second = fixture.pool.lease().unwrap();
    assert!(second.generation() > generation, "no two owners of a stream have the same");
}

#[test]
fn a_thread_that_has_its_stream_enters_without_waiting_and_others_are_told() {
    let Fixture { pool, .. } = pool(2, Policy::Share);
    assert!(pool.try_enter().unwrap().is_none(), "no stream is this thread's yet");
    let run = pool.enter().unwrap();
    let stream = run.stream;
    assert!(!run.is_guest(), "the stream is its own");
    drop(run);
    assert_eq!(pool.try_enter().unwrap().map(|running| running.stream), Some(stream));
    assert!(thread::scope(|s| s.spawn(|| pool.try_enter().unwrap().is_none()).join().unwrap()));
    assert_eq!(pool.policy(), Policy::Share);
    let text = format!("{pool:?}");
    assert!(text.contains("size: 2") && text.contains("Share"), "{text}");
}
