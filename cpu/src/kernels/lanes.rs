//! Folding runs of elements, in one fixed order.
//!
//! A run is folded into [`LANES`] partial results, element `i` into lane `i % LANES`; every [`FLUSH`] elements the lanes are joined as a tree, and
//! these results pairwise (so that long sums lose no digits to their own size). The order depends on lengths alone, never on cores or
//! instruction sets.

use super::map::number::Number;
use crate::simd::multiversion;

/// Partial results.
pub(crate) const LANES: usize = 32;

/// Elements after which the lanes are emptied.
const FLUSH: usize = 1024;

/// How to fold.
pub(crate) trait Fold<T: Number>: 'static {
    /// The result of nothing.
    const START: T;
    /// Takes in one element.
    fn take(acc: T, x: T) -> T;
    /// Joins two partial results.
    fn join(a: T, b: T) -> T;
}

macro_rules! folds {
    ($($(#[$meta:meta])* $name:ident: $start:ident, ($a:ident, $x:ident) => $take:expr, $join:ident;)*) => {$(
        $(#[$meta])*
        pub(crate) struct $name;
        impl<T: Number> Fold<T> for $name {
            const START: T = T::$start;
            #[inline(always)]
            fn take($a: T, $x: T) -> T { $take }
            #[inline(always)]
            fn join(a: T, b: T) -> T { a.$join(b) }
        }
    )*};
}
folds! {
    /// Sum.
    Sum: ZERO, (a, x) => a.add(x), add;
    /// Sum of squares.
    SumSquare: ZERO, (a, x) => a.add(x.mul(x)), add;
    /// Sum of absolute values.
    SumAbs: ZERO, (a, x) => a.add(x.abs()), add;
    /// Product.
    Product: ONE, (a, x) => a.mul(x), mul;
    /// Greatest; NaN wins.
    Greatest: LOWEST, (a, x) => a.max(x), max;
    /// Least; NaN wins.
    Least: HIGHEST, (a, x) => a.min(x), min;
}

/// A fold under way.
pub(crate) struct Folding<T> {
    lanes: [T; LANES],
    /// Elements in the lanes.
    taken: usize,
    /// Joined results of `2^k` flushes, for each bit `k` that is set in the number of flushes.
    levels: [T; 48],
    flushes: u64,
}

impl<T: Number> Folding<T> {
    /// Nothing taken yet.
    pub(crate) fn start<F: Fold<T>>() -> Self {
        Self { lanes: [F::START; LANES], taken: 0, levels: [F::START; 48], flushes: 0 }
    }

    /// Takes a run of elements. Runs of a fold start at lane 0 again.
    pub(crate) fn take<F: Fold<T>>(&mut self, mut run: &[T]) {
        while !run.is_empty() {
            let (part, rest) = run.split_at(run.len().min(FLUSH - self.taken));
            take_run::<T, F>(&mut self.lanes, part);
            self.taken += part.len();
            run = rest;
            if self.taken == FLUSH {
                let mut joined = join_lanes::<T, F>(&mut self.lanes);
                let mut level = 0;
                while self.flushes >> level & 1 == 1 {
                    joined = F::join(self.levels[level], joined);
                    level += 1;
                }
                self.levels[level] = joined;
                self.flushes += 1;
                self.lanes = [F::START; LANES];
                self.taken = 0;
            }
        }
    }

    /// The result.
    pub(crate) fn end<F: Fold<T>>(mut self) -> T {
        let mut joined = join_lanes::<T, F>(&mut self.lanes);
        if self.flushes == 0 {
            return joined;
        }
        for (level, &earlier) in self.levels.iter().enumerate() {
            if self.flushes >> level & 1 == 1 {
                joined = F::join(earlier, joined);
            }
        }
        joined
    }
}

fn join_lanes<T: Number, F: Fold<T>>(lanes: &mut [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = F::join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Folds one run.
pub(crate) fn fold<T: Number, F: Fold<T>>(run: &[T]) -> T {
    if run.len() < FLUSH {
        // The same order without a place for what is flushed.
        let mut lanes = [F::START; LANES];
        take_run::<T, F>(&mut lanes, run);
        return join_lanes::<T, F>(&mut lanes);
    }
    let mut folding = Folding::start::<F>();
    folding.take::<F>(run);
    folding.end::<F>()
}

/// For macro bounds that take one path.
pub(crate) trait FoldOf<T>: 'static {
    fn step(acc: T, x: T) -> T;
}

struct Of<F>(std::marker::PhantomData<F>);
impl<T: Number, F: Fold<T>> FoldOf<T> for Of<F> {
    #[inline(always)]
    fn step(acc: T, x: T) -> T {
        F::take(acc, x)
    }
}

fn take_run<T: Number, F: Fold<T>>(lanes: &mut [T; LANES], run: &[T]) {
    if run.len() < LANES {
        // Too short for a call of another instruction set's version.
        for (l, &x) in lanes.iter_mut().zip(run) {
            *l = F::take(*l, x);
        }
    } else {
        take_long::<T, Of<F>>(lanes, run);
    }
}

/// Takes element `i` of `run` into `accumulators[i]`.
pub(crate) fn take_each<T: Number, F: Fold<T>>(accumulators: &mut [T], run: &[T]) {
    take_columns::<T, Of<F>>(accumulators, run);
}

multiversion! {
    fn take_long[T: Number, F: FoldOf<T>](lanes: &mut [T; LANES], run: &[T]) {
        let mut acc = *lanes;
        let mut chunks = run.chunks_exact(LANES);
        for chunk in &mut chunks {
            let mut i = 0;
            while i < LANES {
                acc[i] = F::step(acc[i], chunk[i]);
                i += 1;
            }
        }
        for (a, &x) in acc.iter_mut().zip(chunks.remainder()) {
            *a = F::step(*a, x);
        }
        *lanes = acc;
    }

    fn take_columns[T: Number, F: FoldOf<T>](accumulators: &mut [T], run: &[T]) {
        for (a, &x) in accumulators.iter_mut().zip(run) {
            *a = F::step(*a, x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sums_keep_their_digits() {
        let run = vec![0.1f32; 10_000_000];
        let exact = 0.1f32 as f64 * run.len() as f64;
        let sum = f64::from(fold::<f32, Sum>(&run));
        assert!((sum - exact).abs() / exact < 1e-6, "{sum} {exact}");
    }

    #[test]
    fn every_length_is_folded_whole() {
        for n in [0usize, 1, 31, 32, 33, 100, 1023, 1024, 1025, 20_000] {
            let run: Vec<i64> = (0..n as i64).collect();
            assert_eq!(fold::<i64, Sum>(&run), (n as i64) * (n as i64 - 1) / 2);
            let top = run.iter().copied().max().unwrap_or(i64::MIN);
            assert_eq!(fold::<i64, Greatest>(&run), top);
        }
        assert!(fold::<f32, Greatest>(&[1.0, f32::NAN, 2.0]).is_nan());
        assert!(fold::<f32, Least>(&[f32::NAN; 40]).is_nan());
    }
}
