//! Shelves: a stream's blocks, live and not, behind the stream's own lock.
//!
//! # Why a lock, and why it costs nothing
//! A warm allocation and a free by the stream's user take this lock and no other; nobody else asks for it but a thread that frees
//! a block of this stream, one that found its own shelf, the finished frees *and* nothing to reclaim elsewhere, and one that reads
//! statistics. So it stays on the lines of the core that runs the stream. It is held for a few instructions, never across a call
//! of the device. A thread holds at most one shelf's lock, except [`super::MemoryPool::stats`] and `check`, which take all in order.

use std::collections::{BTreeSet, VecDeque};

use smallvec::SmallVec;

use super::budget::Budget;
use super::class::{Class, SMALL_CLASSES, fits};
use super::rule;
use super::slab::Slab;
use super::source::Source;
use super::stats::StreamMemoryStats;
use crate::sync::{Mutex, MutexGuard};
use crate::timeline::{StreamId, Ticket};

/// Tickets of streams other than the home stream.
pub(crate) type Tickets = SmallVec<[Ticket; 1]>;

/// Retired blocks that one look at the oldest of them inspects. Work ends about in the order of frees, so more is seldom
/// found further behind, and a stream with thousands of frees in flight must not walk all of them on each miss.
const SWEEP: usize = 64;

/// What a stream has of the device's memory. On cache lines (and pairs of them, which are fetched together) of its own.
#[repr(align(128))]
pub(crate) struct Shelf {
    stream: StreamId,
    source: std::sync::Arc<dyn Source>,
    bins: Mutex<Bins>,
}

/// A block just handed out.
pub(crate) struct Taken {
    pub(crate) id: u64,
    pub(crate) address: u64,
    pub(crate) capacity: usize,
    pub(crate) key: u32,
    pub(crate) index: u32,
}

/// A freed block that other streams still use.
struct Retired {
    key: u32,
    index: u32,
    tickets: Tickets,
}

/// What a shelf holds; only under its lock.
pub(crate) struct Bins {
    stream: StreamId,
    slabs: Vec<Option<Slab>>,
    vacant: Vec<u32>,
    /// By small class: slabs with a cached block; the last is used first.
    small: [Vec<u32>; SMALL_CLASSES],
    /// Cached large blocks by capacity.
    large: BTreeSet<(usize, u32)>,
    /// Oldest first.
    retired: VecDeque<Retired>,
    /// Blocks of each small class on this shelf: decides how large its next slab is.
    blocks: [u32; SMALL_CLASSES],
    pub(crate) stats: StreamMemoryStats,
}

impl Shelf {
    pub(crate) fn new(stream: StreamId, source: std::sync::Arc<dyn Source>) -> Self {
        let bins = Bins {
            stream,
            slabs: Vec::new(),
            vacant: Vec::new(),
            small: std::array::from_fn(|_| Vec::new()),
            large: BTreeSet::new(),
            retired: VecDeque::new(),
            blocks: [0; SMALL_CLASSES],
            stats: StreamMemoryStats::default(),
        };
        Self { stream, source, bins: Mutex::new(bins) }
    }

    pub(crate) fn stream(&self) -> StreamId {
        self.stream
    }

    pub(crate) fn source(&self) -> &dyn Source {
        &*self.source
    }

