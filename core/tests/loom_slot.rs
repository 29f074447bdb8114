//! The stream pool under loom: every interleaving of a few threads, within the preemption bounds stated.
//!
//! A lost wake-up or a lost slot shows as a deadlock, for no wait has a deadline here (see `sync`). Every payload checks
//! that it is the only one of its stream and that one section runs on it at a time.
//!
//! Panics are not modelled: loom's threads share one thread of the system, which is panicking as a whole while one of them
//! unwinds. The end of a section is the same code in a panic; `tests/pool.rs` has panics of real threads.
#![cfg(loom)]

mod model;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use model::{explore, explore_with_clock};
use streampool_core::slot::{Policy, PoolOptions, Running, SlotPool};
use streampool_core::sync::clock;
use streampool_core::timeline::StreamId;

const FOREVER: Duration = Duration::MAX;
const SOME_TIME: Duration = Duration::from_secs(1);

struct Payload {
    stream: StreamId,
    sections: usize,
    /// Shared by all payloads ever made for this stream.
    busy: Arc<AtomicBool>,
}

fn pool(size: usize, policy: Policy) -> Arc<SlotPool<Payload>> {
    let busy: Vec<_> =
        (0..size).map(|_| (Arc::new(AtomicBool::new(false)), std::cell::Cell::new(false))).collect();
    let busy = std::sync::Mutex::new(busy);
    let options = PoolOptions::default().with_size(size).with_policy(policy);
    let pool = SlotPool::new(options, move |stream| {
        let busy = busy.lock().unwrap();
        let (busy, made) = &busy[stream.index()];
        assert!(!made.replace(true), "a second payload for {stream}");
        Ok(Payload { stream, sections: 0, busy: busy.clone() })
    });
    Arc::new(pool.unwrap())
}

fn waiting_pool(size: usize) -> Arc<SlotPool<Payload>> {
    pool(size, Policy::Wait { deadline: FOREVER })
}

/// What a section does: INV-1, watched through an atomic so that loom tries every overlap.
fn work(mut run: Running<'_, Payload>) -> StreamId {
    assert_eq!(run.stream, run.stream());
    assert!(!run.busy.swap(true, Ordering::Relaxed), "INV-1: two sections at once");
    run.sections += 1;
    run.busy.store(false, Ordering::Relaxed);
    run.stream()
}

/// INV-2 and the number of sections: all payloads are there, nobody owns or waits for anything.
fn assert_all_back(pool: &SlotPool<Payload>, sections: usize) {
    let stats = pool.stats().unwrap();
    assert_eq!((stats.running, stats.leased, stats.waiting, stats.guests), (0, 0, 0, 0), "{stats:?}");
    assert_eq!(stats.bound_idle + stats.free, stats.size);
    let drained = pool.close(Duration::ZERO).unwrap();
    assert!(drained.running.is_empty());
    assert_eq!(drained.payloads.iter().map(|(_, payload)| payload.sections).sum::<usize>(), sections);
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Wakes the thread that blocks on a future: a waker that is lost shows as a deadlock.
struct Signal(loom::sync::Notify);

impl Wake for Signal {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.notify();
    }
}

fn block_on<F: Future + Unpin>(future: &mut F) -> F::Output {
    let signal = std::sync::Arc::new(Signal(loom::sync::Notify::new()));
    let waker = Waker::from(signal.clone());
    loop {
        match Pin::new(&mut *future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => signal.0.wait(),
        }
    }
}

fn ready<F: Future + Unpin>(future: &mut F) -> F::Output {
    match poll(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("should be ready"),
    }
}

#[test]
fn two_threads_and_the_opener_on_one_slot_all_run() {
    explore("two threads and the opener on one slot", 3, || {
        let pool = waiting_pool(1);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || _ = work(pool.enter().unwrap()))
            })
            .collect();
        work(pool.enter().unwrap());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_all_back(&pool, 3);
    });
}

#[test]
fn three_threads_on_two_slots_all_run() {
    explore("three threads on two slots", 3, || {
        let pool = waiting_pool(2);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || _ = work(pool.enter().unwrap()))
            })
            .collect();
        let mut lease = pool.lease().unwrap();
        work(lease.enter().unwrap());
        drop(lease);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_all_back(&pool, 3);
    });
}

#[test]
fn four_threads_on_two_slots_all_run() {
    explore("four threads on two slots", 2, || {
        let pool = waiting_pool(2);
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || _ = work(pool.enter().unwrap()))
            })
            .collect();
        work(pool.enter().unwrap());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_all_back(&pool, 4);
    });
}

