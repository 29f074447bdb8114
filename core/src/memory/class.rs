//! Size classes: which capacity a request of so many bytes is given.
//!
//! Small requests (to [`SMALL_MAX`]) are rounded up to a class: multiples of 64 bytes up to 512, then eight steps
//! between powers of two. Classes are what makes a freed block fit the next request of about its size. Large requests get a
//! segment of their own, rounded up to a 64th of the power of two below them and to whole pages, so that the arenas and
//! activations that decide the peak waste next to nothing; their reuse is by best fit instead (see [`fits`]).
//!
//! Internal waste: at most 63 bytes up to 512; below 1/9 of the capacity up to [`SMALL_MAX`]; of a fresh large block at most
//! 1/32 (1/64 from 256 KiB on), of a reused one at most 1/8.

use crate::driver::ALIGNMENT;

/// The largest request that shares a segment with others of its class.
pub(crate) const SMALL_MAX: usize = 128 << 10;

/// How many small classes there are.
pub(crate) const SMALL_CLASSES: usize = 72;

/// Large capacities are multiples of this.
const PAGE: usize = 4096;

/// Steps between a power of two and the next, for small classes.
const STEPS: usize = 8;

/// What a request is rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    /// Bytes of the block.
    pub(crate) capacity: usize,
    /// Index among the small classes; none for a large block.
    pub(crate) small: Option<usize>,
}

impl Class {
    /// The class of a request of `bytes` > 0; none if no address space could hold it.
    pub(crate) fn of(bytes: usize) -> Option<Self> {
        debug_assert!(bytes > 0);
        if bytes <= STEPS * ALIGNMENT {
            let step = bytes.div_ceil(ALIGNMENT);
            return Some(Self { capacity: step * ALIGNMENT, small: Some(step - 1) });
        }
        let power = (bytes - 1).ilog2() as usize;
        let base = 1_usize << power;
        if bytes <= SMALL_MAX {
            let step = base / STEPS;
            let nth = (bytes - 1 - base) / step;
            let first = (STEPS * ALIGNMENT).ilog2() as usize;
            let small = STEPS + (power - first) * STEPS + nth;
            return Some(Self { capacity: base + (nth + 1) * step, small: Some(small) });
        }
        let step = (base / 64).max(PAGE);
        let capacity = bytes.checked_next_multiple_of(step).filter(|&c| c <= isize::MAX as usize)?;
        Some(Self { capacity, small: None })
    }
}

/// Whether a cached large block of `capacity` may serve a request rounded to `wanted`: it wastes at most an eighth.
pub(crate) fn fits(capacity: usize, wanted: usize) -> bool {
    capacity >= wanted && capacity - wanted <= capacity / 8
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn every_small_size_gets_the_least_class_that_holds_it() {
        let mut capacities = vec![0; SMALL_CLASSES];
        let (mut last, mut index) = (0, 0);
        for bytes in 1..=SMALL_MAX {
            let class = Class::of(bytes).unwrap();
            let small = class.small.unwrap();
            assert!(class.capacity >= bytes && class.capacity.is_multiple_of(ALIGNMENT));
            assert!(capacities[small] == 0 || capacities[small] == class.capacity);
            capacities[small] = class.capacity;
            // Classes grow with the size, one index a capacity, without a gap.
            assert!(class.capacity == last && small == index || class.capacity > last && bytes == last + 1);
            assert!(bytes == 1 || small == index || small == index + 1);
            (last, index) = (class.capacity, small);
            let waste = class.capacity - bytes;
            assert!(
                waste < 64 || waste * 9 <= class.capacity,
                "{bytes} wastes {waste} of {}",
                class.capacity
            );
        }
        assert_eq!((last, index), (SMALL_MAX, SMALL_CLASSES - 1));
    }

    #[test]
    fn large_sizes_are_whole_pages_and_waste_little() {
        for power in 17..47 {
            for delta in [1_usize, 2, 4095, 4096, 4097, (1 << power) / 3, (1 << power) - 1, 1 << power] {
                let bytes = (1 << power) + delta;
                let class = Class::of(bytes).unwrap();
                assert!(
                    class.small.is_none() && class.capacity >= bytes && class.capacity.is_multiple_of(PAGE)
                );
                let bound = if power == 17 { 32 } else { 64 };
                assert!((class.capacity - bytes) * bound <= class.capacity, "{bytes}");
                assert_eq!(Class::of(class.capacity).unwrap().capacity, class.capacity, "idempotent");
            }
        }
    }

    #[test]
    fn sizes_beyond_the_address_space_have_no_class() {
        for bytes in [usize::MAX, usize::MAX - 4096, isize::MAX as usize + 1] {
            assert_eq!(Class::of(bytes), None);
        }
    }

    #[test]
    fn reuse_wastes_at_most_an_eighth() {
        assert!(fits(8, 8) && fits(8, 7) && !fits(8, 6) && !fits(7, 8));
    }
}
