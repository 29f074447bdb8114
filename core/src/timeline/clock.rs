//! Vector clocks: what is known to be done, a number per stream (Fidge 1988, Mattern 1989).

use super::{StreamId, Ticket};

/// What somebody knows to be done: for each stream, all submissions up to a number.
///
/// Knowledge only grows, and joining is associative, commutative and idempotent, so it may be passed on in any order.
/// Streams never mentioned are at 0; memory is one number per stream up to the highest mentioned.
#[derive(Clone, Debug, Default)]
pub struct VectorClock {
    done: Vec<u64>,
}

impl VectorClock {
    /// Knows nothing.
    pub const fn new() -> Self {
        Self { done: Vec::new() }
    }

    /// The last submission of `stream` known to be done; 0 if none is.
    #[inline]
    pub fn done(&self, stream: StreamId) -> u64 {
        self.done.get(stream.index()).copied().unwrap_or(0)
    }

    /// Whether the ticket's work is known to be done.
    #[inline]
    pub fn covers(&self, ticket: Ticket) -> bool {
        ticket.number <= self.done(ticket.stream)
    }

    /// Learns that all of `stream` up to `number` is done. Older news changes nothing.
    pub fn advance(&mut self, stream: StreamId, number: u64) {
        if number == 0 {
            return;
        }
        if self.done.len() <= stream.index() {
            self.done.resize(stream.index() + 1, 0);
        }
        let done = &mut self.done[stream.index()];
        *done = number.max(*done);
    }

    /// Learns that a ticket's work is done.
    pub fn observe(&mut self, ticket: Ticket) {
        self.advance(ticket.stream, ticket.number);
    }

    /// Learns all that `other` knows.
    pub fn join(&mut self, other: &VectorClock) {
        self.done.resize(self.done.len().max(other.done.len()), 0);
        for (mine, theirs) in self.done.iter_mut().zip(&other.done) {
            *mine = (*theirs).max(*mine);
        }
    }

    /// Whether `other` knows everything that this clock knows.
    pub fn is_within(&self, other: &VectorClock) -> bool {
        (0..).zip(&self.done).all(|(stream, done)| *done <= other.done(StreamId(stream)))
    }
}

/// Equal knowledge, however many streams were mentioned.
impl PartialEq for VectorClock {
    fn eq(&self, other: &Self) -> bool {
        self.is_within(other) && other.is_within(self)
    }
}

impl Eq for VectorClock {}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// Every clock of 3 streams with numbers 0 to 2, made with and without mentioning the streams at 0.
    fn all() -> Vec<VectorClock> {
        let mut clocks = Vec::new();
        for n in 0..27u64 {
            let numbers = [n % 3, n / 3 % 3, n / 9];
            let mut clock = VectorClock::new();
            for (stream, number) in (0..).zip(numbers) {
                clock.advance(StreamId(stream), number);
            }
            clocks.push(clock);
            clocks.push(VectorClock { done: numbers.to_vec() });
        }
        clocks
    }

    fn joined(a: &VectorClock, b: &VectorClock) -> VectorClock {
        let mut join = a.clone();
        join.join(b);
        join
    }

    fn tickets() -> impl Iterator<Item = Ticket> {
        (0..4).flat_map(|stream| (1..4).map(move |number| Ticket { stream: StreamId(stream), number }))
    }

    #[test]
    fn join_is_the_least_upper_bound() {
        let clocks = all();
        for a in &clocks {
            assert_eq!(joined(a, a), *a);
            for b in &clocks {
                let join = joined(a, b);
                assert_eq!(join, joined(b, a));
                assert!(a.is_within(&join) && b.is_within(&join));
                for ticket in tickets() {
                    assert_eq!(join.covers(ticket), a.covers(ticket) || b.covers(ticket));
                }
                for c in clocks.iter().step_by(5) {
                    assert_eq!(joined(&join, c), joined(a, &joined(b, c)));
                    if a.is_within(c) && b.is_within(c) {
                        assert!(join.is_within(c), "no smaller bound");
                    }
                }
            }
        }
    }

    #[test]
    fn a_clock_is_within_another_that_covers_all_that_it_covers_and_equal_if_both_do() {
        for a in all() {
            for b in all() {
                let within =
                    |a: &VectorClock, b: &VectorClock| tickets().all(|t| !a.covers(t) || b.covers(t));
                assert_eq!(a.is_within(&b), within(&a, &b), "{a:?} {b:?}");
                assert_eq!(a == b, within(&a, &b) && within(&b, &a), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn observing_a_ticket_covers_it_and_all_before_it_and_nothing_else() {
        for clock in all() {
            for ticket in tickets() {
                let mut after = clock.clone();
                after.observe(ticket);
                for other in tickets() {
                    let implied = other.stream == ticket.stream && other.number <= ticket.number;
                    assert_eq!(after.covers(other), clock.covers(other) || implied);
                }
                assert!(clock.is_within(&after));
            }
        }
    }
}
