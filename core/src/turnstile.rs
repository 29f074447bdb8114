//! A turnstile: which of many threads goes next to a lock of somebody else's that they all need.
//!
//! An interpreter's lock puts who comes second to sleep and has the system wake it: tens of microseconds in which nobody has the lock, for a
//! stay of one or two. Threads that come through a [`Turnstile`] meet here instead, where the next one notices within a tenth of a microsecond that
//! the last one left; so the lock behind it is free when they come to it. A thread keeps its turn for as long as it has that lock.
//!
//! It is advice, not a lock: nothing is protected by it. Who is inside for longer than [`STAY`] loses its turn to one that waits, so a holder
//! may sleep, end, or be lost in a fork. A thread that waited in vain goes without turns for a while, and ever longer: because it found the lock free
//! after it took a turn away (its fellows do not pass turns on), or because the lock is with others who never come this way.
//!
//! Only a few spin; the others sleep, as more that spin make each hand-over slower. A sleeper is woken when nobody spins any more, and gets up by
//! itself after [`NAP`], so that those who spin cannot keep it out. (Dice: Malthusian Locks, EuroSys 2017.)

use std::cell::Cell;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Condvar, Deadline, Mutex, process, thread};

/// How long a turn may stay with one that is inside while others wait for it. Longer than what is worth a turn.
pub const STAY: Duration = Duration::from_micros(50);

/// How long others wait while one that has the turn waits for the lock itself. Then the lock is with somebody who did not come this way, and they go and
/// wait for it as well: so that all of them are there when it is let go of, as they would be without a turnstile.
pub const SLOW: Duration = Duration::from_millis(1);

/// How long a thread sleeps at most before it spins, whoever else does.
pub const NAP: Duration = Duration::from_millis(1);

/// How long a thread waits at most while others pass the turn on to each other. Then it goes without.
const PATIENCE: Duration = Duration::from_millis(50);

/// Who waited for the lock for less did not wait.
const AT_ONCE: Duration = Duration::from_micros(3);

/// For how many stays, at most, a thread goes without a turn.
const LONGEST_BREAK: u32 = 63;

/// Looks at the turn between two looks at the clock; and after how many of those a thread lets others of its processor run.
const LOOKS: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 16 };
const POLITE: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 3 };

/// What the word of a turnstile says: nobody has the turn; or a stay, whose lowest bit tells whether it is inside.
const FREE: u64 = 0;
const INSIDE: u64 = 1;

/// The way to one lock. Every thread has a [`Visitor`] of its own for it.
#[derive(Debug)]
pub struct Turnstile {
    /// The stay that has the turn: a visitor's number and a count, so that no two look alike. Written by all.
    stay: CachePadded<AtomicU64>,
    /// Written only by those that have to wait.
    waiting: CachePadded<Waiting>,
    spinners: u32,
    /// In a child of this process nobody can pass on what threads of the parent had: there it is not used.
    made_in: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    spinning: AtomicU32,
    /// How many wait for `call`. Changes with `called` locked.
    asleep: AtomicU32,
    /// Whether one of them was called and is not up yet: one at a time.
    called: Mutex<bool>,
    call: Condvar,
}

/// A thread's own side of a [`Turnstile`].
#[derive(Debug)]
pub struct Visitor {
    /// This stay, or the last.
    stay: Cell<u64>,
    has_turn: Cell<bool>,
    /// When it took the turn away from one that had been inside for too long, if it has not been inside since.
    took: Cell<Option<Instant>>,
    /// The last stay that was waiting for the lock itself for too long.
    slow: Cell<u64>,
    /// Stays still to do without a turn, and how many it will be the next time.
    without: Cell<u32>,
    longer: Cell<u32>,
}

impl Default for Visitor {
    fn default() -> Self {
        Self::new()
    }
}

impl Visitor {
    /// A visitor that has not been anywhere.
    pub fn new() -> Self {
        // Not zero, so no stay is FREE. After four billion visitors two may look alike, which makes one of them lose a turn.
        let number = crate::sync::unique_id().get();
        Self {
            stay: Cell::new(number << 32),
            has_turn: Cell::new(false),
            took: Cell::new(None),
            slow: Cell::new(FREE),
            without: Cell::new(0),
            longer: Cell::new(0),
        }
    }

    /// Whether it has the turn, as far as it knows: it may have been taken away since.
    pub fn has_turn(&self) -> bool {
        self.has_turn.get()
    }

    /// Whether it waited for nothing: then it will not, for longer each time.
    #[cold]
    fn in_vain(&self, so: bool) {
        let longer = self.longer.get();
        self.without.set(if so { longer } else { 0 });
        self.longer.set(if so { (longer * 2 + 1).min(LONGEST_BREAK) } else { 0 });
    }
}

impl Turnstile {
    /// A turnstile where nobody is, and where so many threads spin at once.
    pub fn new(spinners: u32) -> Self {
        Self {
            stay: CachePadded::new(AtomicU64::new(FREE)),
            waiting: CachePadded::default(),
            spinners,
            made_in: process::forks(),
        }
    }