#[test]
fn a_waiter_takes_the_slot_of_a_thread_that_keeps_running() {
    explore("a waiter and a thread that runs again and again", 5, || {
        let pool = waiting_pool(1);
        let owner = {
            let pool = pool.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    work(pool.enter().unwrap());
                }
            })
        };
        let mut lease = pool.lease().unwrap();
        work(lease.enter().unwrap());
        drop(lease);
        owner.join().unwrap();
        assert_all_back(&pool, 3);
    });
}

#[test]
fn the_opener_keeps_stream_0_while_there_are_others() {
    explore("the opener and another thread", 5, || {
        let pool = waiting_pool(2);
        let other = {
            let pool = pool.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    assert_eq!(work(pool.enter().unwrap()), StreamId(1));
                }
            })
        };
        for _ in 0..2 {
            assert_eq!(work(pool.enter().unwrap()), StreamId(0));
            assert_eq!(pool.current(), Some((StreamId(0), 1)));
        }
        other.join().unwrap();
        assert_all_back(&pool, 4);
    });
}

#[test]
fn a_released_slot_goes_to_the_oldest_waiter() {
    explore("a release between two waiters and a newcomer", 5, || {
        let pool = waiting_pool(1);
        let lease = pool.lease().unwrap();
        let mut first = pool.lease_async();
        assert!(poll(&mut first).is_pending());
        let release = thread::spawn(move || drop(lease));
        // Comes before, while or after the slot is handed over, and never overtakes.
        let mut second = pool.enter_async();
        assert!(poll(&mut second).is_pending(), "barging");
        release.join().unwrap();
        assert!(poll(&mut second).is_pending(), "the oldest is first");
        let mut lease = ready(&mut first).unwrap();
        work(lease.enter().unwrap());
        drop(lease);
        work(ready(&mut second).unwrap());
        drop((first, second));
        assert_all_back(&pool, 2);
    });
}

#[test]
fn a_granted_slot_is_kept_for_whom_it_was_granted_to() {
    explore("a grant to an entry and a newcomer", 5, || {
        let pool = waiting_pool(1);
        let lease = pool.lease().unwrap();
        let mut first = pool.enter_async();
        assert!(poll(&mut first).is_pending());
        let release = thread::spawn(move || drop(lease));
        // The first was granted the slot, but has not come for it: nobody else may have it as an idle binding.
        let mut second = pool.lease_async();
        assert!(poll(&mut second).is_pending(), "barging");
        release.join().unwrap();
        assert!(poll(&mut second).is_pending(), "the oldest is first");
        work(ready(&mut first).unwrap());
        drop(ready(&mut second).unwrap());
        drop((first, second));
        assert_all_back(&pool, 1);
    });
}

#[test]
fn the_end_of_a_section_hands_over_in_the_order_of_arrival() {
    explore("the end of a section and two waiting tasks", 4, || {
        let pool = waiting_pool(1);
        let owner = {
            let pool = pool.clone();
            thread::spawn(move || {
                work(pool.enter().unwrap());
                work(pool.enter().unwrap());
            })
        };
        let (mut first, mut second) = (pool.lease_async(), pool.lease_async());
        let first_lease = match poll(&mut first) {
            Poll::Ready(lease) => lease,
            Poll::Pending => {
                assert!(poll(&mut second).is_pending(), "barging");
                block_on(&mut first)
            }
        };
        assert!(poll(&mut second).is_pending(), "one owner");
        drop(first_lease.unwrap());
        drop(block_on(&mut second).unwrap());
        owner.join().unwrap();
        drop((first, second));
        assert_all_back(&pool, 2);
    });
}

#[test]
fn threads_and_tasks_share_one_queue() {
    explore("two tasks and a thread on one slot", 2, || {
        let pool = waiting_pool(1);
        let entering = {
            let pool = pool.clone();
            thread::spawn(move || _ = work(block_on(&mut pool.enter_async()).unwrap()))
        };
        let leasing = {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut lease = block_on(&mut pool.lease_async()).unwrap();
                work(lease.enter().unwrap());
            })
        };
        work(pool.enter().unwrap());
        entering.join().unwrap();
        leasing.join().unwrap();
        assert_all_back(&pool, 3);
    });
}

#[test]
fn a_thread_that_ends_releases_its_slot_once() {
    explore("a thread that ends and two that wait", 3, || {
        let pool = waiting_pool(1);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || _ = work(pool.enter().unwrap()))
            })
            .collect();
        // The threads' bindings are released at any point of this, also after the slot was taken over: a lease must
        // stay the only owner whatever the old owners do (INV-3).
        let lease = pool.lease().unwrap();
        assert_eq!(pool.stats().unwrap().leased, 1);
        assert!(pool.lease_deadline(Duration::ZERO).is_err(), "INV-1: two owners");
        drop(lease);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_all_back(&pool, 2);
    });
}

