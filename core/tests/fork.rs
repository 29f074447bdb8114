//! After a fork (INV-10). One test in a process of its own: the fork generation is the process's.
#![cfg(not(any(loom, shuttle)))]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use streampool_core::gate;
use streampool_core::slot::{PoolOptions, SlotPool};

struct Queue(Arc<AtomicUsize>);

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What the child of a fork sees: a pool with a section under way, a lease, futures in the queue. Everything says
/// `Forked`, and dropping all of it frees no queue.
#[test]
fn a_child_gets_errors_frees_nothing_of_the_parents_and_may_open_its_own() {
    let freed = Arc::new(AtomicUsize::new(0));
    let count = freed.clone();
    let options = PoolOptions::default().with_size(2);
    let pool = SlotPool::new(options.clone(), move |_| Ok(Queue(count.clone()))).unwrap();
    let pool = Arc::new(pool);
    let run = pool.enter().unwrap();
    let mut lease = pool.lease().unwrap();
    drop(lease.enter().unwrap());
    let (mut enter, mut leasing) = (pool.enter_async(), pool.lease_async());
    let mut context = Context::from_waker(Waker::noop());
    // This thread is inside a section, so the future of an entry must be polled by another.
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut context = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut enter).poll(&mut context).is_pending());
        });
    });
    assert!(Pin::new(&mut leasing).poll(&mut context).is_pending());
    // A thread bound to the pool that ends in the child.
    let bound = pool.clone();
    let (end, ended) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let _ = bound.current();
        let _ = ended.recv();
        drop(bound);
    });

    let before = gate::fork_generation();
    gate::forked_in_child();
    assert_eq!(gate::fork_generation(), before + 1);

    let errors = [
        pool.enter().map(drop).unwrap_err(),
        pool.lease().map(drop).unwrap_err(),
        pool.lease_deadline(Duration::ZERO).map(drop).unwrap_err(),
        pool.stats().map(drop).unwrap_err(),
        pool.close(Duration::from_secs(20)).map(drop).unwrap_err(),
        pool.gate().check().unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_forked(), "{error}");
        assert!(
            error.to_string().contains("'spawn'") && error.to_string().contains("Open a device"),
            "{error}"
        );
    }
    assert_eq!(pool.current(), None);
    let polled = Pin::new(&mut enter).poll(&mut context).map(|r| r.map(drop).unwrap_err().is_forked());
    assert!(matches!(polled, std::task::Poll::Ready(true)));
    drop(enter);
    drop(leasing);
    drop(run);
    assert!(lease.enter().map(drop).unwrap_err().is_forked());
    drop(lease);
    end.send(()).unwrap();
    thread.join().unwrap();
    drop(pool);
    assert_eq!(freed.load(Ordering::SeqCst), 0, "the queues are the parent's");

    let own = SlotPool::new(options, |_| Ok(7)).unwrap();
    assert_eq!(*own.enter().unwrap(), 7);
    assert_eq!(own.close(Duration::ZERO).unwrap().payloads.len(), 1);
}
