//! Who may have a slot, as pure functions: what the pool does, and what the design model (`verify/`) checks.

/// Who owns a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Nobody. The slot is in the registry's free list, or is slot 0.
    Free,
    /// A thread that used it last. A waiter may take it while the thread runs nothing.
    Bound,
    /// A [`StreamLease`](crate::lease::StreamLease).
    Leased,
    /// The pool is closed; the payload of the last section waits to be collected.
    Closed,
    /// The pool is gone; the payload of the last section is dropped at the section's end.
    Gone,
}

/// Whose turn it is to run on a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// Nobody's.
    Idle,
    /// The owner's, granted but not yet begun.
    Reserved,
    /// The oldest guest's, granted but not yet begun.
    Passed,
    /// The owner's; it runs.
    Owner,
    /// A guest's; it runs.
    Guest,
}

/// Whether a new owner may have the slot: nobody owns it, or a thread that runs nothing on it. (A binding is a cache, not a claim.)
#[inline]
pub fn is_takeable(owner: Owner, turn: Turn) -> bool {
    match owner {
        Owner::Free => true,
        Owner::Bound => !matches!(turn, Turn::Reserved | Turn::Owner),
        Owner::Leased | Owner::Closed | Owner::Gone => false,
    }
}

/// A takeable slot with its new owner. With a binding comes the next turn, if nobody is at one: without it, somebody else could take the
/// slot away before the new owner woke up, again and again.
#[inline]
pub fn assigned(lease: bool, turn: Turn) -> (Owner, Turn) {
    match (lease, turn) {
        (true, turn) => (Owner::Leased, turn),
        (false, Turn::Idle) => (Owner::Bound, Turn::Reserved),
        (false, turn) => (Owner::Bound, turn),
    }
}

/// Whether the end of a section gives the slot to the oldest waiter, if there is one. (A free slot is handed over by whoever frees it.)
#[inline]
pub fn is_handed_over(owner: Owner, turn: Turn) -> bool {
    owner == Owner::Bound && is_takeable(owner, turn)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    const OWNERS: [Owner; 5] = [Owner::Free, Owner::Bound, Owner::Leased, Owner::Closed, Owner::Gone];
    const TURNS: [Turn; 5] = [Turn::Idle, Turn::Reserved, Turn::Passed, Turn::Owner, Turn::Guest];

    #[test]
    fn whoever_runs_or_was_granted_a_turn_or_leases_keeps_the_slot() {
        let mut values = 0;
        for owner in OWNERS {
            for turn in TURNS {
                let takeable = is_takeable(owner, turn);
                let claimed = owner == Owner::Leased
                    || matches!(owner, Owner::Closed | Owner::Gone)
                    || owner == Owner::Bound && matches!(turn, Turn::Owner | Turn::Reserved);
                assert_eq!(takeable, !claimed, "{owner:?} {turn:?}");
                assert!(!is_handed_over(owner, turn) || takeable);
                if takeable {
                    for lease in [false, true] {
                        let (owner, after) = assigned(lease, turn);
                        assert!(!is_takeable(owner, after) || !lease && turn != Turn::Idle, "taken twice");
                        assert!(turn == Turn::Idle || after == turn, "a guest's turn is not taken away");
                    }
                }
                values += 1;
            }
        }
        println!("slot rules: {values} values, every owner with every turn");
    }
}
