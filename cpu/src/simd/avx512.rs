//! [`Vector`] over AVX-512.

use std::arch::x86_64::*;

use super::Vector;

/// 16 lanes.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(__m512);

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n < 16);
    ((1u32 << n) - 1) as __mmask16
}

/// Safe arithmetic by intrinsics: see [`Vector`] for why it is. No closures: they are functions without the instructions, and if the
/// compiler did not inline one, every intrinsic in it would be a call.
macro_rules! by {
    ($($name:ident($($arg:ident),*) = |$x:ident $(, $y:ident)*| $e:expr;)*) => {$(
        #[inline(always)]
        fn $name(self $(, $arg: Self)*) -> Self {
            let $x = self.0;
            $(let $y = $arg.0;)*
            // SAFETY: a value of this type exists, so the processor has AVX-512 (the contract of `Vector`).
            Self(unsafe { $e })
        }
    )*};
}

impl Vector for F32x16 {
    const LANES: usize = 16;
    const ISA: super::Isa = super::Isa::Avx512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller vouches for AVX-512.
        Self(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for AVX-512 and the reads.
        Self(unsafe { _mm512_loadu_ps(p) })
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        // SAFETY: the caller vouches for AVX-512 and the reads; masked lanes are not read.
        Self(unsafe { _mm512_maskz_loadu_ps(first(n), p) })
    }
    #[inline(always)]
    unsafe fn load_lanes(p: *const f32, lanes: u32) -> Self {
        // SAFETY: the caller vouches for AVX-512 and the reads; masked lanes are not read.
        Self(unsafe { _mm512_maskz_loadu_ps(lanes as __mmask16, p) })
    }
    #[inline(always)]
    unsafe fn load_even(p: *const f32, lanes: u32) -> Self {
        // SAFETY: as above.
        unsafe {
            let lo = _mm512_maskz_loadu_ps(lanes as __mmask16, p);
            let hi = _mm512_maskz_loadu_ps((lanes >> 16) as __mmask16, p.wrapping_add(16));
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            Self(_mm512_permutex2var_ps(lo, even, hi))
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for the writes, `self` for AVX-512.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: the caller vouches for the writes, `self` for AVX-512; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(p, first(n), self.0) }
    }
    #[inline(always)]
    fn prefetch(p: *const f32) {
        // SAFETY: part of SSE, which every x86-64 processor has; it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn like(self, x: f32) -> Self {
        // SAFETY: `self` shows that AVX-512 is there.
        Self(unsafe { _mm512_set1_ps(x) })
    }
    by! {
        add(b) = |a, b| _mm512_add_ps(a, b);
        sub(b) = |a, b| _mm512_sub_ps(a, b);
        mul(b) = |a, b| _mm512_mul_ps(a, b);
        div(b) = |a, b| _mm512_div_ps(a, b);
        fma(a, b) = |x, a, b| _mm512_fmadd_ps(x, a, b);
        max(b) = |a, b| _mm512_max_ps(a, b);
        min(b) = |a, b| _mm512_min_ps(a, b);
        or(b) = |a, b| _mm512_or_ps(a, b);
        abs() = |a| _mm512_abs_ps(a);
        copysign(s) = |a, s| {
            let sign = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(sign, a), _mm512_and_ps(sign, s))
        };
        select_lt(b, yes, no) = |a, b, yes, no| _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes);
        scale2(n) = |a, n| _mm512_scalef_ps(a, n);
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: `self` shows that AVX-512 is there.
        unsafe {
            let lo = _mm512_castps512_ps256(self.0);
            let hi = _mm512_extractf32x8_ps::<1>(self.0);
            super::avx2::sum(_mm256_add_ps(lo, hi))
        }
    }
    #[inline(always)]
    fn max_lane(self) -> f32 {
        // SAFETY: `self` shows that AVX-512 is there.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}
