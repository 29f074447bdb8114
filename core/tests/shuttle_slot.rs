//! The stream pool under shuttle: more threads than loom can take, also with sections that unwind.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p streampool-core --release --test 'shuttle_*'`. A failure prints its schedule and its seed; see
//! `schedules/mod.rs` for how to repeat it. No wait has a deadline here, so a lost wake-up is a deadlock.
#![cfg(all(shuttle, not(loom)))]

mod schedules;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::thread;
use streampool_core::Result;
use streampool_core::slot::{Policy, PoolOptions, Running, SlotPool};

const SCHEDULES: usize = 5_000;
const THREADS: usize = 8;
const SLOTS: usize = 3;

/// A stream's resources: sections so far, and whether one is under way.
#[derive(Default)]
struct Payload {
    sections: usize,
    busy: AtomicBool,
}

type Pool = SlotPool<Payload>;

fn random_program(policy: Policy, close: bool) {
    let options = PoolOptions::default().with_size(SLOTS).with_policy(policy);
    let pool: Arc<Pool> = Arc::new(SlotPool::new(options, |_| Ok(Payload::default())).unwrap());
    let sections = Arc::new(AtomicUsize::new(0));
    let work = {
        let sections = sections.clone();
        move |mut run: Running<'_, Payload>| {
            assert!(!run.busy.swap(true, Ordering::Relaxed), "INV-1");
            thread::yield_now();
            run.sections += 1;
            sections.fetch_add(1, Ordering::Relaxed);
            run.busy.store(false, Ordering::Relaxed);
        }
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (pool, work) = (pool.clone(), work.clone());
            thread::spawn(move || {
                for _ in 0..3 {
                    let ran = match thread_rng().gen_range(0..5) {
                        0 => pool.lease().and_then(|mut lease| {
                            work(lease.enter()?);
                            lease.enter().map(&work)
                        }),
                        2 => unwinding(&pool, &work),
                        1 => cancelled(&pool).unwrap_or_else(|| pool.enter()).map(&work),
                        _ => pool.enter().map(&work),
                    };
                    if let Err(error) = ran {
                        assert!(close && error.is_shut_down(), "{error}");
                    }
                }
            })
        })
        .collect();
    let mut payloads = Vec::new();
    if close {
        let drained = pool.close(Duration::MAX).unwrap();
        assert!(drained.running.is_empty());
        payloads.extend(drained.payloads);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let stats = pool.stats().unwrap();
    assert_eq!((stats.running, stats.leased, stats.waiting, stats.guests), (0, 0, 0, 0), "INV-2: {stats:?}");
    payloads.extend(pool.close(Duration::ZERO).unwrap().payloads);
    let put_back: usize = payloads.iter().map(|(_, payload)| payload.sections).sum();
    assert_eq!(put_back, sections.load(Ordering::Relaxed), "a payload was lost");
}

/// A section that unwinds after its work: its end, with the hand-over to whoever waits, happens meanwhile.
fn unwinding(pool: &Pool, work: &impl Fn(Running<'_, Payload>)) -> Result<()> {
    let unwound = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        work(pool.enter()?);
        let _held = pool.enter()?;
        // Not `panic!`: shuttle's hook would take it for a failure.
        resume_unwind(Box::new(()))
    }));
    unwound.unwrap_or(Ok(()))
}

/// An entry that is polled once and dropped.
fn cancelled(pool: &Pool) -> Option<Result<Running<'_, Payload>>> {
    let mut entry = pool.enter_async();
    match Pin::new(&mut entry).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(run) => Some(run),
        Poll::Pending => None,
    }
}

const WAIT: Policy = Policy::Wait { deadline: Duration::MAX };

#[test]
fn threads_leases_and_cancelled_tasks_lose_nothing() {
    schedules::sample("stream pool, 8 threads on 3 slots", SCHEDULES, || random_program(WAIT, false));
}

#[test]
fn sharing_threads_lose_nothing() {
    schedules::sample("sharing pool, 8 threads on 3 slots", SCHEDULES, || {
        random_program(Policy::Share, false)
    });
}

#[test]
fn closing_beside_busy_threads_ends_and_loses_nothing() {
    schedules::sample("shutdown beside 8 threads on 3 slots", SCHEDULES, || random_program(WAIT, true));
    schedules::sample("shutdown of a shared pool beside 8 threads", SCHEDULES, || {
        random_program(Policy::Share, true)
    });
}
