//! [`Vector`] over NEON.

use std::arch::aarch64::*;

use super::Vector;

/// 4 lanes.
#[derive(Clone, Copy)]
pub(crate) struct F32x4(float32x4_t);

/// Safe arithmetic by intrinsics: see [`Vector`] for why it is. No closures: they are functions without the instructions, and if the
/// compiler did not inline one, every intrinsic in it would be a call.
macro_rules! by {
    ($($name:ident($($arg:ident),*) = |$x:ident $(, $y:ident)*| $e:expr;)*) => {$(
        #[inline(always)]
        #[allow(unused_unsafe)]
        fn $name(self $(, $arg: Self)*) -> Self {
            let $x = self.0;
            $(let $y = $arg.0;)*
            // SAFETY: every aarch64 processor that Rust supports here has NEON.
            Self(unsafe { $e })
        }
    )*};
}

#[allow(unused_unsafe)]
impl Vector for F32x4 {
    const LANES: usize = 4;
    const ISA: super::Isa = super::Isa::Neon;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller vouches for NEON.
        Self(unsafe { vdupq_n_f32(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for NEON and the reads.
        Self(unsafe { vld1q_f32(p) })
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        let mut lanes = [0.0; 4];
        // SAFETY: the caller vouches for NEON and `n < 4` reads.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            Self(vld1q_f32(lanes.as_ptr()))
        }
    }
    #[inline(always)]
    unsafe fn load_lanes(p: *const f32, chosen: u32) -> Self {
        let mut lanes = [0.0; 4];
        for (i, lane) in lanes.iter_mut().enumerate() {
            if chosen >> i & 1 == 1 {
                // SAFETY: the caller vouches for the read.
                *lane = unsafe { p.add(i).read() };
            }
        }
        // SAFETY: the caller vouches for NEON; the array has 4 elements.
        Self(unsafe { vld1q_f32(lanes.as_ptr()) })
    }
    #[inline(always)]
    unsafe fn load_even(p: *const f32, chosen: u32) -> Self {
        let mut lanes = [0.0; 4];
        for (i, lane) in lanes.iter_mut().enumerate() {
            if chosen >> (2 * i) & 1 == 1 {
                // SAFETY: the caller vouches for the read.
                *lane = unsafe { p.add(2 * i).read() };
            }
        }
        // SAFETY: the caller vouches for NEON; the array has 4 elements.
        Self(unsafe { vld1q_f32(lanes.as_ptr()) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for the writes.
        unsafe { vst1q_f32(p, self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        let mut lanes = [0.0; 4];
        // SAFETY: the caller vouches for `n < 4` writes.
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), self.0);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    fn prefetch(_p: *const f32) {}
    #[inline(always)]
    fn like(self, x: f32) -> Self {
        // SAFETY: `self` shows that NEON is there.
        Self(unsafe { vdupq_n_f32(x) })
    }
    by! {
        add(b) = |a, b| vaddq_f32(a, b);
        sub(b) = |a, b| vsubq_f32(a, b);
        mul(b) = |a, b| vmulq_f32(a, b);
        div(b) = |a, b| vdivq_f32(a, b);
        fma(a, b) = |x, a, b| vfmaq_f32(b, x, a);
        max(b) = |a, b| vbslq_f32(vcgtq_f32(a, b), a, b);
        min(b) = |a, b| vbslq_f32(vcltq_f32(a, b), a, b);
        or(b) = |a, b| vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)));
        abs() = |a| vabsq_f32(a);
        copysign(s) = |a, s| vbslq_f32(vdupq_n_u32(0x8000_0000), s, a);
        select_lt(b, yes, no) = |a, b, yes, no| vbslq_f32(vcltq_f32(a, b), yes, no);
        scale2(n) = |a, n| {
            // Two factors, because 2^n itself may not be a float: the first product is exact, so it rounds once.
            let n = vcvtq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let rest = vsubq_s32(n, half);
            let bias = vdupq_n_s32(127);
            let half = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(half, bias)));
            let rest = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(rest, bias)));
            vmulq_f32(vmulq_f32(a, half), rest)
        };
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: `self` shows that NEON is there.
        unsafe {
            let v = vadd_f32(vget_low_f32(self.0), vget_high_f32(self.0));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        }
    }
    #[inline(always)]
    fn max_lane(self) -> f32 {
        // SAFETY: `self` shows that NEON is there.
        unsafe { vmaxvq_f32(self.0) }
    }
}
