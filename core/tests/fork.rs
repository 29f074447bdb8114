//! After a fork (INV-10): once as a child sees it, in one process, and once with real children of a busy parent.
#![cfg(all(unix, not(any(loom, shuttle))))]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use streampool_core::gate;
use streampool_core::slot::{PoolOptions, SlotPool};
use streampool_core::turnstile::{Turnstile, Visitor};

/// The fork generation is the process's: one test at a time.
static PROCESS: Mutex<()> = Mutex::new(());

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
    let _process = PROCESS.lock();
    let freed = Arc::new(AtomicUsize::new(0));
    let count = freed.clone();
    // A thread of its own, so that its locals are destroyed in the child as well.
    thread::spawn(move || use_fork_and_drop_everything(count)).join().unwrap();
    assert_eq!(freed.load(Ordering::SeqCst), 0, "the queues are the parent's");
}

fn use_fork_and_drop_everything(count: Arc<AtomicUsize>) {
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

    let own = SlotPool::new(options, |_| Ok(7)).unwrap();
    assert_eq!(*own.enter().unwrap(), 7);
    assert_eq!(own.close(Duration::ZERO).unwrap().payloads.len(), 1);
}

/// Threads of the parent hold the pool's locks most of the time (those that count its slots all the time), so a child that touched one would hang sooner or later.
#[test]
fn children_of_a_busy_parent_neither_hang_nor_disturb_it() {
    let _process = PROCESS.lock();
    let pool = SlotPool::new(PoolOptions::default().with_size(2), |_| Ok(0u64)).unwrap();
    let end = AtomicBool::new(false);
    let entries = thread::scope(|scope| {
        let ending = End(&end);
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut entries = 0;
                    while !end.load(Ordering::Relaxed) {
                        *pool.enter().unwrap() += 1;
                        *pool.lease().unwrap().enter().unwrap() += 1;
                        entries += 2;
                    }
                    entries
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    assert_eq!(pool.stats().unwrap().size, 2);
                }
            });
        }
        for _ in 0..100 {
            let mut lease = pool.lease().unwrap();
            let run = lease.enter().unwrap();
            let waiting = pool.lease_async();
            // SAFETY: the child calls only what this test is about, allocates (which glibc and Apple's libc allow after a
            // fork) and leaves by `_exit`.
            let child = unsafe { libc::fork() };
            if child == 0 {
                gate::forked_in_child();
                let refused = pool.enter().map(drop).is_err_and(|e| e.is_forked())
                    && pool.lease().is_err_and(|e| e.is_forked())
                    && pool.stats().is_err_and(|e| e.is_forked())
                    && pool.close(Duration::from_secs(60)).is_err_and(|e| e.is_forked());
                drop(run);
                drop(lease);
                drop(waiting);
                let own = SlotPool::new(PoolOptions::default(), |_| Ok(0u64)).and_then(|own| {
                    *own.enter()? += 1;
                    own.close(Duration::ZERO)
                });
                let works = own.is_ok_and(|drained| drained.payloads.len() == 1);
                // SAFETY: ends the child without running anything of the parent's.
                unsafe { libc::_exit(i32::from(!(refused && works))) }
            }
            assert!(child > 0, "fork failed");
            drop((run, waiting));
            drop(lease);
            assert_eq!(exit_status(child), Some(0), "a child hung or was let in");
        }
        drop(ending);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum::<u64>()
    });
    let drained = pool.close(Duration::ZERO).unwrap();
    assert_eq!(drained.payloads.iter().map(|(_, sections)| sections).sum::<u64>(), entries);
}

/// Threads that had a turn, and threads that could be woken, are the parent's: in a child nobody waits for them or calls them.
#[test]
fn a_child_goes_past_its_parents_turnstile_and_uses_its_own() {
    let _process = PROCESS.lock();
    let parents = Turnstile::new(1);
    let (inside, other) = (Visitor::new(), Visitor::new());
    parents.take(&inside);
    parents.entered(&inside);

    gate::forked_in_child();

    parents.take(&other);
    assert!(!other.has_turn(), "it was waited for or taken away");
    parents.leave(&inside);
    parents.take(&other);
    assert!(!other.has_turn());
    let own = Turnstile::new(1);
    own.take(&other);
    assert!(other.has_turn());
}

/// Ends the workers, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The child's exit status, or `None` (and the child is killed) if it does not end in ten seconds.
fn exit_status(child: libc::pid_t) -> Option<i32> {
    let start = Instant::now();
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call; `child` is a child of this process that was not waited for.
        match unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } {
            0 if start.elapsed() > Duration::from_secs(10) => {
                // SAFETY: as above; the child has not been reaped, so the id is still its own.
                unsafe { libc::kill(child, libc::SIGKILL) };
                // SAFETY: as above.
                unsafe { libc::waitpid(child, &mut status, 0) };
                return None;
            }
            0 => thread::sleep(Duration::from_millis(1)),
            _ => return libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        }
    }
}
