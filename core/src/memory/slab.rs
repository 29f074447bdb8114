//! A segment of device memory, cut into blocks of one class.

use super::class::Class;
use super::rule;
use crate::driver::Segment;

/// One segment and which of its blocks are where. Belongs to one shelf at a time; all its blocks have that shelf as their home.
///
/// Each block is in one of these states: *fresh* (never handed out), *free*, *live*, *retired* (freed, but other streams still
/// use it). Fresh and free blocks are *cached*.
pub(crate) struct Slab {
    segment: Segment,
    class: Class,
    blocks: u32,
    /// Blocks from here on are fresh.
    touched: u32,
    /// Free blocks; the last is handed out first, for its lines are warm.
    free: Vec<u32>,
    live: u32,
    retired: u32,
    /// The last ticket of the home stream on any freed block. Reuse by the home stream needs no wait for it, anything else does.
    last_own: u64,
}

impl Slab {
    /// `blocks` blocks of `class` in `segment`, all fresh.
    pub(crate) fn new(segment: Segment, class: Class, blocks: u32) -> Self {
        debug_assert!(segment.bytes() >= class.capacity * blocks as usize);
        Self { segment, class, blocks, touched: 0, free: Vec::new(), live: 0, retired: 0, last_own: 0 }
    }

    /// Leaves the device's memory allocated for ever, for work may still touch it.
    pub(crate) fn leak(self) {
        std::mem::forget(self.segment);
    }

    pub(crate) fn class(&self) -> Class {
        self.class
    }

    pub(crate) fn blocks(&self) -> u32 {
        self.blocks
    }

    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    pub(crate) fn retired(&self) -> u32 {
        self.retired
    }

    pub(crate) fn last_own(&self) -> u64 {
        self.last_own
    }

    /// All its bytes, as the budget counts them.
    pub(crate) fn bytes(&self) -> usize {
        self.class.capacity * self.blocks as usize
    }

    /// How many blocks can be handed out.
    pub(crate) fn cached(&self) -> u32 {
        self.blocks - self.touched + self.free.len() as u32
    }

    /// Whether every block is cached and the home stream's work up to `completed` left none in use: the segment may go to
    /// another stream or back to the device (INV-6).
    pub(crate) fn is_idle(&self, completed: u64) -> bool {
        rule::may_leave(self.live, self.retired, self.last_own, completed)
    }

    /// Hands out a cached block: its index and address.
    pub(crate) fn take(&mut self) -> Option<(u32, u64)> {
        let index = self.free.pop().or_else(|| {
            (self.touched < self.blocks).then(|| {
                self.touched += 1;
                self.touched - 1
            })
        })?;
        self.live += 1;
        Some((index, self.segment.address() + u64::from(index) * self.class.capacity as u64))
    }

    /// Notes that a live block, last used by its home stream under ticket `own`, was freed: at once, or to be retired.
    pub(crate) fn put(&mut self, index: u32, own: u64, retire: bool) {
        debug_assert!(self.live > 0 && index < self.touched);
        self.live -= 1;
        self.last_own = self.last_own.max(own);
        if retire {
            self.retired += 1;
        } else {
            self.free.push(index);
        }
    }

    /// Notes that other streams are done with a retired block.
    pub(crate) fn finish(&mut self, index: u32) {
        debug_assert!(self.retired > 0);
        self.retired -= 1;
        self.free.push(index);
    }

    /// The slab at its next home: the old home's tickets are done, and its numbers mean nothing there.
    pub(crate) fn moved(mut self) -> Self {
        debug_assert!(self.live == 0 && self.retired == 0);
        self.last_own = 0;
        self
    }

    /// Panics if a block is in two states or in none.
    pub(crate) fn check(&self) {
        let mut seen = vec![false; self.blocks as usize];
        for &index in &self.free {
            assert!(index < self.touched, "INV-7: a fresh block is on the free list");
            assert!(!std::mem::replace(&mut seen[index as usize], true), "INV-7: a block was freed twice");
        }
        assert_eq!(self.cached() + self.live + self.retired, self.blocks, "INV-7: blocks of a slab");
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;

    /// A slab of two blocks, of which one was handed out and came back.
    fn slab() -> Slab {
        let class = Class::of(64).expect("a size that fits");
        let mut slab = Slab::new(Segment::new(0, 128, Box::new(())), class, 2);
        let (index, _) = slab.take().expect("a fresh block");
        slab.put(index, 1, false);
        slab
    }

    #[test]
    fn a_slab_hands_out_each_block_once_and_then_none() {
        let mut slab = slab();
        assert_eq!([slab.take(), slab.take(), slab.take()], [Some((0, 0)), Some((1, 64)), None]);
        assert_eq!((slab.cached(), slab.live()), (0, 2));
    }

    #[test]
    fn a_check_sees_a_block_in_two_states() {
        slab().check();
        let faults: [fn(&mut Slab); 4] =
            [|s| s.free.push(0), |s| s.free[0] = 1, |s| s.live += 1, |s| s.retired += 1];
        for break_it in faults {
            let mut broken = slab();
            break_it(&mut broken);
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| broken.check())).is_err());
        }
    }
}
