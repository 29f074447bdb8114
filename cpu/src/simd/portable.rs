//! [`Vector`] in plain Rust.

use super::Vector;

/// `N` lanes that the compiler may put into whatever registers there are. Multiplies and adds are rounded one by one: a fused
/// multiply-add without the instruction is a slow library call.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<const N: usize>([f32; N]);

/// One lane: for using [`super::math`] on single values, in loops that the compiler vectorises.
pub(crate) type Lane = Lanes<1>;

/// What matrix kernels use where no better instructions are known: 4 lanes fit the vector registers of any processor.
pub(crate) type Portable = Lanes<4>;

impl Lane {
    /// From its value.
    #[inline(always)]
    pub(crate) fn new(x: f32) -> Self {
        Lanes([x])
    }
    /// Its value.
    #[inline(always)]
    pub(crate) fn get(self) -> f32 {
        self.0[0]
    }
}

/// Without `std::array::from_fn`, whose closures do not always inline.
macro_rules! each {
    ($n:ident, |$i:ident| $e:expr) => {{
        let mut out = [0.0; $n];
        let mut $i = 0;
        while $i < $n {
            out[$i] = $e;
            $i += 1;
        }
        Lanes(out)
    }};
}

impl<const N: usize> Vector for Lanes<N> {
    const LANES: usize = N;
    const ISA: super::Isa = super::Isa::Portable;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Lanes([x; N])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for `N` reads of any alignment.
        Lanes(unsafe { p.cast::<[f32; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        let mut lanes = [0.0; N];
        // SAFETY: the caller vouches for `n < N` reads.
        unsafe { std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n) };
        Lanes(lanes)
    }
    #[inline(always)]
    unsafe fn load_lanes(p: *const f32, chosen: u32) -> Self {
        let mut lanes = [0.0; N];
        for (i, lane) in lanes.iter_mut().enumerate() {
            if chosen >> i & 1 == 1 {
                // SAFETY: the caller vouches for the read.
                *lane = unsafe { p.add(i).read() };
            }
        }
        Lanes(lanes)
    }
    #[inline(always)]
    unsafe fn load_even(p: *const f32, chosen: u32) -> Self {
        let mut lanes = [0.0; N];
        for (i, lane) in lanes.iter_mut().enumerate() {
            if chosen >> (2 * i) & 1 == 1 {
                // SAFETY: the caller vouches for the read.
                *lane = unsafe { p.add(2 * i).read() };
            }
        }
        Lanes(lanes)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for `N` writes of any alignment.
        unsafe { p.cast::<[f32; N]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: the caller vouches for `n < N` writes.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), p, n) }
    }
    #[inline(always)]
    fn prefetch(_p: *const f32) {}
    #[inline(always)]
    fn like(self, x: f32) -> Self {
        Lanes([x; N])
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        each!(N, |i| self.0[i] + b.0[i])
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        each!(N, |i| self.0[i] - b.0[i])
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        each!(N, |i| self.0[i] * b.0[i])
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        each!(N, |i| self.0[i] / b.0[i])
    }
    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        each!(N, |i| self.0[i] * a.0[i] + b.0[i])
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        each!(N, |i| if self.0[i] > b.0[i] { self.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        each!(N, |i| if self.0[i] < b.0[i] { self.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    fn or(self, b: Self) -> Self {
        each!(N, |i| f32::from_bits(self.0[i].to_bits() | b.0[i].to_bits()))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        each!(N, |i| self.0[i].abs())
    }
    #[inline(always)]
    fn copysign(self, s: Self) -> Self {
        each!(N, |i| self.0[i].copysign(s.0[i]))
    }
    #[inline(always)]
    fn select_lt(self, b: Self, yes: Self, no: Self) -> Self {
        each!(N, |i| if self.0[i] < b.0[i] { yes.0[i] } else { no.0[i] })
    }
    #[inline(always)]
    fn scale2(self, n: Self) -> Self {
        /// 1.5 * 2^23: a float plus this has the integer in its low bits.
        const SHIFT: f32 = 12_582_912.0;
        // Two factors, because 2^n itself may not be a float: the first product is exact, so it rounds once.
        each!(N, |i| {
            let n = ((n.0[i] + SHIFT).to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32);
            let half = n >> 1;
            let rest = n.wrapping_sub(half);
            let pow = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
            self.0[i] * pow(half) * pow(rest)
        })
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = self.0;
        let mut n = N;
        while n > 1 {
            n /= 2;
            for i in 0..n {
                lanes[i] += lanes[i + n];
            }
        }
        lanes[0]
    }
    #[inline(always)]
    fn max_lane(self) -> f32 {
        self.0.iter().fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b })
    }
}
