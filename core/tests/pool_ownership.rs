//! Who owns a slot in the rare cases: leaked sections, ownership lost while waiting for a turn, the opener's slot, closing beside an
//! own section. Each was once got past by a single-line fault.
#![cfg(not(any(loom, shuttle)))]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use streampool_core::gate::Phase;
use streampool_core::slot::{Policy, PoolOptions, SlotPool};
use streampool_core::timeline::StreamId;

const PATIENCE: Duration = Duration::from_secs(20);
const WAIT: Policy = Policy::Wait { deadline: PATIENCE };

fn pool(size: usize, policy: Policy) -> SlotPool<StreamId> {
    SlotPool::new(PoolOptions::default().with_size(size).with_policy(policy), Ok).unwrap()
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_stream_whose_section_was_leaked_goes_to_nobody_else() {
    let pool = pool(2, WAIT);
    let mut lease = pool.lease().unwrap();
    assert_eq!(lease.stream(), StreamId(1));
    std::mem::forget(lease.enter().unwrap());
    drop(lease);
    // Stream 1's queue is with the leaked section for ever; there is one other stream.
    let only = pool.lease_deadline(Duration::ZERO).unwrap();
    assert_eq!(only.stream(), StreamId(0));
    assert!(pool.lease_deadline(Duration::ZERO).unwrap_err().is_pool_exhausted());
}

#[test]
fn who_lost_its_slot_while_it_waited_for_a_turn_runs_as_a_guest() {
    let pool = pool(1, Policy::Share);
    let (entered, has_entered) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let pool = &pool;
        let own = pool.enter().unwrap();
        let guest = scope.spawn(move || {
            let run = pool.enter().unwrap();
            entered.send(run.is_guest()).unwrap();
            ends.recv_timeout(PATIENCE).unwrap();
        });
        while pool.stats().unwrap().guests == 0 {
            thread::yield_now();
        }
        drop(own);
        assert!(has_entered.recv_timeout(PATIENCE).unwrap(), "it runs on the opener's stream");
        // The owner waits for its turn, and loses the slot to a lease meanwhile.
        let mut entry = pool.enter_async();
        assert!(poll(&mut entry).is_pending());
        let lease = pool.lease_deadline(Duration::ZERO).unwrap();
        end.send(()).unwrap();
        guest.join().unwrap();
        let Poll::Ready(run) = poll(&mut entry) else { panic!("the turn was not passed on") };
        let run = run.unwrap();
        assert!(run.is_guest(), "the stream is the lease's");
        // So the lease can end while it runs, and the slot is not lost (INV-2).
        drop(lease);
        let mut next = pool.lease_deadline(Duration::ZERO).unwrap();
        assert_eq!(pool.stats().unwrap().running, 1, "the guest still runs, whoever owns the stream");
        thread::scope(|scope| {
            let theirs = scope.spawn(|| *next.enter().unwrap());
            while pool.stats().unwrap().guests == 0 {
                assert!(!theirs.is_finished(), "two at once");
                thread::yield_now();
            }
            drop(run);
            assert_eq!(theirs.join().unwrap(), StreamId(0));
        });
        drop(next);
    });
    let mut lease = pool.lease_deadline(Duration::ZERO).unwrap();
    drop(lease.enter().unwrap());
}

#[test]
fn another_idle_threads_slot_is_taken_before_the_openers() {
    let pool = pool(3, WAIT);
    drop(pool.enter().unwrap());
    let (bound, all_bound) = mpsc::channel();
    let (end, ends) = (mpsc::channel::<()>(), mpsc::channel::<()>());
    thread::scope(|scope| {
        let (pool, bound) = (&pool, &bound);
        for wait in [end.1, ends.1] {
            scope.spawn(move || {
                drop(pool.enter().unwrap());
                bound.send(()).unwrap();
                wait.recv_timeout(PATIENCE).unwrap();
            });
        }
        (0..2).for_each(|_| all_bound.recv_timeout(PATIENCE).unwrap());
        // Nothing is free, all three are idle.
        let taken = [pool.lease().unwrap(), pool.lease().unwrap()].map(|lease| lease.stream().0);
        assert!(taken.iter().all(|stream| *stream != 0), "the opener's stream was taken first: {taken:?}");
        assert_eq!(pool.current(), Some((StreamId(0), 1)));
        end.0.send(()).unwrap();
        ends.0.send(()).unwrap();
    });
}

