//! One slot's state machine, on its fields.

use std::collections::VecDeque;

use super::rule::{self, Owner};
use super::waiter::{Grant, Outcome, Waiter, Wake, Want};
use crate::error::Error;
use crate::sync::{Arc, ThreadToken};

/// A slot: who owns it, who runs on it, and what it carries. Always behind the slot's own mutex, on cache lines of its
/// own.
pub(super) struct Cell<T> {
    /// Names an ownership: with `owner` held, whoever knows this number is the owner (INV-1, INV-3). Changes with the
    /// pool's registry *and* this slot locked; by one, up, with every new owner and on closing. Never goes back.
    generation: u64,

    /// Changes with the pool's registry *and* this slot locked:
    ///
    /// - `Free -> Bound | Leased`, `Bound -> Bound | Leased`: [`Cell::assign`], with a new generation. From `Bound` only
    ///   while the owner is not at its turn ([`Cell::is_takeable`]): a binding is a cache, not a claim.
    /// - `Bound | Leased -> Free`: the owner lets go and nobody waits. (If somebody waits, the slot is assigned to the
    ///   oldest at once: a slot is never free while the queue has anyone, so nobody can barge in.)
    /// - any `-> Closed -> Gone`: [`Cell::close`]; for ever.
    pub(super) owner: Owner,

    /// Changes with this slot locked. The one who is at its turn may run; nobody else may (whatever the policy).
    ///
    /// - `Idle -> Taken`: a section begins, and `payload` moves out with it.
    /// - `Idle -> Reserved`: with the assignment of a binding to a waiter; only that owner can make it `Taken`. Without it,
    ///   somebody else could take the new owner's slot away before it woke up, again and again.
    /// - `Taken -> Idle`: the section ended, and `payload` is back.
    /// - `Idle -> Passed -> Taken`: the oldest of `guests` gets the next turn.
    /// - `Reserved | Passed -> Idle`: the waiter went away instead (or the pool closed).
    pub(super) turn: Turn,

    /// The stream's resources. `None` while the turn is `Taken`, and before the first section.
    pub(super) payload: Option<Box<T>>,

    /// Those who wait for a turn on this very slot (policy `Share` only), oldest first. Not empty only while the
    /// turn is not `Idle`.
    pub(super) guests: VecDeque<Arc<Waiter>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Idle,
    /// The owner's, granted but not yet begun.
    Reserved,
    /// The oldest guest's, granted but not yet begun.
    Passed,
    Taken {
        by: ThreadToken,
        owner: bool,
    },
}

impl Turn {
    /// As the rules see it.
    pub(super) fn kind(self) -> rule::Turn {
        match self {
            Turn::Idle => rule::Turn::Idle,
            Turn::Reserved => rule::Turn::Reserved,
            Turn::Passed => rule::Turn::Passed,
            Turn::Taken { owner: true, .. } => rule::Turn::Owner,
            Turn::Taken { owner: false, .. } => rule::Turn::Guest,
        }
    }
}

impl<T> Cell<T> {
    pub(super) fn new() -> Self {
        Self { generation: 0, owner: Owner::Free, turn: Turn::Idle, payload: None, guests: VecDeque::new() }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether `generation` is the present ownership (INV-3).
    #[inline]
    pub(super) fn is_owned(&self, generation: u64) -> bool {
        self.generation == generation && matches!(self.owner, Owner::Bound | Owner::Leased)
    }

    /// Whether a new owner may have it: nobody owns it, or a thread that runs nothing on it.
    pub(super) fn is_takeable(&self) -> bool {
        rule::is_takeable(self.owner, self.turn.kind())
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.owner, Owner::Closed | Owner::Gone)
    }

    /// Gives the slot to a new owner.
    pub(super) fn assign(&mut self, slot: u32, want: Want) -> Grant {
        debug_assert!(self.is_takeable());
        // Old grants stay old also where the number wraps around.
        self.generation = self.generation.wrapping_add(1);
        let (owner, turn) = rule::assigned(want == Want::Lease, self.turn.kind());
        self.owner = owner;
        if turn == rule::Turn::Reserved {
            self.turn = Turn::Reserved;
        }
        Grant { slot, generation: self.generation }
    }

    /// Whether nobody is at a turn or before the caller in the queue for it.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.turn == Turn::Idle && self.guests.is_empty()
    }

    /// Begins a section.
    #[inline]
    pub(super) fn take_turn(&mut self, by: ThreadToken, owner: bool) -> Option<Box<T>> {
        debug_assert!(!matches!(self.turn, Turn::Taken { .. }), "one section at a time");
        self.turn = Turn::Taken { by, owner };
        self.payload.take()
    }

    /// Ends a turn, whatever it was: the oldest guest is next.
    #[inline]
    pub(super) fn end_turn(&mut self, slot: u32) -> Option<Wake> {
        self.turn = Turn::Idle;
        if self.guests.is_empty() { None } else { self.pass_turn(slot) }
    }

    #[cold]
    fn pass_turn(&mut self, slot: u32) -> Option<Wake> {
        let guest = self.guests.pop_front()?;
        self.turn = Turn::Passed;
        Some(Waiter::settle(guest, Outcome::Granted(Grant { slot, generation: self.generation })))
    }

    /// Refuses everybody from now on, except the section that runs.
    pub(super) fn close(&mut self, refusal: &Error, mut wake: impl FnMut(Wake)) {
        self.generation = self.generation.wrapping_add(1);
        self.owner = Owner::Closed;
        if matches!(self.turn, Turn::Reserved | Turn::Passed) {
            self.turn = Turn::Idle;
        }
        for guest in self.guests.drain(..) {
            wake(Waiter::settle(guest, Outcome::Failed(refusal.clone())));
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn an_old_grant_is_no_owner_also_where_generations_wrap_around() {
        let mut cell: Cell<()> = Cell::new();
        cell.generation = u64::MAX - 100;
        let mut grants: Vec<Grant> = Vec::new();
        for owner in 0..200 {
            let want = if owner % 2 == 0 { Want::Lease } else { Want::Bind };
            let grant = cell.assign(0, want);
            assert!(cell.is_owned(grant.generation));
            for old in &grants {
                assert!(!cell.is_owned(old.generation), "{old:?} after {owner} owners");
            }
            grants.push(grant);
            cell.end_turn(0);
            cell.owner = Owner::Free;
            assert!(!cell.is_owned(grant.generation), "nobody owns a free slot");
        }
        println!("generation wrap-around: {} values, each against all before it", grants.len());
    }
}
