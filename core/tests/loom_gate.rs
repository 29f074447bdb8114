//! The gate under loom. What a forked child leaks on purpose loom would report as a leak: see `tests/fork.rs` for that.
#![cfg(loom)]

mod model;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use model::explore;
use streampool_core::gate::{self, Gate, Phase};

#[test]
fn one_of_two_closes_and_the_phase_only_moves_forward() {
    explore("two that close and one that enters", 4, || {
        let gate = Arc::new(Gate::open());
        let closers: Vec<_> = (0..2)
            .map(|_| {
                let gate = gate.clone();
                thread::spawn(move || {
                    let won = gate.begin_close();
                    assert!(gate.check().unwrap_err().is_shut_down(), "closed for whoever closed");
                    if won {
                        gate.finish_close();
                    }
                    won
                })
            })
            .collect();
        let first = gate.phase();
        let entered = gate.check().is_ok();
        assert!(first == Phase::Open || !entered, "it opened again");
        let winners = closers.into_iter().map(|closer| closer.join().unwrap());
        assert_eq!(winners.filter(|won| *won).count(), 1);
        assert_eq!(gate.phase(), Phase::Closed);
    });
}

#[test]
fn what_was_written_before_closing_is_seen_by_whom_it_refuses() {
    explore("closing and an entry", 5, || {
        let gate = Arc::new(Gate::open());
        let reason = Arc::new(AtomicBool::new(false));
        let closer = {
            let (gate, reason) = (gate.clone(), reason.clone());
            thread::spawn(move || {
                reason.store(true, Ordering::Relaxed);
                gate.begin_close();
            })
        };
        if gate.check().is_err() {
            assert!(reason.load(Ordering::Relaxed));
        }
        closer.join().unwrap();
    });
}

#[test]
fn a_child_is_refused_while_its_parents_gate_is_being_closed() {
    explore("closing, a fork and an entry", 5, || {
        let gate = Arc::new(Gate::open());
        let closer = {
            let gate = gate.clone();
            thread::spawn(move || gate.begin_close())
        };
        gate::forked_in_child();
        assert_ne!(gate.phase(), Phase::Closed);
        assert!(gate.check().unwrap_err().is_forked(), "a fork outranks closing");
        Gate::open().check().unwrap();
        assert!(closer.join().unwrap());
        assert!(gate.check().unwrap_err().is_forked());
    });
}
