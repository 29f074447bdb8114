//! What all handles of a pool share, and how slots change owners.
//!
//! Locks, always taken in this order: the registry, a slot, a waiter. None is held while a payload is made, used or
//! dropped, while a task is woken, or while anybody waits (but for a waiter's own, which its condition lets go).
//!
//! # Why no wake-up is lost
//!
//! A section's end looks for waiters without the registry's lock: it *reads* `waiting`, a line that is written only
//! when somebody starts or ends to wait. Two orders are possible for a waiter W that scans slot S and the
//! end of a section on S, for both lock S:
//!
//! - W first: W raised `waiting` before it locked S, so the section's end, which locks S later and reads `waiting` after
//!   that, reads W's raise or something newer, and goes to hand the slot over.
//! - The section's end first: W finds S idle and takes it.
//!
//! (Dekker's argument, with the slot's lock for the fence: relaxed accesses of `waiting` are enough.) Only the first of the
//! queue needs to scan. Whoever comes later queues behind it, and every slot that the first one found busy reads
//! `waiting > 0` at its section's end for as long as the queue is not empty.

use std::collections::VecDeque;
use std::ops::Deref;

use crossbeam_utils::CachePadded;

use super::cell::{Cell, Turn};
use super::rule::{self, Owner};
use super::running::Running;
use super::waiter::{Grant, Outcome, Waiter, Wakes, Want};
use super::{Policy, binding};
use crate::error::{Error, Result};
use crate::gate::{Gate, shut_down};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Condvar, Deadline, Mutex, MutexGuard, ThreadToken};
use crate::timeline::StreamId;

type Factory<T> = Box<dyn Fn(StreamId) -> Result<T> + Send + Sync>;

pub(crate) struct Shared<T> {
    /// Unique in the process, never used again: the key of a thread's binding.
    pub(super) id: u64,
    pub(crate) gate: Gate,
    pub(crate) policy: Policy,
    /// Slot 0 is this thread's if it can be.
    opener: ThreadToken,
    pub(super) factory: Factory<T>,
    pub(super) slots: Box<[CachePadded<Mutex<Cell<T>>>]>,
    /// How many are in `registry.queue`, or about to be. Changes with the registry locked; read at the end of every
    /// section without it. Raised *before* the slots are scanned.
    waiting: CachePadded<AtomicUsize>,
    registry: CachePadded<Mutex<Registry>>,
    /// Notified with every section that ends in a closed slot.
    pub(super) drained: Condvar,
}

/// A handle's reference to a pool.
///
/// After a fork not even a reference count of the parent's pool is let go, for the last one would free it (INV-10).
pub(crate) struct Keep<T>(Option<Arc<Shared<T>>>);

impl<T> Keep<T> {
    pub(crate) fn new(shared: &Arc<Shared<T>>) -> Self {
        Self(Some(shared.clone()))
    }
}

impl<T> Deref for Keep<T> {
    type Target = Arc<Shared<T>>;
    #[inline]
    fn deref(&self) -> &Arc<Shared<T>> {
        self.0.as_ref().expect("taken by the destructor alone")
    }
}

impl<T> Drop for Keep<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take()
            && shared.gate.is_forked()
        {
            std::mem::forget(shared);
        }
    }
}

/// The slow paths' bookkeeping.
pub(super) struct Registry {
    /// Who waits to own a slot, oldest first. While it is not empty, no slot is free, and every slot that is idle is
    /// about to be handed over by the thread that ended a section on it.
    pub(super) queue: VecDeque<Arc<Waiter>>,
    /// The free slots except slot 0, the longest free first: sequential threads wander over all of them.
    pub(super) free: VecDeque<u32>,
    /// Where the next scan for an idle binding starts, modulo the pool's size.
    scan: u32,
    /// Where the next guest goes (policy `Share`), modulo the pool's size.
    share: u32,
    pub(super) closed: bool,
}

/// Somebody's place in a queue.
pub(crate) struct Place {
    pub(super) waiter: Arc<Waiter>,
    queue: Queue,
}

enum Queue {
    /// The registry's: for a slot.
    Pool,
    /// A slot's: for a turn on it. With what its owner holds, if it is the owner who waits.
    Turn { slot: u32, owner: Option<Grant> },
}

/// How far an entry has come.
pub(crate) enum Step<R> {
    Done(R),
    Wait(Place),
}

