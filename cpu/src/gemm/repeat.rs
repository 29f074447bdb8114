//! One product many times: who shares out what.

use super::product::MAX_MEMBERS;
use crate::team::{LARGE_WORK, Team};

/// A product that is computed `items` times with different operands, by as many cores as there are.
#[derive(Clone)]
pub(crate) struct Repeat {
    items: usize,
    /// Whether cores share out the repetitions instead of each product's parts.
    over: bool,
    members: usize,
    /// Scratch memory of a member, in elements.
    own: usize,
    work: usize,
}

/// One repetition: `(number, its scratch memory, who may help)`.
pub(crate) type Repetition<'a> = dyn Fn(usize, *mut f32, &Team) + Sync + 'a;

impl Repeat {
    /// Whether cores share out `items` repetitions of `work` multiply-adds, rather than the parts of each.
    pub(crate) fn over(items: usize, work: usize) -> bool {
        items > 1 && work < 4 * LARGE_WORK
    }

    /// `items` repetitions of `work` multiply-adds that need `scratch_bytes` each.
    pub(crate) fn new(items: usize, work: usize, scratch_bytes: usize) -> Self {
        Self::with(items, work, scratch_bytes, Self::over(items, work))
    }

    /// The same of repetitions that cannot be split further.
    pub(crate) fn of_whole(items: usize, work: usize, scratch_bytes: usize) -> Self {
        Self::with(items, work, scratch_bytes, items > 1)
    }

    fn with(items: usize, work: usize, scratch_bytes: usize, over: bool) -> Self {
        let work = work.saturating_mul(items);
        let members = if over && work >= LARGE_WORK {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_MEMBERS)
        } else {
            1
        };
        Self { items, over, members, own: scratch_bytes.next_multiple_of(64) / 4, work }
    }

    /// How many repetitions.
    pub(crate) fn items(&self) -> usize {
        self.items
    }

    /// Multiply-adds of all.
    pub(crate) fn work(&self) -> usize {
        self.work
    }

    /// Bytes of scratch memory of a run.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.own * 4 * self.members
    }

    /// Runs all repetitions. Each has scratch memory of its own while it runs.
    pub(crate) fn run(&self, team: &Team, scratch: *mut f32, one: &Repetition<'_>) {
        if !self.over {
            return (0..self.items).for_each(|g| one(g, scratch, team));
        }
        let scratch = Scratch(scratch);
        // Small products in groups, so that claiming them costs little.
        let group = self.items.div_ceil(64);
        let work = if self.members > 1 { self.work } else { 0 };
        team.run_members(self.items.div_ceil(group), work, self.members, &|i, member| {
            for g in i * group..((i + 1) * group).min(self.items) {
                one(g, scratch.of(member, self.own), &crate::team::ALONE);
            }
        });
    }
}

/// Scratch memory of all members.
struct Scratch(*mut f32);

// SAFETY: an address alone does nothing; members use their own parts.
unsafe impl Sync for Scratch {}

impl Scratch {
    fn of(&self, member: usize, own: usize) -> *mut f32 {
        self.0.wrapping_add(member * own)
    }
}
