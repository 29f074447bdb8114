//! Elementary functions of arrays, with the best instructions of this processor.

#[cfg(target_arch = "aarch64")]
use super::F32x4;
#[cfg(target_arch = "x86_64")]
use super::{F32x8, F32x16};
use super::{Isa, Portable, Vector, math};

/// A function of one `f32` that has a vector form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)]
pub(crate) enum Function {
    Exp,
    Tanh,
    Erf,
    Sigmoid,
    Silu,
    Gelu,
    GeluTanh,
}

/// Replaces every element of `x` by `f` of it. Cheapest for arrays that are in the first-level cache.
pub(crate) fn apply(f: Function, x: &mut [f32]) {
    apply_with(Isa::detect(), f, x);
}

/// [`apply`] with the instructions `isa`.
pub(crate) fn apply_with(isa: Isa, f: Function, x: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn avx512(f: Function, x: &mut [f32]) {
        // SAFETY: this function's instructions are there.
        unsafe { all::<F32x16>(f, x) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(f: Function, x: &mut [f32]) {
        // SAFETY: this function's instructions are there.
        unsafe { all::<F32x8>(f, x) }
    }
    match isa {
        // SAFETY: `Isa` values prove that this processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(f, x) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(f, x) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { all::<F32x4>(f, x) },
        // SAFETY: the portable vectors need no particular instructions.
        Isa::Portable => unsafe { all::<Portable>(f, x) },
    }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn all<V: Vector>(f: Function, x: &mut [f32]) {
    // SAFETY: passed on from the caller.
    unsafe {
        match f {
            Function::Exp => each::<V>(x, &math::Exp),
            Function::Tanh => each::<V>(x, &math::Tanh),
            Function::Erf => each::<V>(x, &math::Erf),
            Function::Sigmoid => each::<V>(x, &math::Sigmoid),
            Function::Silu => each::<V>(x, &math::Silu),
            Function::Gelu => each::<V>(x, &math::Gelu),
            Function::GeluTanh => each::<V>(x, &math::GeluTanh),
        }
    }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn each<V: Vector>(x: &mut [f32], f: &impl math::Map) {
    let p = x.as_mut_ptr();
    let mut i = 0;
    // SAFETY: `i + LANES <= len` in the loop and `len - i < LANES` after it keep every access inside `x`.
    unsafe {
        while i + V::LANES <= x.len() {
            f.of(V::load(p.add(i))).store(p.add(i));
            i += V::LANES;
        }
        if i < x.len() {
            let n = x.len() - i;
            f.of(V::load_first(p.add(i), n)).store_first(p.add(i), n);
        }
    }
}

/// Replaces every element of `x` by `e^(x - shift)` and returns their sum: the middle of a softmax. The order of the sum
/// depends on the length alone.
#[allow(dead_code)]
pub(crate) fn exp_minus_and_sum(x: &mut [f32], shift: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn avx512(x: &mut [f32], shift: f32) -> f32 {
        // SAFETY: this function's instructions are there.
        unsafe { exp_sum::<F32x16>(x, shift) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(x: &mut [f32], shift: f32) -> f32 {
        // SAFETY: this function's instructions are there.
        unsafe { exp_sum::<F32x8>(x, shift) }
    }
    match Isa::detect() {
        // SAFETY: `Isa` values prove that this processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(x, shift) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(x, shift) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { exp_sum::<F32x4>(x, shift) },
        // SAFETY: the portable vectors need no particular instructions.
        Isa::Portable => unsafe { exp_sum::<Portable>(x, shift) },
    }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn exp_sum<V: Vector>(x: &mut [f32], shift: f32) -> f32 {
    let p = x.as_mut_ptr();
    let mut i = 0;
    // SAFETY: `i + LANES <= len` in the loop and `len - i < LANES` after it keep every access inside `x`.
    unsafe {
        let shift = V::splat(shift);
        let mut sum = V::splat(0.0);
        while i + V::LANES <= x.len() {
            let e = math::exp(V::load(p.add(i)).sub(shift));
            e.store(p.add(i));
            sum = sum.add(e);
            i += V::LANES;
        }
        let mut total = sum.sum();
        while i < x.len() {
            // One by one: lanes past the end would add to the sum.
            let e = math::exp(V::splat(*p.add(i)).sub(shift));
            e.store_first(p.add(i), 1);
            total += *p.add(i);
            i += 1;
        }
        total
    }
}

/// One block of an online softmax: with `old` the greatest score of earlier blocks, replaces the scores `x` by `e^(x - max)`, `max` being the
/// greatest of `old` and all of `x`, and returns `max` and the sum of the results. Where all is -inf, results are 0.
pub(crate) fn softmax_part(isa: Isa, x: &mut [f32], old: f32) -> (f32, f32) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn avx512(x: &mut [f32], old: f32) -> (f32, f32) {
        // SAFETY: this function's instructions are there.
        unsafe { part::<F32x16>(x, old) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(x: &mut [f32], old: f32) -> (f32, f32) {
        // SAFETY: this function's instructions are there.
        unsafe { part::<F32x8>(x, old) }
    }
    match isa {
        // SAFETY: `Isa` values prove that this processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(x, old) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(x, old) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { part::<F32x4>(x, old) },
        // SAFETY: the portable vectors need no particular instructions.
        Isa::Portable => unsafe { part::<Portable>(x, old) },
    }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn part<V: Vector>(x: &mut [f32], old: f32) -> (f32, f32) {
    let p = x.as_mut_ptr();
    let n = x.len() / V::LANES * V::LANES;
    // SAFETY: `i + LANES <= n <= len`.
    unsafe {
        let mut max = V::splat(old);
        for i in (0..n).step_by(V::LANES) {
            max = V::load(p.add(i)).max(max);
        }
        let mut greatest = max.max_lane();
        for i in n..x.len() {
            greatest = greatest.max(*p.add(i));
        }
        // Nothing but -inf: any finite shift makes all results 0.
        let shift = if greatest == f32::NEG_INFINITY { 0.0 } else { greatest };
        (greatest, exp_sum::<V>(x, shift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Complementary error function in f64: Taylor series of erf for small arguments, Lentz's continued fraction of erfc for large.
    fn erfc64(x: f64) -> f64 {
        if x < 0.0 {
            return 2.0 - erfc64(-x);
        }
        if x < 2.5 {
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                let n = n as f64;
                term *= -x * x / n;
                sum += term / (2.0 * n + 1.0);
            }
            return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let mut f = 0.0;
        for n in (1..200).rev() {
            f = n as f64 / 2.0 / (x + f);
        }
        (-x * x).exp() / std::f64::consts::PI.sqrt() / (x + f)
    }

    fn reference(f: Function, x: f32) -> f64 {
        let x = f64::from(x);
        match f {
            Function::Exp => x.exp(),
            Function::Tanh => x.tanh(),
            Function::Erf if x.abs() < 0.5 => {
                // Relative accuracy near 0 is asked for, so no subtraction from 1.
                let (mut term, mut sum) = (x, x);
                for n in 1..40 {
                    let n = n as f64;
                    term *= -x * x / n;
                    sum += term / (2.0 * n + 1.0);
                }
                sum * 2.0 / std::f64::consts::PI.sqrt()
            }
            Function::Erf => 1.0 - erfc64(x),
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::Silu => x / (1.0 + (-x).exp()),
            Function::Gelu => x / 2.0 * erfc64(-x / std::f64::consts::SQRT_2),
            Function::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                x / (1.0 + (-2.0 * u).exp())
            }
        }
    }

    /// Relative error, but absolute below the smallest normal number.
    fn worst(isa: Isa, f: Function, range: std::ops::Range<f32>) -> (f64, f32) {
        let n = 200_003;
        let xs: Vec<f32> =
            (0..n).map(|i| range.start + (range.end - range.start) * (i as f32 + 0.37) / n as f32).collect();
        let mut ys = xs.clone();
        apply_with(isa, f, &mut ys);
        xs.iter().zip(&ys).fold((0.0, 0.0), |(w, at), (&x, &y)| {
            let r = reference(f, x);
            let e = (f64::from(y) - r).abs() / r.abs().max(1.2e-38);
            if e > w { (e, x) } else { (w, at) }
        })
    }

    #[test]
    fn functions_are_as_accurate_as_they_say() {
        const ULP: f64 = 1.2e-7; // 2^-23: one unit relative to the smallest of a binade
        for isa in Isa::available() {
            for (f, range, bound) in [
                (Function::Exp, -87.0..88.7, 1.5 * ULP),
                (Function::Exp, -1e-2..1e-2, 1.5 * ULP),
                (Function::Exp, -105.0..-87.0, 1.5 * ULP),
                (Function::Tanh, -10.0..10.0, 3.0 * ULP),
                (Function::Tanh, -1e-3..1e-3, 2.0 * ULP),
                (Function::Erf, -5.0..5.0, 3e-7),
                (Function::Erf, -1e-3..1e-3, 3e-7),
                (Function::Sigmoid, -85.0..50.0, 4e-7),
                (Function::Silu, -85.0..50.0, 4e-7),
                (Function::Gelu, -5.0..20.0, 3e-6),
                (Function::GeluTanh, -3.0..20.0, 3e-6),
            ] {
                let (e, x) = worst(isa, f, range.clone());
                assert!(e <= bound, "{f:?} on {isa:?} over {range:?}: relative error {e:.3e} at {x}");
            }
        }
    }

    #[test]
    fn special_values_follow_the_limits() {
        let inf = f32::INFINITY;
        for isa in Isa::available() {
            let of = |f, x: f32| {
                let mut v = [x; 1];
                apply_with(isa, f, &mut v);
                let mut w = [x; 35];
                apply_with(isa, f, &mut w);
                assert!(
                    w.iter().all(|y| y.to_bits() == v[0].to_bits()),
                    "{f:?} of {x} differs along an array"
                );
                v[0]
            };
            for f in [
                Function::Exp,
                Function::Tanh,
                Function::Erf,
                Function::Sigmoid,
                Function::Silu,
                Function::Gelu,
                Function::GeluTanh,
            ] {
                assert!(of(f, f32::NAN).is_nan(), "{f:?}");
            }
            assert_eq!(
                (of(Function::Exp, -inf), of(Function::Exp, inf), of(Function::Exp, 0.0)),
                (0.0, inf, 1.0)
            );
            assert_eq!((of(Function::Exp, 89.0), of(Function::Exp, -104.5)), (inf, 0.0));
            assert_eq!((of(Function::Tanh, -inf), of(Function::Tanh, inf)), (-1.0, 1.0));
            assert_eq!(of(Function::Tanh, -0.0).to_bits(), (-0.0f32).to_bits());
            assert_eq!(
                (of(Function::Erf, -inf), of(Function::Erf, inf), of(Function::Erf, 0.0)),
                (-1.0, 1.0, 0.0)
            );
            assert_eq!((of(Function::Sigmoid, -inf), of(Function::Sigmoid, inf)), (0.0, 1.0));
            assert_eq!(
                (of(Function::Gelu, -1e30), of(Function::Gelu, 1e30), of(Function::Gelu, 0.0)),
                (0.0, 1e30, 0.0)
            );
            assert_eq!((of(Function::GeluTanh, -1e4), of(Function::GeluTanh, 1e4)), (0.0, 1e4));
        }
    }

    #[test]
    fn instruction_sets_with_fused_multiply_add_agree_to_the_bit() {
        let fused: Vec<Isa> = Isa::available().into_iter().filter(|&i| i != Isa::Portable).collect();
        let xs: Vec<f32> = (0..4096).map(|i| (i as f32 - 2048.0) * 0.0137).collect();
        for f in [Function::Exp, Function::Tanh, Function::Erf, Function::Gelu, Function::GeluTanh] {
            let results: Vec<Vec<u32>> = fused
                .iter()
                .map(|&isa| {
                    let mut v = xs.clone();
                    apply_with(isa, f, &mut v);
                    v.iter().map(|y| y.to_bits()).collect()
                })
                .collect();
            assert!(results.windows(2).all(|w| w[0] == w[1]), "{f:?}");
        }
    }

    #[test]
    fn exponentials_and_their_sum() {
        for n in [0, 1, 15, 16, 33, 100] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 4.0).collect();
            let mut y = x.clone();
            let sum = exp_minus_and_sum(&mut y, 1.5);
            let want: f64 = x.iter().map(|&v| (f64::from(v) - 1.5).exp()).sum();
            assert!((f64::from(sum) - want).abs() <= 1e-5 * want, "{n}: {sum} against {want}");
            assert!(
                x.iter()
                    .zip(&y)
                    .all(|(&a, &b)| (f64::from(b) - (f64::from(a) - 1.5).exp()).abs() < 1e-6 * f64::from(b))
            );
        }
        let mut inf = [f32::NEG_INFINITY, 0.0];
        assert_eq!(exp_minus_and_sum(&mut inf, 0.0), 1.0);
    }
}
