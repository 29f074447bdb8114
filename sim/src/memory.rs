//! Simulated device memory: real bytes at addresses that no host has.
//!
//! Addresses are never given out twice, with a gap between segments, so that every use of freed memory is seen. Fresh memory is
//! full of a seeded pattern; so is memory that was freed while queued work still names it.

use std::collections::BTreeMap;

use streampool_core::{Error, Result};

use crate::random::Random;

/// The first address: far from what a host pointer looks like.
const BASE: u64 = 0x5100_0000_0000;

/// Between segments.
const GAP: u64 = 4096;

/// Bytes from `start` up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    pub(crate) fn new(start: u64, bytes: usize) -> Self {
        Self { start, end: start.saturating_add(bytes as u64) }
    }

    pub(crate) fn bytes(self) -> usize {
        (self.end - self.start) as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub(crate) fn overlaps(self, other: Range) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// A set of bytes, each with a value; neighbours are not joined.
#[derive(Debug)]
pub(crate) struct Marks<T>(BTreeMap<u64, (u64, T)>);

impl<T> Default for Marks<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Clone> Marks<T> {
    /// Marks `range`, over whatever was there.
    pub(crate) fn set(&mut self, range: Range, value: T) {
        self.clear(range);
        if !range.is_empty() {
            self.0.insert(range.start, (range.end, value));
        }
    }

    /// Unmarks `range`.
    pub(crate) fn clear(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let hit: Vec<u64> = self.overlapping(range).map(|(start, _, _)| start).collect();
        for start in hit {
            let Some((end, value)) = self.0.remove(&start) else { continue };
            if start < range.start {
                self.0.insert(start, (range.start, value.clone()));
            }
            if end > range.end {
                self.0.insert(range.end, (end, value));
            }
        }
    }

    /// The first mark that overlaps `range`.
    pub(crate) fn first(&self, range: Range) -> Option<&T> {
        self.overlapping(range).map(|(_, _, value)| value).next()
    }

    /// The first byte of `range` that is not marked.
    pub(crate) fn first_gap(&self, range: Range) -> Option<u64> {
        let mut at = range.start;
        for (start, end, _) in self.overlapping(range) {
            if start > at {
                return Some(at);
            }
            at = end;
        }
        (at < range.end).then_some(at)
    }

    fn overlapping(&self, range: Range) -> impl Iterator<Item = (u64, u64, &T)> {
        let before = self.0.range(..range.start).next_back();
        let from = before.into_iter().chain(self.0.range(range.start..range.end.max(range.start)));
        from.map(|(&start, (end, value))| (start, *end, value)).filter(move |&(_, end, _)| end > range.start)
    }
}

struct Simulated {
    bytes: Vec<u8>,
    /// Queued and running work that names it.
    users: usize,
    freed: bool,
}

/// All segments of the device.
pub(crate) struct Memory {
    capacity: usize,
    used: usize,
    next: u64,
    random: Random,
    segments: BTreeMap<u64, Simulated>,
    /// Bytes that failed work should have written, with its error.
    taint: Marks<Error>,
    /// Bytes that anything ever wrote.
    written: Marks<()>,
}

impl Memory {
    pub(crate) fn new(capacity: usize, random: Random) -> Self {
        Self {
            capacity,
            used: 0,
            next: BASE,
            random,
            segments: BTreeMap::new(),
            taint: Marks::default(),
            written: Marks::default(),
        }
    }

    /// Bytes in segments that were not freed.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// A fresh segment: its address.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<u64> {
        let free = self.capacity - self.used;
        if bytes > free {
            let capacity = self.capacity;
            return Err(Error::out_of_memory(format!(
                "sim: asked {bytes} bytes, {free} of the device's {capacity} are free; free some, or simulate a larger device"
            )));
        }
        let mut fresh: Vec<u8> = Vec::new();
        fresh.try_reserve_exact(bytes).map_err(|e| {
            Error::out_of_memory(format!(
                "sim: the host has no {bytes} bytes to simulate; use a smaller device"
            ))
            .caused_by(e)
        })?;
        fresh.resize(bytes, 0);
        poison(&mut fresh, self.random.next());
        let address = self.next;
        self.next += (bytes as u64).next_multiple_of(GAP) + GAP;
        self.used += bytes;
        self.segments.insert(address, Simulated { bytes: fresh, users: 0, freed: false });
        Ok(address)
    }

    /// The owner dropped the segment. Its bytes stay as long as queued work names them, which is a violation that is told
    /// when that work runs.
    pub(crate) fn free(&mut self, address: u64) {
        let Some(segment) = self.segments.get_mut(&address) else { return };
        self.used -= segment.bytes.len();
        segment.freed = true;
        if segment.users > 0 {
            poison(&mut segment.bytes, self.random.next());
        }
        self.forget_if_unused(address);
    }

    fn forget_if_unused(&mut self, address: u64) {
        let Some(segment) = self.segments.get(&address) else { return };
        if segment.freed && segment.users == 0 {
            let range = Range::new(address, segment.bytes.len());
            self.segments.remove(&address);
            self.taint.clear(range);
            self.written.clear(range);
        }
    }

    fn find(&self, range: Range) -> Result<u64> {
        let found = self.segments.range(..=range.start).next_back();
        match found {
            Some((&address, segment)) if range.end <= address + segment.bytes.len() as u64 => Ok(address),
            _ => Err(Error::internal(format!(
                "sim: bytes {:#x}..{:#x} are in no segment: freed memory, or none of this device (INV-6)",
                range.start, range.end
            ))),
        }
    }

    /// Counts work that names `range`; fails if it is not within one segment that lives.
    pub(crate) fn retain(&mut self, range: Range) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let address = self.find(range)?;
        let segment = self.segments.get_mut(&address).expect("just found");
        if segment.freed {
            return Err(Error::internal(format!(
                "sim: work names freed memory at {:#x} (INV-6)",
                range.start
            )));
        }
        segment.users += 1;
        Ok(())
    }

    /// Ends what [`Self::retain`] began.
    pub(crate) fn release(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        if let Ok(address) = self.find(range) {
            self.segments.get_mut(&address).expect("just found").users -= 1;
            self.forget_if_unused(address);
        }
    }

    /// Whether the segment was freed while work named it.
    pub(crate) fn is_freed(&self, range: Range) -> bool {
        !range.is_empty() && self.find(range).map_or(true, |address| self.segments[&address].freed)
    }

    /// The bytes of `range`, which was retained.
    pub(crate) fn bytes(&self, range: Range) -> Result<&[u8]> {
        if range.is_empty() {
            return Ok(&[]);
        }
        let address = self.find(range)?;
        let at = (range.start - address) as usize;
        Ok(&self.segments[&address].bytes[at..at + range.bytes()])
    }

    /// Writes `from` to `range`, which takes taint away.
    pub(crate) fn write(&mut self, range: Range, from: &[u8]) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let address = self.find(range)?;
        let at = (range.start - address) as usize;
        let segment = self.segments.get_mut(&address).expect("just found");
        segment.bytes[at..at + range.bytes()].copy_from_slice(&from[..range.bytes()]);
        self.taint.clear(range);
        self.written.set(range, ());
        Ok(())
    }

    /// Marks bytes that failed work should have written.
    pub(crate) fn taint(&mut self, range: Range, error: &Error) {
        self.taint.set(range, error.clone());
    }

    /// The error of the failed work that should have written some of `range`.
    pub(crate) fn tainted(&self, range: Range) -> Option<&Error> {
        self.taint.first(range)
    }

    /// The first byte of `range` that nothing ever wrote.
    pub(crate) fn unwritten(&self, range: Range) -> Option<u64> {
        self.written.first_gap(range)
    }
}