    pub(crate) fn bins(&self) -> MutexGuard<'_, Bins> {
        self.bins.lock()
    }

    /// The bins unless somebody has them just now.
    pub(crate) fn try_bins(&self) -> Option<MutexGuard<'_, Bins>> {
        self.bins.try_lock()
    }

    /// Makes retired blocks whose tickets are done available again: `all`, or the oldest few.
    pub(crate) fn sweep(&self, all: bool) {
        let reach = if all { usize::MAX } else { SWEEP };
        // Ask the device between two holds of the lock. Blocks that retire in between name streams that were not asked about,
        // or tickets above the answer: they stay.
        let mut known: SmallVec<[(StreamId, u64); 8]> = SmallVec::new();
        for retired in self.bins().retired.iter().take(reach) {
            for ticket in &retired.tickets {
                if !known.iter().any(|k| k.0 == ticket.stream) {
                    known.push((ticket.stream, 0));
                }
            }
        }
        if known.is_empty() {
            return;
        }
        for (stream, completed) in &mut known {
            *completed = self.source.completed(*stream);
        }
        self.bins().finish(reach, |ticket| {
            known
                .iter()
                .any(|&(stream, completed)| stream == ticket.stream && rule::is_done(*ticket, completed))
        });
    }

    /// Takes one idle slab that serves `class` off this shelf; `wait` for its lock or let it be.
    pub(crate) fn give(&self, class: Class, wait: bool, budget: &Budget) -> Option<Slab> {
        let completed = self.source.completed(self.stream);
        let mut bins = if wait { self.bins() } else { self.try_bins()? };
        let key = bins.idle_for(class, completed)?;
        let slab = bins.remove(key);
        budget.depart(slab.bytes());
        Some(slab)
    }

    /// Takes idle slabs off this shelf, the largest first, until they have at least `bytes`, or all of them.
    pub(crate) fn strip(&self, bytes: usize, budget: &Budget) -> Vec<Slab> {
        let completed = self.source.completed(self.stream);
        let mut bins = self.bins();
        let mut idle: Vec<(usize, u32)> =
            bins.slabs().filter(|(_, s)| s.is_idle(completed)).map(by_size).collect();
        idle.sort_unstable_by(|a, b| b.cmp(a));
        let mut got = 0;
        let mut slabs = Vec::new();
        for (size, key) in idle {
            if got >= bytes {
                break;
            }
            got += size;
            slabs.push(bins.remove(key));
            budget.depart(size);
        }
        slabs
    }
}

fn by_size((key, slab): (u32, &Slab)) -> (usize, u32) {
    (slab.bytes(), key)
}

impl Drop for Shelf {
    /// The last block, cache and pool are gone: no block is live. Segments that work may still touch (the device was let go without
    /// a drain), and all of them in a process that must not touch the device, are leaked: INV-10, INV-11.
    fn drop(&mut self) {
        let abandoned = self.source.abandoned();
        if !abandoned {
            self.sweep(true);
        }
        let completed = if abandoned { 0 } else { self.source.completed(self.stream) };
        let bins = self.bins.get_mut();
        for slab in bins.slabs.drain(..).flatten() {
            if abandoned || !slab.is_idle(completed) {
                slab.leak();
            }
        }
    }
}

impl Bins {
    fn slabs(&self) -> impl Iterator<Item = (u32, &Slab)> {
        self.slabs.iter().enumerate().filter_map(|(key, slab)| Some((key as u32, slab.as_ref()?)))
    }

    fn slab(&mut self, key: u32) -> &mut Slab {
        self.slabs[key as usize].as_mut().expect("a block's slab stays on the shelf while the block is live")
    }