#[test]
fn a_stale_binding_does_not_run_on_the_new_owners_slot() {
    explore("a stale binding", 5, || {
        let pool = pool(1, Policy::Refuse);
        let owner = {
            let pool = pool.clone();
            thread::spawn(move || (0..2).map(|_| pool.enter().map(work)).filter(Result::is_ok).count())
        };
        let mut sections = 0;
        if let Ok(mut lease) = pool.lease() {
            // Between its sections a lease is exclusive as well.
            work(lease.enter().unwrap());
            let generation = lease.enter().unwrap().generation();
            work(lease.enter().unwrap());
            assert_eq!(generation, lease.generation());
            sections += 2;
        }
        sections += owner.join().unwrap();
        assert_all_back(&pool, sections);
    });
}

#[test]
fn a_failing_factory_leaves_the_slot_to_the_waiter() {
    explore("a failing factory and a waiter", 5, || {
        let attempts = AtomicUsize::new(0);
        let options = PoolOptions::default().with_size(1).with_policy(Policy::Wait { deadline: FOREVER });
        let pool = SlotPool::new(options, move |_| match attempts.fetch_add(1, Ordering::Relaxed) {
            0 => Err(streampool_core::Error::out_of_memory("no queue")),
            _ => Ok(()),
        });
        let pool = Arc::new(pool.unwrap());
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.enter().map(drop).is_err())
        };
        let failed = pool.enter().map(drop).is_err();
        assert!(failed != other.join().unwrap(), "one of the two met the failure");
        assert_eq!(pool.stats().unwrap().running, 0);
    });
}

#[test]
fn closing_fails_those_who_wait() {
    explore("closing while a thread comes to wait", 5, || {
        let pool = waiting_pool(1);
        let mut lease = pool.lease().unwrap();
        work(lease.enter().unwrap());
        let waiter = {
            let pool = pool.clone();
            thread::spawn(move || assert!(pool.enter().map(drop).unwrap_err().is_shut_down()))
        };
        let mut task = pool.lease_async();
        let _ = poll(&mut task).map(|lease| assert!(lease.is_err()));
        let drained = pool.close(FOREVER).unwrap();
        assert_eq!(drained.payloads.len(), 1);
        assert!(lease.enter().map(drop).unwrap_err().is_shut_down());
        waiter.join().unwrap();
        if let Poll::Ready(lease) = poll(&mut task) {
            assert!(lease.is_err());
        }
        drop((lease, task));
    });
}

#[test]
fn closing_fails_those_who_wait_for_a_turn() {
    explore("closing while a guest comes to wait", 5, || {
        let pool = pool(1, Policy::Share);
        let mut lease = pool.lease().unwrap();
        let run = lease.enter().unwrap();
        let guest = {
            let pool = pool.clone();
            thread::spawn(move || assert!(pool.enter().map(drop).unwrap_err().is_shut_down()))
        };
        // The caller's own section is not waited for, and ends after the guest was told.
        let drained = pool.close(FOREVER).unwrap();
        assert_eq!(drained.running, [StreamId(0)]);
        guest.join().unwrap();
        work(run);
        drop(lease);
        assert_eq!(pool.close(FOREVER).unwrap().payloads.len(), 1);
    });
}

#[test]
fn closing_waits_for_sections_and_lets_none_begin_afterwards() {
    explore("closing while two threads run", 3, || {
        let pool = waiting_pool(2);
        let closed = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (pool, closed) = (pool.clone(), closed.clone());
                thread::spawn(move || match pool.enter() {
                    Ok(run) => {
                        assert!(!closed.load(Ordering::Relaxed), "INV-11: runs after closing");
                        work(run);
                        1
                    }
                    Err(error) => {
                        assert!(error.is_shut_down());
                        0
                    }
                })
            })
            .collect();
        let drained = pool.close(FOREVER).unwrap();
        closed.store(true, Ordering::Relaxed);
        assert!(drained.running.is_empty());
        let sections: usize = drained.payloads.iter().map(|(_, payload)| payload.sections).sum();
        let ran: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(sections, ran, "no payload is lost");
    });
}

