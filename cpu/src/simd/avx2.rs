//! [`Vector`] over AVX2 and FMA.

use std::arch::x86_64::*;

use super::Vector;

/// 8 lanes.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(__m256);

/// All ones in the first `n` lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn first(n: usize) -> __m256i {
    debug_assert!(n < 8);
    // SAFETY: the caller vouches for AVX2.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// All ones in the lanes whose bit is set.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn chosen(lanes: u32) -> __m256i {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(lanes as i32), bits), bits)
    }
}

/// Sum of the lanes, halves first.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn sum(v: __m256) -> f32 {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
    }
}

/// Safe arithmetic by intrinsics: see [`Vector`] for why it is. No closures: they are functions without the instructions, and if the
/// compiler did not inline one, every intrinsic in it would be a call.
macro_rules! by {
    ($($name:ident($($arg:ident),*) = |$x:ident $(, $y:ident)*| $e:expr;)*) => {$(
        #[inline(always)]
        fn $name(self $(, $arg: Self)*) -> Self {
            let $x = self.0;
            $(let $y = $arg.0;)*
            // SAFETY: a value of this type exists, so the processor has AVX2 and FMA (the contract of `Vector`).
            Self(unsafe { $e })
        }
    )*};
}

impl Vector for F32x8 {
    const LANES: usize = 8;
    const ISA: super::Isa = super::Isa::Avx2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller vouches for AVX2.
        Self(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for AVX2 and the reads.
        Self(unsafe { _mm256_loadu_ps(p) })
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        // SAFETY: the caller vouches for AVX2 and the reads; masked lanes are not read.
        Self(unsafe { _mm256_maskload_ps(p, first(n)) })
    }
    #[inline(always)]
    unsafe fn load_lanes(p: *const f32, lanes: u32) -> Self {
        // SAFETY: the caller vouches for AVX2 and the reads; masked lanes are not read.
        Self(unsafe { _mm256_maskload_ps(p, chosen(lanes)) })
    }
    #[inline(always)]
    unsafe fn load_even(p: *const f32, lanes: u32) -> Self {
        // SAFETY: as above.
        unsafe {
            let lo = _mm256_maskload_ps(p, chosen(lanes));
            let hi = _mm256_maskload_ps(p.wrapping_add(8), chosen(lanes >> 8));
            // Even lanes of each half, then the halves in order.
            let pairs = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(lo, hi));
            Self(_mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(pairs)))
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for the writes, `self` for AVX2.
        unsafe { _mm256_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: the caller vouches for the writes, `self` for AVX2; masked lanes are not written.
        unsafe { _mm256_maskstore_ps(p, first(n), self.0) }
    }
    #[inline(always)]
    fn prefetch(p: *const f32) {
        // SAFETY: part of SSE, which every x86-64 processor has; it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn like(self, x: f32) -> Self {
        // SAFETY: `self` shows that AVX2 is there.
        Self(unsafe { _mm256_set1_ps(x) })
    }
    by! {
        add(b) = |a, b| _mm256_add_ps(a, b);
        sub(b) = |a, b| _mm256_sub_ps(a, b);
        mul(b) = |a, b| _mm256_mul_ps(a, b);
        div(b) = |a, b| _mm256_div_ps(a, b);
        fma(a, b) = |x, a, b| _mm256_fmadd_ps(x, a, b);
        max(b) = |a, b| _mm256_max_ps(a, b);
        min(b) = |a, b| _mm256_min_ps(a, b);
        or(b) = |a, b| _mm256_or_ps(a, b);
        abs() = |a| _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        copysign(s) = |a, s| {
            let sign = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, s))
        };
        select_lt(b, yes, no) = |a, b, yes, no| _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        scale2(n) = |a, n| {
            // Two factors, because 2^n itself may not be a float: the first product is exact, so it rounds once.
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let rest = _mm256_sub_epi32(n, half);
            let bias = _mm256_set1_epi32(127);
            let half = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias)));
            let rest = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(rest, bias)));
            _mm256_mul_ps(_mm256_mul_ps(a, half), rest)
        };
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: `self` shows that AVX2 is there.
        unsafe { sum(self.0) }
    }
    #[inline(always)]
    fn max_lane(self) -> f32 {
        // SAFETY: `self` shows that AVX2 is there.
        unsafe {
            let v = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
}
