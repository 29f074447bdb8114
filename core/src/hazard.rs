//! Hazards: what an operation must wait for so that threads need no synchronisation of their own (INV-5, INV-6).
//!
//! A buffer remembers the ticket of its last write and those of the reads since ([`Hazards`]). From these, and from
//! what is known, [`Hazards::collect`] says what an operation on it must wait for: a read waits for the last write, a
//! write waits for the last write and all reads since. These are the three data hazards of pipelined processors (read
//! after write, write after read, write after write; Hennessy and Patterson, *Computer Architecture*, appendix C),
//! with streams in the place of pipeline stages.
//!
//! The answer is *minimal*: a ticket is left out if it is of the operation's own stream (which runs in order, INV-4),
//! known to be done, or implied by another ticket in the answer (an older one of the same stream; the last
//! write, once it was read: the read waited for it).
//!
//! Frozen buffers (weights after load) are tracked by nobody: [`Hazards::Frozen`].
//!
//! Everything here is a value without locks. The buffer's owner guards it.

use smallvec::SmallVec;

use crate::error::{Error, Result};
use crate::timeline::{StreamId, Ticket, VectorClock};

/// What an operation does to a buffer. One that reads and writes it writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Leaves the bytes as they are.
    Read,
    /// Changes the bytes.
    Write,
}

/// Tickets to wait for, at most one per stream: waiting for one means waiting for all before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    tickets: SmallVec<[Ticket; 4]>,
}

impl Waits {
    /// Nothing to wait for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a ticket; of two of the same stream the newer stays.
    pub fn insert(&mut self, ticket: Ticket) {
        match self.tickets.iter_mut().find(|t| t.stream == ticket.stream) {
            Some(present) => present.number = present.number.max(ticket.number),
            None => self.tickets.push(ticket),
        }
    }

    /// The tickets, in no particular order.
    pub fn as_slice(&self) -> &[Ticket] {
        &self.tickets
    }

    /// Whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Forgets all, keeping the memory.
    pub fn clear(&mut self) {
        self.tickets.clear();
    }
}

impl<'a> IntoIterator for &'a Waits {
    type Item = &'a Ticket;
    type IntoIter = std::slice::Iter<'a, Ticket>;
    fn into_iter(self) -> Self::IntoIter {
        self.tickets.iter()
    }
}

/// What a buffer remembers of the submitted work that touches it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hazards {
    /// Never written again: anybody reads it at any time, and nothing is recorded.
    Frozen,
    /// May be written.
    Tracked(Tracked),
}

/// The last write of a buffer and the reads since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tracked {
    write: Option<Ticket>,
    /// At most one per stream, the newest; all submitted after `write`.
    reads: SmallVec<[Ticket; 2]>,
}

impl Default for Hazards {
    fn default() -> Self {
        Self::new()
    }
}

impl Hazards {
    /// Of a buffer that no submitted work touches.
    pub fn new() -> Self {
        Self::Tracked(Tracked::default())
    }

    /// Adds to `into` what an operation of stream `on` with this access must wait for (INV-5).
    ///
    /// `known` covers what is done, and may also cover what earlier operations of stream `on` already wait for on the
    /// device: what comes later on that stream is ordered after it without waiting again.
    ///
    /// # Errors
    /// `is_invalid_argument` for a write to a frozen buffer.
    pub fn collect(&self, access: Access, on: StreamId, known: &VectorClock, into: &mut Waits) -> Result<()> {
        let tracked = match (self, access) {
            (Self::Tracked(tracked), _) => tracked,
            (Self::Frozen, Access::Read) => return Ok(()),
            (Self::Frozen, Access::Write) => {
                return Err(Error::invalid_argument(
                    "a frozen buffer (a model's weight) cannot be written: copy it into a tensor first",
                ));
            }
        };
        for ticket in tracked.before(access) {
            if ticket.stream != on && !known.covers(*ticket) {
                into.insert(*ticket);
            }
        }
        Ok(())
    }

    /// Remembers that the work of `ticket` accesses the buffer. It waited for what [`Hazards::collect`] said.
    pub fn record(&mut self, access: Access, ticket: Ticket) {
        let Self::Tracked(tracked) = self else {
            debug_assert_eq!(access, Access::Read, "collect refused the write");
            return;
        };
        match access {
            Access::Write => {
                tracked.write = Some(ticket);
                tracked.reads.clear();
            }
            Access::Read => match tracked.reads.iter_mut().find(|read| read.stream == ticket.stream) {
                Some(read) => read.number = read.number.max(ticket.number),
                None => tracked.reads.push(ticket),
            },
        }
    }

    /// All that is remembered, in an order in which it may be [recorded](Hazards::record) again.
    pub fn recorded(&self) -> impl Iterator<Item = (Access, Ticket)> {
        let tracked = match self {
            Self::Frozen => None,
            Self::Tracked(tracked) => Some(tracked),
        };
        let write = tracked.and_then(|t| t.write).map(|ticket| (Access::Write, ticket));
        let reads = tracked.into_iter().flat_map(|t| &t.reads).map(|ticket| (Access::Read, *ticket));
        write.into_iter().chain(reads)
    }

    /// The tickets that must be done before the buffer's memory may be used for something else anywhere: what a write
    /// would wait for. None for a frozen buffer; its owner counts who uses it.
    pub fn pending(&self, known: &VectorClock) -> Waits {
        let mut waits = Waits::new();
        if let Self::Tracked(tracked) = self {
            tracked.before(Access::Write).filter(|t| !known.covers(**t)).for_each(|t| waits.insert(*t));
        }
        waits
    }

    /// Whether the buffer's memory may be given to `stream` now: every ticket on it is done or is on that stream
    /// (INV-6). `known` as in [`Hazards::collect`], for that stream.
    pub fn is_reusable_on(&self, stream: StreamId, known: &VectorClock) -> bool {
        match self {
            Self::Frozen => true,
            Self::Tracked(tracked) => {
                tracked.before(Access::Write).all(|t| t.stream == stream || known.covers(*t))
            }
        }
    }

    /// Forgets tickets that are known to be done *everywhere* (`done` must not cover what merely waits on some device).
    pub fn prune(&mut self, done: &VectorClock) {
        if let Self::Tracked(tracked) = self {
            let reads = tracked.reads.len();
            tracked.reads.retain(|read| !done.covers(*read));
            // A read that is done waited for the write, whether or not `done` knows of the write itself.
            let read_since = tracked.reads.len() < reads;
            if read_since || tracked.write.is_some_and(|write| done.covers(write)) {
                tracked.write = None;
            }
        }
    }

    /// Freezes the buffer.
    ///
    /// # Errors
    /// What still writes it and is not known to be done: wait for that first. Then the buffer is as it was.
    pub fn freeze(&mut self, done: &VectorClock) -> std::result::Result<(), Waits> {
        if let Self::Tracked(Tracked { write: Some(write), .. }) = self
            && !done.covers(*write)
        {
            let mut waits = Waits::new();
            waits.insert(*write);
            return Err(waits);
        }
        *self = Self::Frozen;
        Ok(())
    }
}

impl Tracked {
    /// What an access of this kind comes after. The last write is implied by any read since.
    fn before(&self, access: Access) -> impl Iterator<Item = &Ticket> {
        let reads: &[Ticket] = if access == Access::Write { &self.reads } else { &[] };
        let write = self.write.as_ref().filter(|_| reads.is_empty());
        write.into_iter().chain(reads)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
#[path = "hazard_tests.rs"]
mod tests;