    /// Before the lock: waits until nobody has the turn and takes it, or takes it away from who keeps it. Returns after milliseconds at most, with
    /// the turn or without.
    #[inline]
    pub fn take(&self, visitor: &Visitor) {
        if visitor.without.get() > 0 {
            visitor.without.set(visitor.without.get() - 1);
            return;
        }
        if self.made_in != process::forks() {
            return;
        }
        let last = visitor.stay.get();
        let stay = last & !u64::from(u32::MAX) | u64::from((last as u32).wrapping_add(2));
        visitor.stay.set(stay);
        visitor.has_turn.set(self.change(FREE, stay) || self.wait(visitor, stay));
    }

    /// With the lock.
    #[inline]
    pub fn entered(&self, visitor: &Visitor) {
        if visitor.has_turn.get() {
            let stay = visitor.stay.get();
            visitor.has_turn.set(self.change(stay, stay | INSIDE));
            if let Some(then) = visitor.took.take() {
                visitor.in_vain(then.elapsed() < AT_ONCE);
            }
        }
    }

    /// When the lock was let go of: passes the turn on, if this visitor still has it.
    #[inline]
    pub fn leave(&self, visitor: &Visitor) {
        if visitor.has_turn.replace(false)
            && self.made_in == process::forks()
            && self.change(visitor.stay.get() | INSIDE, FREE)
            && self.waiting.asleep.load(Ordering::Relaxed) > 0
            && self.waiting.spinning.load(Ordering::Relaxed) == 0
        {
            self.waiting.call_one();
        }
    }

    #[inline]
    fn change(&self, from: u64, to: u64) -> bool {
        self.stay.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether this stay got the turn.
    #[cold]
    fn wait(&self, visitor: &Visitor, stay: u64) -> bool {
        if self.waiting.spinning.fetch_add(1, Ordering::Relaxed) >= self.spinners {
            self.waiting.spinning.fetch_sub(1, Ordering::Relaxed);
            self.sleep();
        }
        let end = self.spin(stay);
        self.waiting.spinning.fetch_sub(1, Ordering::Relaxed);
        match end {
            End::Turn => {
                visitor.longer.set(visitor.longer.get() / 2);
                true
            }
            End::Late(holder) if holder & INSIDE != 0 => {
                let taken = self.change(holder, stay);
                visitor.took.set(taken.then(Instant::now));
                taken
            }
            End::Late(holder) => {
                visitor.in_vain(true);
                // Who meets the same stay again was inside meanwhile, and the holder was not: it will not come.
                visitor.slow.replace(holder) == holder && self.change(holder, stay)
            }
            End::Patience => false,
        }
    }

    fn spin(&self, stay: u64) -> End {
        let patience = Deadline::after(PATIENCE);
        let (mut holder, mut late) = (FREE, patience);
        for round in 0u64.. {
            let before = holder;
            for _ in 0..LOOKS {
                holder = self.stay.load(Ordering::Relaxed);
                if holder == FREE && self.change(FREE, stay) {
                    return End::Turn;
                }
                std::hint::spin_loop();
            }
            if holder != before {
                late = Deadline::after(if holder & INSIDE != 0 { STAY } else { SLOW });
            } else if holder != FREE && late.passed() {
                return End::Late(holder);
            }
            if patience.passed() {
                break;
            }
            if round >= u64::from(POLITE) {
                thread::yield_now();
            }
        }
        End::Patience
    }

    /// Until somebody calls, or the turn is free; and counted as spinning then.
    fn sleep(&self) {
        let waiting = &*self.waiting;
        let nap = Deadline::after(NAP);
        let mut called = waiting.called.lock();
        waiting.asleep.fetch_add(1, Ordering::Relaxed);
        let mut over = false;
        // This writes what it reads: whoever frees the turn afterwards has acquired that somebody sleeps, also without a fence in `leave`.
        while !*called && !over && self.stay.fetch_or(FREE, Ordering::AcqRel) != FREE {
            (called, over) = waiting.call.wait_until(called, nap);
        }
        *called = false;
        waiting.asleep.fetch_sub(1, Ordering::Relaxed);
        waiting.spinning.fetch_add(1, Ordering::Relaxed);
    }
}

impl Waiting {
    #[cold]
    fn call_one(&self) {
        let mut called = self.called.lock();
        if !*called && self.asleep.load(Ordering::Relaxed) > 0 {
            *called = true;
            self.call.notify_one();
        }
    }
}

/// How spinning ended.
enum End {
    Turn,
    /// This stay has had the turn for too long.
    Late(u64),
    /// Others were quicker all the time.
    Patience,
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn who(turnstile: &Turnstile) -> u64 {
        turnstile.stay.load(Ordering::SeqCst)
    }

    fn inside(turnstile: &Turnstile) -> Visitor {
        let visitor = Visitor::new();
        turnstile.take(&visitor);
        turnstile.entered(&visitor);
        visitor
    }

