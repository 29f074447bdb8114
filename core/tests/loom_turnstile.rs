//! The turnstile under loom: one inside at a time as long as nobody is late, nobody sleeps for ever, and who is late harms nobody.
#![cfg(loom)]

mod model;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use model::{explore, explore_with_clock};
use streampool_core::sync::clock;
use streampool_core::turnstile::{Turnstile, Visitor};

struct Place {
    turnstile: Turnstile,
    inside: AtomicUsize,
}

impl Place {
    fn new(spinners: u32) -> Arc<Self> {
        Arc::new(Self { turnstile: Turnstile::new(spinners), inside: AtomicUsize::new(0) })
    }

    /// One stay, however late somebody is.
    fn pass(&self) {
        let visitor = Visitor::new();
        self.turnstile.take(&visitor);
        self.turnstile.entered(&visitor);
        self.turnstile.leave(&visitor);
    }

    /// One stay in which nobody is late: alone inside.
    fn visit(&self, visitor: &Visitor) {
        self.turnstile.take(visitor);
        assert!(visitor.has_turn());
        assert_eq!(self.inside.fetch_add(1, Ordering::Relaxed), 0, "two are inside");
        self.turnstile.entered(visitor);
        assert!(visitor.has_turn(), "taken away from one that was not late");
        self.inside.fetch_sub(1, Ordering::Relaxed);
        self.turnstile.leave(visitor);
    }
}

fn visits(name: &str, preemptions: usize, threads: usize, spinners: u32, stays: usize) {
    explore(name, preemptions, move || {
        let place = Place::new(spinners);
        let others: Vec<_> = (1..threads)
            .map(|_| {
                let place = place.clone();
                thread::spawn(move || {
                    let visitor = Visitor::new();
                    (0..stays).for_each(|_| place.visit(&visitor));
                })
            })
            .collect();
        let visitor = Visitor::new();
        (0..stays).for_each(|_| place.visit(&visitor));
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn those_who_spin_are_inside_one_at_a_time() {
    visits("two threads, both may spin", 5, 2, 2, 2);
}

#[test]
fn those_who_sleep_are_woken() {
    visits("two threads, none may spin at first", 4, 2, 0, 2);
    visits("three threads, none may spin at first", 3, 3, 0, 1);
}

#[test]
fn some_spin_and_some_sleep() {
    visits("three threads, one may spin", 3, 3, 1, 1);
}

#[test]
fn who_is_late_frees_nobody_elses_turn_and_all_return() {
    explore_with_clock("two threads and the time", 4, || {
        let place = Place::new(1);
        let other = {
            let place = place.clone();
            thread::spawn(move || place.pass())
        };
        let time = thread::spawn(clock::expire);
        place.pass();
        other.join().unwrap();
        time.join().unwrap();
        // Nobody is left in it: the next one has the turn at once, and it stays with it.
        let next = Visitor::new();
        place.turnstile.take(&next);
        assert!(next.has_turn());
        place.turnstile.entered(&next);
        assert!(next.has_turn());
    });
}
