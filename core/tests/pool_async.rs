//! The stream pool without a runtime: tasks that wait, hop between threads and are cancelled.
#![cfg(not(any(loom, shuttle)))]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use streampool_core::slot::{Policy, PoolOptions, SlotPool};
use streampool_core::timeline::StreamId;

struct Unpark(Thread, AtomicUsize);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current(), AtomicUsize::new(0))));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(Duration::from_secs(20)),
        }
    }
}

fn poll_once<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

fn pool(size: usize, policy: Policy) -> SlotPool<u64> {
    SlotPool::new(PoolOptions::default().with_size(size).with_policy(policy), |_| Ok(0)).unwrap()
}

#[test]
fn a_lease_survives_a_hop_to_another_thread() {
    let pool = Arc::new(pool(2, Policy::default()));
    let held = block_on(pool.lease_async()).unwrap();
    let other = block_on(pool.lease_async()).unwrap();
    let task = pool.lease_async();
    let hop = thread::spawn(move || {
        let mut lease = block_on(async {
            let mut lease = task.await.unwrap();
            *lease.enter().unwrap() += 1;
            lease
        });
        thread::spawn(move || {
            *lease.enter().unwrap() += 1;
            let total = *lease.enter().unwrap();
            (lease.stream(), total)
        })
        .join()
        .unwrap()
    });
    while pool.stats().unwrap().waiting == 0 {
        thread::yield_now();
    }
    let stream = held.stream();
    drop(held);
    assert_eq!(hop.join().unwrap(), (stream, 2));
    drop(other);
    let stats = pool.stats().unwrap();
    assert_eq!((stats.leased, stats.running, stats.free), (0, 0, 2));
}

#[test]
fn tasks_and_threads_share_one_queue_in_the_order_of_arrival() {
    let pool = pool(1, Policy::default());
    let held = pool.lease().unwrap();
    let wakes: Vec<_> = (0..3).map(|_| Arc::new(Unpark(thread::current(), AtomicUsize::new(0)))).collect();
    let wakers: Vec<_> = wakes.iter().cloned().map(Waker::from).collect();
    let woken = |n: usize| wakes[n].1.load(Ordering::SeqCst);
    let (mut first, mut second, mut third) = (pool.lease_async(), pool.enter_async(), pool.lease_async());
    assert!(poll_once(&mut first, &wakers[0]).is_pending());
    assert!(poll_once(&mut second, &wakers[1]).is_pending());
    assert!(poll_once(&mut third, &wakers[2]).is_pending());
    drop(held);
    assert_eq!((woken(0), woken(1), woken(2)), (1, 0, 0), "only the oldest is woken");
    assert!(poll_once(&mut second, &wakers[1]).is_pending());
    drop(first);
    assert_eq!((woken(1), woken(2)), (1, 0), "a cancelled grant goes to the next");
    let Poll::Ready(run) = poll_once(&mut second, &wakers[1]) else { panic!("granted") };
    let run = run.unwrap();
    assert_eq!(pool.current(), Some((StreamId(0), run.generation())), "bound to the thread that polled");
    assert!(poll_once(&mut third, &wakers[2]).is_pending());
    drop(run);
    assert_eq!(woken(2), 1, "the section's end hands the slot over");
    let Poll::Ready(lease) = poll_once(&mut third, &wakers[2]) else { panic!("granted") };
    drop(lease.unwrap());
    assert_eq!(pool.stats().unwrap().free, 1);
}

#[test]
fn an_entry_that_waited_and_ends_in_the_scope_of_a_lease_leaves_the_lease_alone() {
    let pool = pool(2, Policy::default());
    let (mut lease, other) = (pool.lease().unwrap(), pool.lease().unwrap());
    let mut entry = pool.enter_async();
    assert!(poll_once(&mut entry, Waker::noop()).is_pending());
    let freed = other.stream();
    drop(other);
    lease.scope(|| {
        assert_eq!(pool.enter().unwrap().stream(), lease.stream());
        let Poll::Ready(run) = poll_once(&mut entry, Waker::noop()) else { panic!("granted") };
        assert_eq!(run.unwrap().stream(), freed);
        assert_eq!(pool.enter().unwrap().stream(), lease.stream(), "the scope holds");
    });
    let stream = lease.stream();
    assert_eq!(lease.enter().unwrap().stream(), stream);
    assert_ne!(pool.enter().unwrap().stream(), stream, "the lease is still exclusive");
    assert_eq!(pool.stats().unwrap().leased, 1);
}

#[test]
fn a_thread_is_bound_to_one_stream_and_releases_the_other() {
    let pool = pool(2, Policy::default());
    let (first, second) = (pool.lease().unwrap(), pool.lease().unwrap());
    let mut entry = pool.enter_async();
    assert!(poll_once(&mut entry, Waker::noop()).is_pending());
    drop(first); // Granted to the entry.
    drop(second);
    drop(pool.enter().unwrap());
    assert_eq!(pool.stats().unwrap().bound_idle, 1);
    let Poll::Ready(run) = poll_once(&mut entry, Waker::noop()) else { panic!("granted") };
    drop(run.unwrap());
    let stats = pool.stats().unwrap();
    assert_eq!((stats.bound_idle, stats.free), (1, 1), "the thread's former slot is free");
}