#[test]
fn two_threads_close_at_once_and_each_payload_is_returned_once() {
    explore("two closings and a section", 3, || {
        let pool = waiting_pool(1);
        let runner = {
            let pool = pool.clone();
            thread::spawn(move || pool.enter().map(work).is_ok())
        };
        let closer = {
            let pool = pool.clone();
            thread::spawn(move || pool.close(FOREVER).unwrap().payloads.len())
        };
        let mine = pool.close(FOREVER).unwrap().payloads.len();
        let payloads = mine + closer.join().unwrap();
        assert_eq!(payloads == 1, runner.join().unwrap());
    });
}

#[test]
fn a_pool_dropped_while_a_lease_runs_leaves_nothing() {
    explore("a dropped pool and a running lease", 5, || {
        // loom checks that every `Arc` is let go, the payload's as well.
        let pool = Arc::try_unwrap(waiting_pool(1)).expect("the only handle");
        let mut lease = pool.lease().unwrap();
        let runner = thread::spawn(move || match lease.enter() {
            Ok(run) => drop(work(run)),
            Err(error) => assert!(error.is_shut_down()),
        });
        drop(pool);
        runner.join().unwrap();
    });
}

#[test]
fn a_cancelled_wait_and_its_grant_lose_no_slot() {
    explore("cancelling against granting", 5, || {
        let pool = waiting_pool(1);
        let lease = pool.lease().unwrap();
        let mut first = pool.enter_async();
        let mut second = pool.lease_async();
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending());
        let release = thread::spawn(move || drop(lease));
        drop(first);
        release.join().unwrap();
        // However the two met, the slot is the second's now.
        let mut lease = ready(&mut second).unwrap();
        work(lease.enter().unwrap());
        drop((lease, second));
        assert_all_back(&pool, 1);
    });
}

#[test]
fn a_wait_that_times_out_and_its_grant_lose_no_slot() {
    explore_with_clock("a time-out against a grant", 5, || {
        let pool = waiting_pool(1);
        let lease = pool.lease().unwrap();
        let waiter = {
            let pool = pool.clone();
            thread::spawn(move || match pool.lease_deadline(SOME_TIME) {
                Ok(lease) => drop(lease),
                Err(error) => assert!(error.is_pool_exhausted()),
            })
        };
        let time = thread::spawn(clock::expire);
        drop(lease);
        time.join().unwrap();
        waiter.join().unwrap();
        work(pool.enter().unwrap());
        assert_all_back(&pool, 1);
    });
}

#[test]
fn a_grant_nobody_comes_for_in_time_is_not_kept() {
    explore_with_clock("a time-out without a grant", 5, || {
        let pool = waiting_pool(1);
        let lease = pool.lease().unwrap();
        let waiter = {
            let pool = pool.clone();
            thread::spawn(move || {
                let error = pool.lease_deadline(SOME_TIME).unwrap_err();
                assert!(error.is_pool_exhausted());
            })
        };
        // The lease is held all the time, so the wait can only end by its deadline.
        clock::expire();
        waiter.join().unwrap();
        drop(lease);
        assert_all_back(&pool, 0);
    });
}

#[test]
fn guests_and_the_owner_take_turns() {
    explore("a lease and two guests", 3, || {
        let pool = pool(1, Policy::Share);
        let mut lease = pool.lease().unwrap();
        let guests: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || _ = work(pool.enter().unwrap()))
            })
            .collect();
        work(lease.enter().unwrap());
        guests.into_iter().for_each(|guest| guest.join().unwrap());
        drop(lease);
        assert_all_back(&pool, 3);
    });
}

#[test]
fn a_guest_that_goes_away_loses_no_turn() {
    explore("cancelling a guest against its turn", 5, || {
        let pool = pool(1, Policy::Share);
        let mut lease = pool.lease().unwrap();
        let owner = thread::spawn(move || {
            work(lease.enter().unwrap());
            work(lease.enter().unwrap());
        });
        let mut guest = pool.enter_async();
        let ran = match poll(&mut guest) {
            Poll::Ready(run) => {
                work(run.unwrap());
                1
            }
            Poll::Pending => 0,
        };
        drop(guest);
        owner.join().unwrap();
        assert_all_back(&pool, 2 + ran);
    });
}

#[test]
fn a_lease_gets_a_shared_slot_between_sections() {
    explore("a lease that waits while others share", 3, || {
        let pool = pool(1, Policy::Share);
        let sharers: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || _ = work(pool.enter().unwrap()))
            })
            .collect();
        let mut lease = pool.lease_deadline(FOREVER).unwrap();
        work(lease.enter().unwrap());
        drop(lease);
        sharers.into_iter().for_each(|sharer| sharer.join().unwrap());
        assert_all_back(&pool, 3);
    });
}
