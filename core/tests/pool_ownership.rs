//! Who owns a slot in the rare cases: leaked sections, ownership lost while waiting for a turn, the opener's slot, closing beside an
//! own section. Each was once got past by a single-line fault.
#![cfg(not(any(loom, shuttle)))]

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;
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
        drop(run);
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
