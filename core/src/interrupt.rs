//! Long waits that somebody outside may end: a person who presses Ctrl-C in a Python session.
//!
//! A thread may install a check. Waits of that thread that last call it every [`SLICE`], with no lock held; once it says so, the
//! wait ends as if its deadline had passed. Whoever installed the check knows why, and tells its caller. Threads without a check
//! wait undisturbed and pay nothing.
//!
//! The model checkers see none of it: to them a wait that ends early is a deadline that passes, which they explore.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::sync::Deadline;

/// How long a wait goes on before it asks.
pub const SLICE: Duration = Duration::from_millis(25);

std::thread_local! {
    static CHECK: Cell<Option<fn() -> bool>> = const { Cell::new(None) };
}

/// Sets the calling thread's check; `None` takes it away. The check says whether the wait is to end. It may take locks and
/// wait for them, but must not call into the pool or the device that is being waited for.
pub fn set_check(check: Option<fn() -> bool>) {
    CHECK.set(check);
}

/// Asks the calling thread's check. No lock may be held.
pub fn interrupted() -> bool {
    CHECK.get().is_some_and(|check| check())
}

/// The time until which to wait before asking: `deadline` for a thread without a check.
pub fn until(deadline: Instant) -> Instant {
    match CHECK.get() {
        Some(_) => deadline.min(Instant::now() + SLICE),
        None => deadline,
    }
}

/// As [`until`] for core's own deadlines, which a model checker may own; and whether that is the deadline itself.
pub(crate) fn slice(deadline: Deadline) -> (Deadline, bool) {
    #[cfg(not(any(loom, shuttle)))]
    if CHECK.get().is_some() {
        return match deadline.remaining() {
            Some(left) if left <= SLICE => (deadline, true),
            _ => (Deadline::after(SLICE), false),
        };
    }
    (deadline, true)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::slot::{Policy, PoolOptions, SlotPool};

    #[test]
    fn a_check_ends_a_wait_for_a_slot_long_before_its_deadline() {
        let policy = Policy::Wait { deadline: Duration::from_secs(60) };
        let pool =
            SlotPool::new(PoolOptions::default().with_size(1).with_policy(policy), |_| Ok(())).unwrap();
        let _held = pool.lease().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread_local!(static ASKED: Cell<u32> = const { Cell::new(0) });
                set_check(Some(|| {
                    ASKED.set(ASKED.get() + 1);
                    ASKED.get() == 3
                }));
                let begin = Instant::now();
                let error = pool.enter().map(drop).unwrap_err();
                assert!(error.is_pool_exhausted(), "{error}");
                assert_eq!(ASKED.get(), 3);
                assert!(begin.elapsed() >= SLICE * 2, "it waits between two questions");
                assert!(begin.elapsed() < Duration::from_secs(30), "it does not wait for the deadline");
            });
        });
        assert_eq!(pool.stats().unwrap().waiting, 0, "who was interrupted has left the line");
    }

    #[test]
    fn a_thread_with_a_check_waits_in_slices_and_one_without_for_its_deadline() {
        let far = Instant::now() + Duration::from_secs(3600);
        assert_eq!(until(far), far);
        assert!(slice(Deadline::after(Duration::from_secs(3600))).1);
        std::thread::spawn(move || {
            set_check(Some(|| false));
            let now = Instant::now();
            assert!(until(far) >= now + SLICE && until(far) < now + SLICE * 100, "a slice from now on");
            assert_eq!(until(now), now, "never beyond the deadline");
            assert!(!slice(Deadline::after(Duration::from_secs(3600))).1);
            assert!(slice(Deadline::after(SLICE / 2)).1, "the last slice ends with the deadline");
        })
        .join()
        .unwrap();
    }
}