#[test]
fn cancelling_leaves_the_queue() {
    for policy in [Policy::default(), Policy::Share] {
        let pool = pool(1, policy);
        let mut lease = pool.lease().unwrap();
        {
            let running = lease.enter().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut enter, mut other) = (pool.enter_async(), pool.lease_async());
                    assert!(poll_once(&mut enter, Waker::noop()).is_pending());
                    assert!(poll_once(&mut other, Waker::noop()).is_pending());
                    let stats = pool.stats().unwrap();
                    assert_eq!(stats.waiting + stats.guests, 2);
                });
            });
            let stats = pool.stats().unwrap();
            assert_eq!((stats.waiting, stats.guests), (0, 0));
            drop(running);
        }
        assert_eq!(*lease.enter().unwrap(), 0, "the turn is not lost with the guest");
        drop(lease);
        drop(pool.enter().unwrap());
    }
}

#[test]
fn a_guest_that_goes_away_passes_its_turn_on() {
    let pool = pool(1, Policy::Share);
    let mut lease = pool.lease().unwrap();
    let generation = lease.generation();
    thread::scope(|scope| {
        let running = lease.enter().unwrap();
        // Another thread's futures: this thread's would wait for its own section.
        let futures = scope.spawn(|| {
            let (mut first, mut second) = (pool.enter_async(), pool.enter_async());
            assert!(poll_once(&mut first, Waker::noop()).is_pending());
            assert!(poll_once(&mut second, Waker::noop()).is_pending());
            (first, second)
        });
        let (first, mut second) = futures.join().unwrap();
        drop(running);
        assert!(poll_once(&mut second, Waker::noop()).is_pending(), "the turn is the first's");
        drop(first);
        let Poll::Ready(guest) = poll_once(&mut second, Waker::noop()) else { panic!("next") };
        let guest = guest.unwrap();
        assert_eq!((guest.is_guest(), guest.generation()), (true, generation));
    });
    *lease.enter().unwrap() += 1;
}

#[test]
fn many_tasks_on_few_threads_and_slots_all_finish() {
    let pool = Arc::new(pool(2, Policy::default()));
    let done = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..16)
        .map(|n| {
            let (pool, done) = (pool.clone(), done.clone());
            thread::spawn(move || {
                block_on(async {
                    for round in 0..200 {
                        if (n + round) % 2 == 0 {
                            *pool.enter_async().await.unwrap() += 1;
                        } else {
                            let mut lease = pool.lease_async().await.unwrap();
                            *lease.enter().unwrap() += 1;
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    let payloads = pool.close(Duration::ZERO).unwrap().payloads;
    assert_eq!(payloads.iter().map(|(_, sections)| sections).sum::<u64>(), 3200);
    assert_eq!(done.load(Ordering::SeqCst), 3200);
}

#[test]
fn refusing_and_closed_pools_answer_futures_at_once() {
    let refusing = pool(1, Policy::Refuse);
    let lease = refusing.lease().unwrap();
    assert!(block_on(refusing.lease_async()).unwrap_err().is_pool_exhausted());
    assert!(block_on(refusing.enter_async()).map(drop).unwrap_err().is_pool_exhausted());
    let waiting = pool(1, Policy::default());
    let held = waiting.lease().unwrap();
    let (mut enter, mut other) = (waiting.enter_async(), waiting.lease_async());
    let wake = Arc::new(Unpark(thread::current(), AtomicUsize::new(0)));
    let waker = Waker::from(wake.clone());
    assert!(poll_once(&mut enter, &waker).is_pending() && poll_once(&mut other, &waker).is_pending());
    drop(waiting.close(Duration::ZERO).unwrap());
    assert_eq!(wake.1.load(Ordering::SeqCst), 2);
    for error in [block_on(enter).map(drop).unwrap_err(), block_on(other).map(drop).unwrap_err()] {
        assert!(error.is_shut_down(), "{error}");
    }
    drop((held, lease));
}

#[test]
fn a_future_that_is_polled_after_the_deadline_says_that_no_stream_was_free() {
    let pool = pool(1, Policy::Wait { deadline: Duration::ZERO });
    let lease = pool.lease().unwrap();
    let Poll::Ready(entered) = poll_once(&mut pool.enter_async(), Waker::noop()) else { panic!("waits on") };
    assert!(entered.unwrap_err().is_pool_exhausted());
    let Poll::Ready(leased) = poll_once(&mut pool.lease_async(), Waker::noop()) else { panic!("waits on") };
    assert!(leased.unwrap_err().is_pool_exhausted());
    let stats = pool.stats().unwrap();
    assert_eq!((stats.waiting, stats.leased), (0, 1), "both left the queue");
    drop(lease);
}