    /// The id of the next block of this stream; no other stream's block ever has it.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.stats.allocations += 1;
        rule::block_id(self.stream.0, self.stats.allocations)
    }

    /// A cached block for `class`, from this shelf alone.
    pub(crate) fn take(&mut self, class: Class) -> Option<Taken> {
        let key = match class.small {
            Some(small) => *self.small[small].last()?,
            None => {
                let &(capacity, key) = self.large.range((class.capacity, 0)..).next()?;
                if !fits(capacity, class.capacity) {
                    return None;
                }
                key
            }
        };
        Some(self.take_from(key))
    }

    fn take_from(&mut self, key: u32) -> Taken {
        let slab = self.slab(key);
        let (index, address) = slab.take().expect("listed slabs have a cached block");
        let (class, empty) = (slab.class(), slab.cached() == 0);
        match class.small {
            Some(small) if empty => {
                // It is the last but right after `insert` of another; look from the end.
                let list = &mut self.small[small];
                let at = list.iter().rposition(|&k| k == key).expect("slabs with cached blocks are listed");
                list.remove(at);
            }
            Some(_) => {}
            None => {
                self.large.remove(&(class.capacity, key));
            }
        }
        self.stats.cached -= class.capacity;
        self.stats.live += class.capacity;
        self.stats.peak_live = self.stats.peak_live.max(self.stats.live);
        Taken { id: self.next_id(), address, capacity: class.capacity, key, index }
    }

    /// A block came back whose last own ticket is `own`, and which `tickets` of other streams may still touch.
    pub(crate) fn put(&mut self, key: u32, index: u32, own: u64, tickets: Tickets) {
        let retire = !tickets.is_empty();
        let slab = self.slab(key);
        slab.put(index, own, retire);
        let capacity = slab.class().capacity;
        self.stats.live -= capacity;
        if retire {
            self.stats.retired += capacity;
            self.retired.push_back(Retired { key, index, tickets });
        } else {
            self.cached_one_more(key);
        }
    }

    /// Book-keeping after a block of slab `key` became cached.
    fn cached_one_more(&mut self, key: u32) {
        let slab = self.slab(key);
        let (class, first) = (slab.class(), slab.cached() == 1);
        match class.small {
            Some(small) if first => self.small[small].push(key),
            Some(_) => {}
            None => {
                self.large.insert((class.capacity, key));
            }
        }
        self.stats.cached += class.capacity;
    }

    /// Of the oldest `reach` retired blocks, frees those all of whose tickets are `done`.
    fn finish(&mut self, reach: usize, done: impl Fn(&Ticket) -> bool) {
        let mut finished = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..reach.min(self.retired.len()) {
            let Some(mut block) = self.retired.pop_front() else { break };
            // INV-6: every ticket of another stream must be done; the home stream's own are in order with its reuse.
            block.tickets.retain(|ticket| !done(ticket));
            if block.tickets.is_empty() {
                finished.push((block.key, block.index));
            } else {
                kept.push(block);
            }
        }
        for block in kept.into_iter().rev() {
            self.retired.push_front(block);
        }
        for (key, index) in finished {
            let slab = self.slab(key);
            slab.finish(index);
            self.stats.retired -= slab.class().capacity;
            self.cached_one_more(key);
        }
    }

    /// How many blocks the next slab of `class` has, if `smallest` bytes are the least and `largest` the most a slab should have:
    /// as many as the stream has already, so that a stream never holds more than twice what it once needed of a class.
    pub(crate) fn blocks_for(&self, class: Class, smallest: usize, largest: usize) -> u32 {
        let Some(small) = class.small else { return 1 };
        let least = (smallest / class.capacity).max(1);
        let most = (largest / class.capacity).max(1);
        (self.blocks[small] as usize).clamp(least.min(most), most) as u32
    }

    /// Puts a slab (new or from another shelf) on this shelf; its blocks are cached.
    pub(crate) fn insert(&mut self, slab: Slab) -> u32 {
        let (class, blocks, bytes) = (slab.class(), slab.blocks(), slab.bytes());
        let key = self.vacant.pop().unwrap_or_else(|| {
            self.slabs.push(None);
            u32::try_from(self.slabs.len() - 1).expect("fewer slabs than 2^32")
        });
        self.slabs[key as usize] = Some(slab);
        match class.small {
            Some(small) => {
                self.small[small].push(key);
                self.blocks[small] += blocks;
            }
            None => {
                self.large.insert((class.capacity, key));
            }
        }
        self.stats.cached += bytes;
        key
    }

    /// [`Self::insert`], and a block of that very slab.
    pub(crate) fn insert_and_take(&mut self, slab: Slab) -> Taken {
        let key = self.insert(slab);
        self.take_from(key)
    }

    /// Takes a slab without live or retired blocks off this shelf.
    fn remove(&mut self, key: u32) -> Slab {
        let slab = self.slabs[key as usize].take().expect("the key of a slab");
        self.vacant.push(key);
        let class = slab.class();
        match class.small {
            Some(small) => {
                self.small[small].retain(|&k| k != key);
                self.blocks[small] -= slab.blocks();
            }
            None => {
                self.large.remove(&(class.capacity, key));
            }
        }
        self.stats.cached -= slab.bytes();
        slab.moved()
    }

    /// An idle slab that serves `class`.
    fn idle_for(&self, class: Class, completed: u64) -> Option<u32> {
        let idle = |key: &u32| self.slabs[*key as usize].as_ref().is_some_and(|s| s.is_idle(completed));
        match class.small {
            Some(small) => self.small[small].iter().copied().find(|key| idle(key)),
            None => self
                .large
                .range((class.capacity, 0)..)
                .take_while(|(capacity, _)| fits(*capacity, class.capacity))
                .map(|&(_, key)| key)
                .find(|key| idle(key)),
        }
    }

    /// What waiting could free: for each retired block that serves `class`, and for each slab that has no live block, its bytes and
    /// the tickets to wait for. None for a slab that is idle by now: its work ended since the caller looked for idle ones, and
    /// it only needs to look again.
    pub(crate) fn in_flight(&self, class: Option<Class>, completed: u64) -> Vec<InFlight> {
        let mut found: Vec<InFlight> = Vec::new();
        let mut tickets = vec![Tickets::new(); self.slabs.len()];
        for retired in &self.retired {
            tickets[retired.key as usize].extend(retired.tickets.iter().copied());
            let of = self.slabs[retired.key as usize].as_ref().map(Slab::class);
            if class.zip(of).is_some_and(|(class, of)| serves(of, class)) {
                found.push(InFlight { bytes: 0, serves: true, tickets: retired.tickets.clone() });
            }
        }
        for (key, slab) in self.slabs() {
            if slab.live() > 0 {
                continue;
            }
            let mut tickets = std::mem::take(&mut tickets[key as usize]);
            if slab.last_own() > completed {
                tickets.push(Ticket { stream: self.stream, number: slab.last_own() });
            }
            found.push(InFlight { bytes: slab.bytes(), serves: false, tickets });
        }
        found
    }

    /// Starts the measurement of the peak anew.
    pub(crate) fn reset_peak(&mut self) {
        self.stats.peak_live = self.stats.live;
    }

    /// Bytes of all segments here. Panics if the books do not agree (INV-7).
    pub(crate) fn check(&self) -> usize {
        let (mut live, mut cached, mut retired, mut bytes) = (0, 0, 0, 0);
        for (key, slab) in self.slabs() {
            slab.check();
            let capacity = slab.class().capacity;
            live += slab.live() as usize * capacity;
            cached += slab.cached() as usize * capacity;
            retired += slab.retired() as usize * capacity;
            bytes += slab.bytes();
            let listed = match slab.class().small {
                Some(small) => self.small[small].iter().filter(|&&k| k == key).count(),
                None => usize::from(self.large.contains(&(capacity, key))),
            };
            assert_eq!(
                listed,
                usize::from(slab.cached() > 0),
                "a slab is listed once if it has cached blocks"
            );
            let retired = self.retired.iter().filter(|r| r.key == key).count();
            assert_eq!(retired, slab.retired() as usize, "retired blocks of a slab");
        }
        let stats = &self.stats;
        assert_eq!(
            (stats.live, stats.cached, stats.retired),
            (live, cached, retired),
            "INV-7: live, cached, retired"
        );
        assert_eq!(live + cached + retired, bytes, "INV-7: conservation");
        bytes
    }
}

/// Bytes that come free once `tickets` are done.
pub(crate) struct InFlight {
    pub(crate) bytes: usize,
    /// Whether it serves the request as it is; else it is a segment that can go back to the device.
    pub(crate) serves: bool,
    pub(crate) tickets: Tickets,
}

/// Whether a block of class `of` may be handed out for `class`.
fn serves(of: Class, class: Class) -> bool {
    match class.small {
        Some(_) => of == class,
        None => of.small.is_none() && fits(of.capacity, class.capacity),
    }
}
