//! When memory may be used again (INV-6), as pure functions: what the shelves do, and what the design model (`verify/`) checks.

use crate::timeline::Ticket;

/// Whether the work under a ticket is done on a stream that came to `completed`.
#[inline]
pub fn is_done(ticket: Ticket, completed: u64) -> bool {
    ticket.number <= completed
}

/// What becomes of a block that is freed, with the tickets of streams other than its home stream that are recorded on it: it is
/// *retired* if one of them is not done, else *cached*: the home stream may have it at once, for whatever that stream does next
/// comes after its own work.
#[inline]
pub fn retires<'t>(
    tickets: impl IntoIterator<Item = &'t Ticket>,
    completed: impl Fn(crate::timeline::StreamId) -> u64,
) -> bool {
    tickets.into_iter().any(|ticket| !is_done(*ticket, completed(ticket.stream)))
}

/// Whether a segment may leave its home stream, for another stream or back to the device: no block of it is live or retired, and the
/// home stream, which came to `completed`, is done with `last_own`, its own last ticket on any of them.
#[inline]
pub fn may_leave(live: u32, retired: u32, last_own: u64, completed: u64) -> bool {
    live == 0 && retired == 0 && last_own <= completed
}

/// Names a block: the `count`-th that a stream handed out, from 1. No two blocks of a device have the same id, and none is 0.
///
/// # Panics
/// If `stream` or `count` is beyond what 64 bits hold: 4,096 streams, and at ten million blocks a second 14 years.
#[inline]
pub fn block_id(stream: u32, count: u64) -> u64 {
    assert!(stream < MAX_STREAMS && count < 1 << COUNT_BITS, "no ids are left for blocks of stream {stream}");
    u64::from(stream) << COUNT_BITS | count
}

/// Bits of a block's id that count; the stream is above them.
const COUNT_BITS: u32 = 52;

/// Streams that ids have room for.
pub const MAX_STREAMS: u32 = 1 << (64 - COUNT_BITS);

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;
    use crate::timeline::{StreamId, Submissions};

    #[test]
    fn ids_of_all_streams_and_counts_differ_and_grow_with_the_count() {
        let last = (1 << COUNT_BITS) - 1;
        let counts = [1, 2, 3, 255, 256, 1 << 16, (1 << 32) - 1, 1 << 32, last - 1, last];
        let mut before = 0;
        let mut values = 0;
        for stream in 0..MAX_STREAMS {
            for count in counts {
                // Strictly growing over all of them: so no two are the same.
                let id = block_id(stream, count);
                assert!(id > before, "stream {stream}, count {count}");
                assert_eq!((id >> COUNT_BITS, id & last), (u64::from(stream), count));
                before = id;
                values += 1;
            }
        }
        println!("id packing: {values} values, every stream with the counts at which a bit changes");
        for (stream, count) in [(MAX_STREAMS, 1), (0, last + 1), (u32::MAX, u64::MAX)] {
            assert!(std::panic::catch_unwind(|| block_id(stream, count)).is_err(), "{stream}, {count}");
        }
    }

    #[test]
    fn a_block_is_cached_exactly_when_every_ticket_is_done() {
        let ticket = |stream, number| {
            let mut submissions = Submissions::new(StreamId(stream));
            (0..number).map(|_| submissions.submit(|_| Ok(())).unwrap()).last().unwrap()
        };
        let mut values = 0;
        for (a, b, done_a, done_b) in
            (0..256_u64).map(|n| (n % 4 + 1, n / 4 % 4 + 1, n / 16 % 4 + 1, n / 64 + 1))
        {
            let tickets = [ticket(0, a), ticket(1, b)];
            let completed = |stream: StreamId| [done_a, done_b][stream.index()];
            assert_eq!(retires(&tickets, completed), a > done_a || b > done_b);
            assert!(!retires(&[], completed));
            for (live, retired) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                assert_eq!(may_leave(live, retired, a, done_a), live + retired == 0 && a <= done_a);
            }
            values += 1;
        }
        println!("reuse rule: {values} values");
    }
}