#[test]
fn idle_threads_slots_are_taken_in_turn() {
    let pool = pool(4, WAIT);
    let (entered, streams) = mpsc::channel();
    thread::scope(|scope| {
        let (pool, entered) = (&pool, &entered);
        // Each thread lives on after its section, and lets go of nothing. The first three find free slots.
        let threads: Vec<_> = (0..10)
            .map(|_| {
                let (end, wait) = mpsc::channel::<()>();
                scope.spawn(move || {
                    let stream = pool.enter().unwrap().stream().0;
                    entered.send(stream).unwrap();
                    wait.recv_timeout(PATIENCE).unwrap();
                });
                (end, streams.recv_timeout(PATIENCE).unwrap())
            })
            .collect();
        let order: Vec<_> = threads.iter().map(|(_, stream)| *stream).collect();
        assert_eq!(
            order,
            [1, 2, 3, 1, 2, 3, 1, 2, 3, 1],
            "one who has just begun is not the next to lose its slot"
        );
        threads.iter().for_each(|(end, _)| end.send(()).unwrap());
    });
}

#[test]
fn a_guest_that_would_wait_for_itself_is_told_which_section_is_in_the_way() {
    let pool = pool(2, Policy::Share);
    let (mut first, mut second) = (pool.lease().unwrap(), pool.lease().unwrap());
    let _sections = (first.enter().unwrap(), second.enter().unwrap());
    let error = pool.enter().unwrap_err();
    assert!(error.is_invalid_argument(), "{error}");
    assert!(error.to_string().contains("inside a running section of stream 1:"), "{error}");
}

#[test]
fn after_a_scope_a_thread_has_the_binding_that_it_had_and_lets_go_of_it_at_its_end() {
    let pool = pool(3, WAIT);
    let mut lease = pool.lease().unwrap();
    for bound in [false, true] {
        let pool = &pool;
        lease = thread::scope(|scope| {
            let thread = scope.spawn(move || {
                if bound {
                    drop(pool.enter().unwrap());
                }
                let before = pool.current();
                lease.scope(|| assert_eq!(pool.enter().unwrap().stream(), lease.stream()));
                assert_eq!((pool.current(), before.is_some()), (before, bound));
                assert_ne!(pool.enter().unwrap().stream(), lease.stream(), "the lease is exclusive again");
                lease
            });
            thread.join().unwrap()
        });
        let stats = pool.stats().unwrap();
        assert_eq!((stats.leased, stats.bound_idle, stats.free), (1, 1, 1), "bound is the opener's alone");
    }
}

#[test]
fn a_scope_that_was_leaked_does_not_end_its_lease_with_the_thread() {
    let pool = pool(2, WAIT);
    let lease = pool.lease().unwrap();
    let mut lease = thread::spawn(move || {
        std::mem::forget(lease.enter_scope());
        lease
    })
    .join()
    .unwrap();
    assert_eq!(pool.stats().unwrap().leased, 1);
    drop(lease.enter().unwrap());
}

#[test]
fn a_thread_keeps_nothing_of_a_closed_pool_once_it_uses_another_and_keeps_its_streams_of_open_ones() {
    let kept = Arc::new(());
    let captured = kept.clone();
    let closed = SlotPool::new(PoolOptions::default().with_size(1), move |_| {
        let _ = &captured;
        Ok(())
    })
    .unwrap();
    drop(closed.enter().unwrap());
    let open = pool(1, WAIT);
    let bound = open.current();
    assert!(bound.is_some());
    drop(closed);
    let another = pool(1, WAIT);
    assert_eq!(Arc::strong_count(&kept), 1, "the factory of the closed pool is gone");
    assert_eq!(open.current(), bound);
    drop(another);
}

#[test]
fn closing_from_inside_a_section_waits_for_all_others() {
    let pool = pool(3, WAIT);
    let (mut theirs, mut mine) = (pool.lease().unwrap(), pool.lease().unwrap());
    assert!(theirs.stream() < mine.stream(), "closing looks at theirs first");
    let own = mine.enter().unwrap();
    let (entered, has_entered) = mpsc::channel();
    thread::scope(|scope| {
        let (pool, stream) = (&pool, theirs.stream());
        scope.spawn(move || {
            let run = theirs.enter().unwrap();
            entered.send(()).unwrap();
            while pool.gate().check().is_ok() {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(30));
            drop(run);
        });
        has_entered.recv_timeout(PATIENCE).unwrap();
        let drained = pool.close(PATIENCE).unwrap();
        assert_eq!(drained.running, [own.stream()], "only its own section may still run");
        assert_eq!(drained.payloads, [(stream, stream)]);
        assert_eq!(pool.gate().phase(), Phase::Closing, "closed only once nothing runs");
    });
    let stream = own.stream();
    drop(own);
    assert_eq!(pool.close(Duration::ZERO).unwrap().payloads, [(stream, stream)]);
    assert_eq!(pool.gate().phase(), Phase::Closed);
}