impl<T: Send + 'static> Shared<T> {
    pub(super) fn new(size: u32, policy: Policy, factory: Factory<T>) -> Arc<Self> {
        let shared = Arc::new(Self {
            id: crate::sync::unique_id().get(),
            gate: Gate::open(),
            policy,
            opener: ThreadToken::current(),
            factory,
            slots: (0..size).map(|_| CachePadded::new(Mutex::new(Cell::new()))).collect(),
            waiting: CachePadded::new(AtomicUsize::new(0)),
            registry: CachePadded::new(Mutex::new(Registry {
                queue: VecDeque::new(),
                free: (1..size).collect(),
                scan: 0,
                share: 0,
                closed: false,
            })),
            drained: Condvar::new(),
        });
        let mut cell = shared.slot(0);
        let grant = cell.assign(0, Want::Bind);
        cell.end_turn(0);
        drop(cell);
        binding::bind(&shared, grant);
        shared
    }

    #[inline]
    pub(super) fn slot(&self, slot: u32) -> MutexGuard<'_, Cell<T>> {
        self.slots[slot as usize].lock()
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock()
    }

    /// How many wait for a slot. Exact while the registry is locked.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn raise(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lower(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    // --- Owning -----------------------------------------------------------------------------------------------

    /// Takes a slot that is free or idle. `None` if there is none, or somebody waits already (INV-12: no barging);
    /// then `waiting` was raised for the caller, who queues or lowers it again.
    fn take_or_announce(&self, registry: &mut Registry, want: Want) -> Option<Grant> {
        self.raise();
        if registry.queue.is_empty()
            && let Some(grant) = self.take(registry, want)
        {
            self.lower();
            return Some(grant);
        }
        None
    }

    fn take(&self, registry: &mut Registry, want: Want) -> Option<Grant> {
        if want == Want::Bind
            && ThreadToken::current() == self.opener
            && let Some(grant) = self.try_assign(0, want)
        {
            return Some(grant);
        }
        while let Some(slot) = registry.free.pop_front() {
            if let Some(grant) = self.try_assign(slot, want) {
                return Some(grant);
            }
        }
        let size = self.slots.len() as u32;
        for step in 0..size {
            let slot = (registry.scan + step) % size;
            if slot != 0
                && let Some(grant) = self.try_assign(slot, want)
            {
                registry.scan = slot + 1;
                return Some(grant);
            }
        }
        // Slot 0 is the opener's for as long as there is any other way.
        self.try_assign(0, want)
    }

    fn try_assign(&self, slot: u32, want: Want) -> Option<Grant> {
        let mut cell = self.slot(slot);
        cell.is_takeable().then(|| cell.assign(slot, want))
    }

    fn enqueue(&self, registry: &mut Registry, want: Want) -> Place {
        let waiter = Waiter::new(want);
        registry.queue.push_back(waiter.clone());
        Place { waiter, queue: Queue::Pool }
    }

    /// Gives a takeable slot to the oldest waiter, if there is one.
    fn serve(&self, registry: &mut Registry, slot: u32, cell: &mut Cell<T>, wakes: &mut Wakes) -> bool {
        let Some(waiter) = registry.queue.pop_front() else {
            return false;
        };
        self.lower();
        let grant = cell.assign(slot, waiter.want);
        wakes.push(Waiter::settle(waiter, Outcome::Granted(grant)));
        true
    }

    /// The owner lets go: at the end of a lease or a thread, or because it never used what it was granted (INV-2).
    /// Does nothing if somebody else owns the slot by now (INV-3).
    pub(crate) fn release(&self, grant: Grant) {
        let mut wakes = Wakes::default();
        let mut registry = self.registry();
        let mut cell = self.slot(grant.slot);
        // An owner that is still at its turn has leaked it (`mem::forget`), and the stream's resources with it.
        let leaked = matches!(cell.turn, Turn::Taken { owner: true, .. });
        if cell.is_owned(grant.generation) && !leaked {
            if cell.turn == Turn::Reserved
                && let Some(wake) = cell.end_turn(grant.slot)
            {
                wakes.push(wake);
            }
            cell.owner = Owner::Free;
            if !self.serve(&mut registry, grant.slot, &mut cell, &mut wakes) && grant.slot != 0 {
                registry.free.push_back(grant.slot);
            }
        }
        drop(cell);
        drop(registry);
        wakes.wake();
    }

    /// The end of a section saw that somebody waits: the oldest gets the slot, unless it is taken by now.
    #[cold]
    fn hand_over(&self, slot: u32) {
        let mut wakes = Wakes::default();
        let mut registry = self.registry();
        let mut cell = self.slot(slot);
        // A free slot is handed over by whoever frees it.
        if rule::is_handed_over(cell.owner, cell.turn.kind()) {
            self.serve(&mut registry, slot, &mut cell, &mut wakes);
        }
        drop(cell);
        drop(registry);
        wakes.wake();
    }

    // --- Running ----------------------------------------------------------------------------------------------

    /// The warm path of an entry: the owner begins a section. `None` if it does not own the slot any more, or it
    /// is not its turn.
    #[inline]
    pub(crate) fn begin(&self, grant: Grant) -> Option<Running<'_, T>> {
        let me = ThreadToken::current();
        let mut cell = self.slot(grant.slot);
        if cell.is_owned(grant.generation) && cell.is_idle() {
            let payload = cell.take_turn(me, true);
            drop(cell);
            Some(Running::new(self, grant, payload, false))
        } else {
            None
        }
    }

    /// The end of a section: the payload is back where it belongs.
    #[inline]
    pub(super) fn end(&self, slot: u32, payload: Option<Box<T>>) {
        let mut cell = self.slot(slot);
        cell.payload = payload;
        let next = cell.end_turn(slot);
        if cell.is_closed() {
            return self.end_closed(cell);
        }
        drop(cell);
        if let Some(next) = next {
            next.wake();
        }
        // See the module's text for why this load is enough.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.hand_over(slot);
        }
    }

    #[cold]
    fn end_closed(&self, mut cell: MutexGuard<'_, Cell<T>>) {
        let orphan = if cell.owner == Owner::Gone { cell.payload.take() } else { None };
        drop(cell);
        // Whoever closes looks at the slots with the registry locked: passing through its lock before the
        // notification puts that after the look.
        drop(self.registry());
        self.drained.notify_all();
        drop(orphan);
    }

    /// The owner's entry when [`Shared::begin`] said no. `None` if it does not own the slot any more.
    pub(crate) fn begin_owned(&self, grant: Grant) -> Result<Option<Step<Running<'_, T>>>> {
        let me = ThreadToken::current();
        let mut cell = self.slot(grant.slot);
        if !cell.is_owned(grant.generation) {
            return if cell.is_closed() { Err(shut_down()) } else { Ok(None) };
        }
        match cell.turn {
            Turn::Taken { by, .. } if by == me => Err(nested(grant.slot)),
            Turn::Idle | Turn::Reserved => {
                let payload = cell.take_turn(me, true);
                drop(cell);
                Running::ready(Running::new(self, grant, payload, false)).map(Some)
            }
            Turn::Passed | Turn::Taken { .. } => {
                Ok(Some(Step::Wait(queue_for_turn(&mut cell, grant.slot, Some(grant)))))
            }
        }
    }

    /// One step of an entry through the calling thread's binding.
    pub(super) fn enter_step(pool: &Arc<Self>) -> Result<Step<Running<'_, T>>> {
        loop {
            pool.gate.check()?;
            if let Some(grant) = binding::find(pool.id)
                && let Some(step) = pool.begin_owned(grant)?
            {
                return Ok(step);
            }
            let mut registry = pool.registry();
            if registry.closed {
                return Err(shut_down());
            }
            let Some(grant) = pool.take_or_announce(&mut registry, Want::Bind) else {
                return match pool.policy {
                    Policy::Wait { .. } => Ok(Step::Wait(pool.enqueue(&mut registry, Want::Bind))),
                    Policy::Refuse => {
                        pool.lower();
                        Err(pool.exhausted(&registry, "the policy is to refuse"))
                    }
                    Policy::Share => {
                        pool.lower();
                        pool.share(registry)
                    }
                };
            };
            drop(registry);
            binding::bind(pool, grant);
            // The turn was reserved with the grant, unless a guest was at its own; in that case a lease may have taken
            // the slot over in between, and all begins anew.
            if let Some(step) = pool.begin_owned(grant)? {
                return Ok(step);
            }
        }
    }

    /// A section on a slot of somebody else's: round robin over all of them, each in the order of arrival.
    fn share(&self, mut registry: MutexGuard<'_, Registry>) -> Result<Step<Running<'_, T>>> {
        let me = ThreadToken::current();
        let size = self.slots.len() as u32;
        for step in 0..size {
            let slot = (registry.share + step) % size;
            let mut cell = self.slot(slot);
            if matches!(cell.turn, Turn::Taken { by, .. } if by == me) {
                continue; // It would wait for itself.
            }
            registry.share = slot + 1;
            if !cell.is_idle() {
                return Ok(Step::Wait(queue_for_turn(&mut cell, slot, None)));
            }
            let payload = cell.take_turn(me, false);
            let grant = Grant { slot, generation: cell.generation() };
            drop(cell);
            drop(registry);
            return Running::ready(Running::new(self, grant, payload, true));
        }
        drop(registry);
        Err(nested(size - 1))
    }

    /// Blocks until an entry is done, at most until `deadline`.
    pub(crate) fn finish_entry<'a>(
        pool: &'a Arc<Self>,
        mut step: Step<Running<'a, T>>,
        deadline: Deadline,
    ) -> Result<Running<'a, T>> {
        loop {
            let place = match step {
                Step::Done(running) => return Ok(running),
                Step::Wait(place) => place,
            };
            step = match place.waiter.wait(deadline).or_else(|| pool.leave(&place)) {
                Some(outcome) => Self::resume(pool, &place, outcome)?,
                None => return Err(pool.timed_out()),
            };
        }
    }

    /// Goes on after a wait ended.
    pub(super) fn resume<'a>(
        pool: &'a Arc<Self>,
        place: &Place,
        outcome: Outcome,
    ) -> Result<Step<Running<'a, T>>> {
        let grant = match outcome {
            Outcome::Granted(grant) => grant,
            Outcome::Failed(error) => return Err(error),
        };
        match place.queue {
            Queue::Pool => {
                binding::bind(pool, grant);
                match pool.begin_owned(grant)? {
                    Some(step) => Ok(step),
                    None => Self::enter_step(pool),
                }
            }
            Queue::Turn { slot, owner } => pool.begin_passed(slot, owner),
        }
    }

    /// Begins the section whose turn was passed to the caller.
    fn begin_passed(&self, slot: u32, owner: Option<Grant>) -> Result<Step<Running<'_, T>>> {
        let mut cell = self.slot(slot);
        if cell.is_closed() {
            return Err(shut_down());
        }
        debug_assert_eq!(cell.turn, Turn::Passed);
        // While it waited for its turn, a lease may have taken over the slot of a thread: then this is a guest's turn.
        let owned = owner.is_some_and(|grant| cell.is_owned(grant.generation));
        let payload = cell.take_turn(ThreadToken::current(), owned);
        let grant = Grant { slot, generation: cell.generation() };
        drop(cell);
        Running::ready(Running::new(self, grant, payload, !owned))
    }

    // --- Leasing ----------------------------------------------------------------------------------------------

    pub(super) fn lease_step(&self, may_wait: bool) -> Result<Step<Grant>> {
        self.gate.check()?;
        let mut registry = self.registry();
        if registry.closed {
            return Err(shut_down());
        }
        match self.take_or_announce(&mut registry, Want::Lease) {
            Some(grant) => Ok(Step::Done(grant)),
            None if may_wait => Ok(Step::Wait(self.enqueue(&mut registry, Want::Lease))),
            None => {
                self.lower();
                Err(self.exhausted(&registry, "the policy is to refuse"))
            }
        }
    }

    // --- Going away -------------------------------------------------------------------------------------------

    /// Takes a waiter out of its queue. If it is in none any more, how its wait ended: what it was granted is its own.
    pub(super) fn leave(&self, place: &Place) -> Option<Outcome> {
        let is_me = |waiter: &Arc<Waiter>| Arc::ptr_eq(waiter, &place.waiter);
        match place.queue {
            Queue::Pool => {
                let mut registry = self.registry();
                if let Some(position) = registry.queue.iter().position(is_me) {
                    registry.queue.remove(position);
                    self.lower();
                    return None;
                }
            }
            Queue::Turn { slot, .. } => {
                let mut cell = self.slot(slot);
                if let Some(position) = cell.guests.iter().position(is_me) {
                    cell.guests.remove(position);
                    return None;
                }
            }
        }
        place.waiter.outcome()
    }

    /// Leaves the queue, and gives back what was granted in the meantime.
    pub(super) fn abandon(&self, place: &Place) {
        let Some(Outcome::Granted(grant)) = self.leave(place) else {
            return;
        };
        match place.queue {
            Queue::Pool => self.release(grant),
            Queue::Turn { slot, .. } => {
                let mut cell = self.slot(slot);
                if cell.turn != Turn::Passed {
                    return; // The pool closed.
                }
                // Whoever waits for a slot does not wait for this: a turn that was passed keeps nobody from taking it.
                let next = cell.end_turn(slot);
                drop(cell);
                if let Some(next) = next {
                    next.wake();
                }
            }
        }
    }

    /// The error of a wait that ended without a slot.
    pub(super) fn timed_out(&self) -> Error {
        let registry = self.registry();
        self.exhausted(&registry, "the wait for one ended")
    }

    fn exhausted(&self, registry: &Registry, why: &str) -> Error {
        let stats = self.stats_of(registry);
        Error::pool_exhausted(format!(
            "no stream is free and {why}: of the pool's {} streams {} are running and {} are leased, and {} callers wait. \
             Raise the pool's size, wait longer (Policy::Wait), or let threads share streams (Policy::Share)",
            stats.size, stats.running, stats.leased, stats.waiting
        ))
    }
}

fn queue_for_turn<T>(cell: &mut Cell<T>, slot: u32, owner: Option<Grant>) -> Place {
    let waiter = Waiter::new(Want::Bind);
    cell.guests.push_back(waiter.clone());
    Place { waiter, queue: Queue::Turn { slot, owner } }
}

#[cold]
fn nested(slot: u32) -> Error {
    Error::invalid_argument(format!(
        "this thread is already inside a running section of stream {slot}: end that first, or use a lease for the inner work"
    ))
}
