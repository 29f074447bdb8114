//! Blocks: the memory of a tensor or an arena.

use super::rule;
use super::shelf::{Shelf, Taken, Tickets};
use crate::driver::{ALIGNMENT, Slice};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use crate::timeline::{StreamId, Ticket};

/// A piece of device memory; returned to its home stream's cache when dropped, by whichever thread.
///
/// `Send + Sync`: hand it over, share it behind an `Arc`, drop it anywhere. Its bytes are reused only when every
/// ticket that was [recorded](Block::record) on it is done or belongs to the stream that reuses it (INV-6).
pub struct Block {
    id: u64,
    address: u64,
    bytes: usize,
    capacity: usize,
    /// None for a block of no bytes.
    place: Option<Place>,
    home: Arc<Shelf>,
    /// The last ticket of the home stream. Written by that stream's user alone.
    own: AtomicU64,
    /// The last ticket of each other stream that used it, unless known to be done then.
    others: Mutex<Tickets>,
}

/// Where in the home shelf it lies.
struct Place {
    key: u32,
    index: u32,
}

impl Block {
    pub(crate) fn new(home: Arc<Shelf>, taken: &Taken, bytes: usize) -> Self {
        debug_assert!(bytes > 0 && bytes <= taken.capacity);
        Self {
            id: taken.id,
            address: taken.address,
            bytes,
            capacity: taken.capacity,
            place: Some(Place { key: taken.key, index: taken.index }),
            home,
            own: AtomicU64::new(0),
            others: Mutex::new(Tickets::new()),
        }
    }

    /// A block of no bytes: it has an id, but no memory.
    pub(crate) fn empty(home: Arc<Shelf>, id: u64) -> Self {
        Self {
            id,
            address: ALIGNMENT as u64,
            bytes: 0,
            capacity: 0,
            place: None,
            home,
            own: AtomicU64::new(0),
            others: Mutex::new(Tickets::new()),
        }
    }

    /// Unique among all blocks that this device ever handed out.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The device address of the first byte, aligned to [`ALIGNMENT`].
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes that were asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that it takes: at least [`Block::bytes`]; see the module's text for the waste.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The stream whose cache it came from and returns to. Work of this stream needs no ticket kept.
    pub fn home(&self) -> StreamId {
        self.home.stream()
    }

    /// All of it, to bind to a launch.
    pub fn slice(&self) -> Slice<'_> {
        Slice::of_block(self)
    }

    /// Notes that the work under `ticket` touches this block. To be called with every ticket, by the stream's user before it lets go
    /// of the stream; else the block may be reused under running work.
    ///
    /// On the home stream that is the store of a number. On another stream nothing is kept of work that is done already, and
    /// one number a stream otherwise.
    pub fn record(&self, ticket: Ticket) {
        if ticket.stream == self.home.stream() {
            // One stream has one user at a time, who sees its predecessor's store; so no read-modify-write is needed.
            if ticket.number > self.own.load(Ordering::Relaxed) {
                self.own.store(ticket.number, Ordering::Relaxed);
            }
            return;
        }
        if self.place.is_none() || rule::is_done(ticket, self.home.source().completed(ticket.stream)) {
            return;
        }
        let mut others = self.others.lock();
        match others.iter_mut().find(|t| t.stream == ticket.stream) {
            Some(known) => known.number = known.number.max(ticket.number),
            None => others.push(ticket),
        }
    }

    /// How many tickets of other streams are kept. For tests and statistics.
    pub fn tickets_kept(&self) -> usize {
        self.others.lock().len()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(place) = &self.place else { return };
        let source = self.home.source();
        if source.abandoned() {
            // INV-10, INV-11: no lock and no free; the shelf's count stays up, so that the segment is never dropped either.
            std::mem::forget(self.home.clone());
            return;
        }
        let mut tickets = std::mem::take(self.others.get_mut());
        // The device is asked before the shelf is locked. INV-6: what is not done now retires the block.
        tickets.retain(|t| rule::retires([&*t], |stream| source.completed(stream)));
        let own = self.own.load(Ordering::Relaxed);
        self.home.bins().put(place.key, place.index, own, tickets);
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block {{ id: {:#x}, address: {:#x}, bytes: {} }}", self.id, self.address, self.bytes)
    }
}