    #[test]
    fn a_turn_is_taken_and_passed_on_and_no_two_stays_look_alike() {
        let (turnstile, visitor) = (Turnstile::new(2), Visitor::new());
        let mut seen = std::collections::HashSet::new();
        for _ in 0..3 {
            turnstile.take(&visitor);
            assert!(visitor.has_turn() && who(&turnstile) & INSIDE == 0);
            turnstile.entered(&visitor);
            assert!(visitor.has_turn() && who(&turnstile) & INSIDE != 0);
            assert!(seen.insert(who(&turnstile)));
            turnstile.leave(&visitor);
            assert!(!visitor.has_turn());
            assert_eq!(who(&turnstile), FREE);
        }
        // Without a turn there is nothing to pass on.
        let other = inside(&turnstile);
        turnstile.leave(&visitor);
        assert!(other.has_turn() && who(&turnstile) != FREE);
    }

    #[test]
    fn who_keeps_the_turn_inside_loses_it_and_frees_nobody_elses() {
        for spinners in [0, 2] {
            let turnstile = Turnstile::new(spinners);
            let (keeps, next) = (inside(&turnstile), Visitor::new());
            let start = Instant::now();
            turnstile.take(&next);
            assert!(next.has_turn() && start.elapsed() >= STAY);
            let stay = who(&turnstile);
            turnstile.leave(&keeps);
            assert_eq!(who(&turnstile), stay, "the next one's turn was freed");
            turnstile.entered(&next);
            turnstile.leave(&next);
            assert_eq!(who(&turnstile), FREE);
        }
    }

    #[test]
    fn who_waits_for_the_lock_itself_keeps_its_turn_and_others_go_without() {
        for spinners in [0, 2] {
            let turnstile = Turnstile::new(spinners);
            let (waits, next) = (Visitor::new(), Visitor::new());
            turnstile.take(&waits);
            let (stay, start) = (who(&turnstile), Instant::now());
            turnstile.take(&next);
            assert!(!next.has_turn() && start.elapsed() >= SLOW);
            assert_eq!(who(&turnstile), stay);
            // The first time makes no break: it waits again.
            let start = Instant::now();
            turnstile.take(&next);
            assert!(start.elapsed() >= SLOW);
            // By then the first one will never come.
            assert!(next.has_turn() && next.took.get().is_none());
            turnstile.entered(&waits);
            assert!(!waits.has_turn(), "it was taken away");
        }
    }

    #[test]
    fn a_stay_that_ended_in_vain_makes_the_next_breaks_longer_and_one_in_time_ends_them() {
        let (turnstile, visitor) = (Turnstile::new(2), Visitor::new());
        let mut breaks = Vec::new();
        for _ in 0..8 {
            visitor.in_vain(true);
            let mut without = 0;
            loop {
                turnstile.take(&visitor);
                if visitor.has_turn() {
                    break;
                }
                without += 1;
            }
            breaks.push(without);
            turnstile.entered(&visitor);
            turnstile.leave(&visitor);
        }
        assert_eq!(breaks, [0, 1, 3, 7, 15, 31, 63, 63]);
        visitor.in_vain(false);
        visitor.in_vain(true);
        assert_eq!(visitor.without.get(), 0);
    }

    #[test]
    fn one_that_takes_a_turn_away_and_finds_the_lock_held_takes_no_break() {
        let turnstile = Turnstile::new(2);
        let (_keeps, next) = (inside(&turnstile), Visitor::new());
        next.longer.set(7);
        turnstile.take(&next);
        assert!(next.took.get().is_some());
        std::thread::sleep(AT_ONCE * 2);
        turnstile.entered(&next);
        assert_eq!((next.without.get(), next.longer.get()), (0, 0));
    }

    /// The lock behind is a real one that does not like to be waited for; all get through, few enough in vain.
    #[test]
    fn many_threads_get_through_and_hardly_ever_meet_at_the_lock() {
        const THREADS: usize = 8;
        const STAYS: usize = 2_000;
        let (turnstile, lock) = (Turnstile::new(2), std::sync::Mutex::new(0usize));
        let met = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let visitor = Visitor::new();
                    for _ in 0..STAYS {
                        turnstile.take(&visitor);
                        let mut count = lock.try_lock().unwrap_or_else(|_| {
                            met.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            lock.lock().unwrap()
                        });
                        turnstile.entered(&visitor);
                        *count += 1;
                        (0..100).for_each(|_| std::hint::spin_loop());
                        drop(count);
                        turnstile.leave(&visitor);
                        (0..100).for_each(|_| std::hint::spin_loop());
                    }
                });
            }
        });
        assert_eq!(lock.into_inner().unwrap(), THREADS * STAYS);
        assert_eq!(who(&turnstile), FREE);
        let met = met.into_inner();
        assert!(met < THREADS * STAYS / 4, "{met} of {} met at the lock", THREADS * STAYS);
    }
}
