//! Seeded choices.

/// splitmix64 (Steele, Lea, Flood 2014): small, and good enough to pick schedules.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`, `n` > 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Heads.
    pub(crate) fn coin(&mut self) -> bool {
        self.next() >> 63 == 0
    }

    /// Another, independent sequence.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next())
    }
}
