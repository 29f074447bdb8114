//! Every history of a buffer in small bounds, against an oracle that knows nothing of hazards but their definition.

use super::*;

const STREAMS: u32 = 3;
const LENGTH: u32 = 5;

/// One submitted operation on the buffer.
#[derive(Clone, Copy)]
struct Op {
    ticket: Ticket,
    access: Access,
}

/// Operations in the order of submission; `after[i]` are the operations that are ordered before operation i, by streams and by waits.
#[derive(Default)]
struct History {
    ops: Vec<Op>,
    after: Vec<Vec<bool>>,
}

impl History {
    /// Which earlier operations come before an operation on `stream` that waits for `waits`: the closure of the two rules,
    /// that a stream runs in order and that a wait waits.
    fn ordered_before(&self, stream: StreamId, waits: &[Ticket]) -> Vec<bool> {
        let mut before = vec![false; self.ops.len()];
        for (i, op) in self.ops.iter().enumerate() {
            let waited = waits.iter().any(|w| w.stream == op.ticket.stream && op.ticket.number <= w.number);
            if op.ticket.stream == stream || waited {
                before[i] = true;
                for (j, earlier) in self.after[i].iter().enumerate() {
                    before[j] |= earlier;
                }
            }
        }
        before
    }

    fn conflicts(&self, i: usize, access: Access) -> bool {
        access == Access::Write || self.ops[i].access == Access::Write
    }

    /// Whether all earlier operations that conflict with this one are before it or done.
    fn is_safe(&self, access: Access, before: &[bool], done: &VectorClock) -> bool {
        (0..self.ops.len())
            .all(|i| !self.conflicts(i, access) || before[i] || done.covers(self.ops[i].ticket))
    }

    /// Every set of finished operations that can be observed: with an operation, all that it came after.
    fn observable(&self) -> Vec<VectorClock> {
        let counts: Vec<u64> = (0..STREAMS)
            .map(|s| self.ops.iter().filter(|op| op.ticket.stream == StreamId(s)).count() as u64)
            .collect();
        let mut clocks = Vec::new();
        for a in 0..=counts[0] {
            for b in 0..=counts[1] {
                for c in 0..=counts[2] {
                    let mut clock = VectorClock::new();
                    for (s, n) in (0..).zip([a, b, c]) {
                        clock.advance(StreamId(s), n);
                    }
                    let closed = (0..self.ops.len())
                        .filter(|i| clock.covers(self.ops[*i].ticket))
                        .all(|i| (0..i).all(|j| !self.after[i][j] || clock.covers(self.ops[j].ticket)));
                    if closed {
                        clocks.push(clock);
                    }
                }
            }
        }
        clocks
    }
}

fn each_history(mut check: impl FnMut(&History, &Hazards, &[VectorClock])) -> usize {
    let kinds = STREAMS * 2;
    let mut histories = 0;
    for code in 0..kinds.pow(LENGTH) {
        let mut code = code;
        let mut history = History::default();
        let mut hazards = Hazards::new();
        // What the operations of each stream already wait for.
        let mut ordered = vec![VectorClock::new(); STREAMS as usize];
        for _ in 0..LENGTH {
            let stream = StreamId(code % STREAMS);
            let access = if (code / STREAMS).is_multiple_of(2) { Access::Read } else { Access::Write };
            code /= kinds;
            let mut waits = Waits::new();
            hazards.collect(access, stream, &ordered[stream.index()], &mut waits).unwrap();
            let number = 1 + history.ops.iter().filter(|op| op.ticket.stream == stream).count() as u64;
            let ticket = Ticket { stream, number };
            let before = history.ordered_before(stream, waits.as_slice());
            for wait in &waits {
                ordered[stream.index()].observe(*wait);
            }
            hazards.record(access, ticket);
            history.after.push(before);
            history.ops.push(Op { ticket, access });
        }
        check(&history, &hazards, &ordered);
        histories += 1;
    }
    histories
}

#[test]
fn waits_order_every_conflict_and_none_is_superfluous() {
    let mut asked = 0usize;
    let histories = each_history(|history, hazards, ordered| {
        for done in history.observable() {
            for stream in (0..STREAMS).map(StreamId) {
                let mut known = ordered[stream.index()].clone();
                known.join(&done);
                for access in [Access::Read, Access::Write] {
                    let mut waits = Waits::new();
                    hazards.collect(access, stream, &known, &mut waits).unwrap();
                    let safe = |waits: &[Ticket]| {
                        // What earlier operations of the stream wait for is in the history already.
                        history.is_safe(access, &history.ordered_before(stream, waits), &done)
                    };
                    assert!(safe(waits.as_slice()), "INV-5");
                    for dropped in 0..waits.as_slice().len() {
                        let mut fewer = waits.as_slice().to_vec();
                        fewer.remove(dropped);
                        assert!(!safe(&fewer), "superfluous wait");
                    }
                    asked += 1;
                }
            }
        }
    });
    println!("{histories} histories, {asked} questions");
}

