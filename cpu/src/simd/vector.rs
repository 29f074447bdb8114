//! One register of `f32`.

/// One register of `f32` lanes under one instruction set.
///
/// A value exists only where the processor has the instructions, because [`Vector::splat`] and the loads, which make the first one, are
/// `unsafe` and their callers vouch for it; so arithmetic on values is safe. All methods are inlined into the caller,
/// which must be compiled for the instruction set to be fast (not to be correct).
///
/// The same operations in the same order give the same bits on every implementation with fused multiply-add.
pub(crate) trait Vector: Copy {
    /// Lanes of a register.
    const LANES: usize;
    /// The instruction set it belongs to.
    const ISA: super::Isa;

    /// `x` in every lane.
    ///
    /// # Safety
    /// The processor has the instructions of this type.
    unsafe fn splat(x: f32) -> Self;

    /// `LANES` values from `p` (any alignment).
    ///
    /// # Safety
    /// As [`Vector::splat`], and `p` is valid for that many reads.
    unsafe fn load(p: *const f32) -> Self;

    /// The first `n < LANES` values from `p`, zeros after them.
    ///
    /// # Safety
    /// As [`Vector::splat`], and `p` is valid for `n` reads.
    unsafe fn load_first(p: *const f32, n: usize) -> Self;

    /// Lane `i` from `p[i]` where bit `i` of `lanes` is set, else 0.
    ///
    /// # Safety
    /// As [`Vector::splat`], and `p` is valid for reading those elements.
    unsafe fn load_lanes(p: *const f32, lanes: u32) -> Self;

    /// Lane `i` from `p[2 i]` where bit `2 i` of `lanes` is set, else 0. No other bit is set.
    ///
    /// # Safety
    /// As [`Vector::splat`], and `p` is valid for reading those elements.
    unsafe fn load_even(p: *const f32, lanes: u32) -> Self;

    /// Writes all lanes to `p` (any alignment).
    ///
    /// # Safety
    /// `p` is valid for `LANES` writes.
    unsafe fn store(self, p: *mut f32);

    /// Writes the first `n < LANES` lanes to `p`.
    ///
    /// # Safety
    /// `p` is valid for `n` writes.
    unsafe fn store_first(self, p: *mut f32, n: usize);

    /// Asks for the cache line of `p`, which may be any address.
    fn prefetch(p: *const f32);

    /// `x` in every lane; `self` only shows that the instructions are there.
    fn like(self, x: f32) -> Self;
    /// Lane by lane, as the other arithmetic below.
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn div(self, b: Self) -> Self;
    /// `self * a + b`, rounded once where the instructions can.
    fn fma(self, a: Self, b: Self) -> Self;
    /// The greater; `b` if either is NaN. (So `lo.max(x)` keeps a NaN of `x`.)
    fn max(self, b: Self) -> Self;
    /// The smaller; `b` if either is NaN.
    fn min(self, b: Self) -> Self;
    fn abs(self) -> Self;
    /// The bits of both: the one that is not 0, where one is.
    fn or(self, b: Self) -> Self;
    /// The magnitude of `self` with the sign of `s`.
    fn copysign(self, s: Self) -> Self;
    /// Per lane `if self < b { yes } else { no }`; `no` if either is NaN.
    fn select_lt(self, b: Self, yes: Self, no: Self) -> Self;
    /// `self * 2^n` for integral `n` in `-150..=150`, rounded once.
    fn scale2(self, n: Self) -> Self;
    /// Sum of the lanes, halves first: (0 + L/2), (1 + L/2 + 1), ... then again.
    fn sum(self) -> f32;
    /// The greatest lane; unspecified if any is NaN.
    fn max_lane(self) -> f32;
}