/// Fills `bytes` with garbage.
pub(crate) fn poison(bytes: &mut [u8], pattern: u64) {
    let pattern = pattern.to_le_bytes();
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&pattern[..chunk.len()]);
    }
}

/// Host bytes at an aligned address, for a program to run on.
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(from: &[u8]) -> Self {
        const ALIGN: usize = streampool_core::driver::ALIGNMENT;
        let mut bytes: Vec<u8> = Vec::with_capacity(from.len() + ALIGN);
        let start = bytes.as_ptr().align_offset(ALIGN);
        bytes.resize(start, 0);
        bytes.extend_from_slice(from);
        Self { bytes, start, len: from.len() }
    }

    pub(crate) fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub(crate) fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range { start, end }
    }

    #[test]
    fn marks_are_cut_where_they_are_cleared() {
        let mut marks = Marks::default();
        marks.set(range(10, 30), 'a');
        marks.set(range(15, 20), 'b');
        let at = |marks: &Marks<char>, i| marks.first(range(i, i + 1)).copied();
        let all = |marks: &Marks<char>| (9..31).map(|i| at(marks, i).unwrap_or('.')).collect::<String>();
        assert_eq!(all(&marks), ".aaaaabbbbbaaaaaaaaaa.");
        marks.clear(range(12, 17));
        assert_eq!(all(&marks), ".aa.....bbbaaaaaaaaaa.");
        assert_eq!(marks.first_gap(range(10, 30)), Some(12));
        assert_eq!(marks.first_gap(range(17, 30)), None);
        assert_eq!(marks.first_gap(range(25, 31)), Some(30));
        marks.clear(range(0, 100));
        assert_eq!(all(&marks).trim_matches('.'), "");
    }

    #[test]
    fn memory_that_queued_work_names_is_poisoned_when_freed_and_gone_afterwards() {
        let mut memory = Memory::new(1000, Random::new(7));
        let address = memory.allocate(100).unwrap();
        let bytes = Range::new(address + 10, 50);
        memory.retain(bytes).unwrap();
        memory.write(bytes, &[1; 50]).unwrap();
        memory.free(address);
        assert!(memory.is_freed(bytes) && memory.used() == 0);
        assert_ne!(memory.bytes(bytes).unwrap(), [1; 50]);
        memory.release(bytes);
        assert!(memory.bytes(bytes).unwrap_err().is_internal());
        let again = memory.allocate(100).unwrap();
        assert_ne!(again, address, "no address is used twice");
    }

    #[test]
    fn a_full_device_says_what_there_is() {
        let mut memory = Memory::new(1000, Random::new(7));
        memory.allocate(900).unwrap();
        let error = memory.allocate(101).unwrap_err();
        assert!(
            error.is_out_of_memory() && error.to_string().contains("100 of the device's 1000"),
            "{error}"
        );
    }

    #[test]
    fn host_bytes_are_aligned() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let bytes = Aligned::new(&vec![3; len]);
            assert_eq!(bytes.get(), vec![3; len]);
            assert_eq!(bytes.get().as_ptr() as usize % 64, 0);
        }
    }
}