#[test]
fn a_block_is_reused_exactly_when_all_its_work_is_before_the_reuse() {
    each_history(|history, hazards, _| {
        for done in history.observable() {
            for stream in (0..STREAMS).map(StreamId) {
                // All operations, not only conflicting ones, must be done or on the stream or before something there.
                let before = history.ordered_before(stream, &[]);
                let safe = (0..history.ops.len()).all(|i| before[i] || done.covers(history.ops[i].ticket));
                let reusable = hazards.is_reusable_on(stream, &done);
                assert!(!reusable || safe, "INV-6: reuse is early");
                if !reusable {
                    let mine = |t: &Ticket| t.stream == stream;
                    assert!(hazards.pending(&done).into_iter().any(|t| !mine(t)), "refused without a reason");
                }
            }
        }
    });
}

#[test]
fn pruning_changes_no_answer_but_drops_what_is_done() {
    each_history(|history, hazards, _| {
        for done in history.observable() {
            let mut pruned = hazards.clone();
            pruned.prune(&done);
            for stream in (0..STREAMS).map(StreamId) {
                for access in [Access::Read, Access::Write] {
                    let (mut full, mut less) = (Waits::new(), Waits::new());
                    hazards.collect(access, stream, &done, &mut full).unwrap();
                    pruned.collect(access, stream, &done, &mut less).unwrap();
                    assert_eq!(full, less);
                }
                assert_eq!(hazards.is_reusable_on(stream, &done), pruned.is_reusable_on(stream, &done));
            }
            // A read that is done came after the write.
            let read_since = hazards.recorded().any(|(access, t)| access == Access::Read && done.covers(t));
            let kept = hazards
                .recorded()
                .filter(|(access, t)| !done.covers(*t) && (!read_since || *access == Access::Read));
            assert_eq!(pruned.recorded().collect::<Vec<_>>(), kept.collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_read_that_is_done_says_that_the_write_before_it_is_also_to_who_has_not_heard_of_the_write() {
    let mut hazards = Hazards::new();
    let write = Ticket { stream: StreamId(0), number: 1 };
    let reads = [1, 2].map(|stream| Ticket { stream: StreamId(stream), number: 1 });
    hazards.record(Access::Write, write);
    reads.iter().for_each(|read| hazards.record(Access::Read, *read));
    let mut done = VectorClock::new();
    hazards.prune(&done);
    assert_eq!(hazards.recorded().count(), 3);
    // Looked at stream 0 before the write was done, and at stream 1 after the read was.
    done.observe(reads[0]);
    hazards.prune(&done);
    assert_eq!(hazards.recorded().collect::<Vec<_>>(), [(Access::Read, reads[1])]);
}

#[test]
fn a_frozen_buffer_is_read_freely_and_never_written() {
    let mut hazards = Hazards::new();
    let write = Ticket { stream: StreamId(1), number: 4 };
    hazards.record(Access::Write, write);
    assert_eq!(hazards.recorded().collect::<Vec<_>>(), [(Access::Write, write)]);
    let mut done = VectorClock::new();
    assert_eq!(hazards.freeze(&done).unwrap_err().as_slice(), [write]);
    assert!(!hazards.is_reusable_on(StreamId(0), &done), "a refused freeze changes nothing");
    done.observe(write);
    hazards.freeze(&done).unwrap();
    let mut waits = Waits::new();
    hazards.collect(Access::Read, StreamId(0), &VectorClock::new(), &mut waits).unwrap();
    assert!(waits.is_empty() && hazards.pending(&VectorClock::new()).is_empty());
    hazards.record(Access::Read, Ticket { stream: StreamId(0), number: 1 });
    assert_eq!(hazards, Hazards::Frozen);
    let refused = hazards.collect(Access::Write, StreamId(0), &done, &mut waits).unwrap_err();
    assert!(refused.is_invalid_argument());
}

#[test]
fn of_two_tickets_of_a_stream_the_newer_is_waited_for() {
    let mut waits = Waits::new();
    for (stream, number) in [(0, 2), (1, 1), (0, 5), (0, 3)] {
        waits.insert(Ticket { stream: StreamId(stream), number });
    }
    assert!(!waits.is_empty());
    let mut none = waits.clone();
    none.clear();
    assert!(none.is_empty());
    let numbers: Vec<_> = waits.into_iter().map(|t| (t.stream.0, t.number)).collect();
    assert_eq!(numbers, [(0, 5), (1, 1)]);
}
