//! The processor's vector instructions, chosen at run time.
//!
//! [`Isa`] is what this processor has; [`Vector`] is one register of `f32` under one of them; [`math`] has elementary
//! functions written once over [`Vector`]; [`slice`] applies them to arrays with the best instructions;
//! [`multiversion!`] compiles one plain Rust function several times so that the compiler vectorises each.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
pub(crate) mod slice;
mod vector;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::F32x8;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::F32x16;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::F32x4;
#[allow(unused_imports)]
pub(crate) use portable::{Lane, Portable};
pub(crate) use vector::Vector;

/// A set of vector instructions.
///
/// Values other than [`Isa::Portable`] come from [`Isa::detect`] or [`Isa::available`] alone: holding one is the proof that this processor
/// has the instructions, which the `unsafe` dispatch below relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Isa {
    /// AVX-512 F, BW, DQ, VL: 16 lanes, 32 registers, masks.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and F16C: 8 lanes, 16 registers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 4 lanes, 32 registers; every aarch64 processor has it.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Plain Rust for the compiler to vectorise. Without fused multiply-add, so its last bits differ from the others'.
    Portable,
}

impl Isa {
    /// The best of this processor. The detection itself is cached by the standard library: a load and a branch.
    #[inline]
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("fma")
                && std::is_x86_feature_detected!("f16c")
            {
                return Isa::Avx512;
            }
            if std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("fma")
                && std::is_x86_feature_detected!("f16c")
            {
                return Isa::Avx2;
            }
            Isa::Portable
        }
        #[cfg(target_arch = "aarch64")]
        {
            Isa::Neon
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            Isa::Portable
        }
    }

    /// All that this processor can run, best first.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let best = Self::detect();
        let mut all = vec![best];
        #[cfg(target_arch = "x86_64")]
        if best == Isa::Avx512 {
            all.push(Isa::Avx2);
        }
        if best != Isa::Portable {
            all.push(Isa::Portable);
        }
        all
    }

    /// The name people see.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }
}

/// Compiles a plain function once per instruction set, for the compiler to vectorise, and calls the best at run time.
///
/// ```ignore
/// multiversion! {
///     /// Sum of absolute values.
///     pub(crate) fn abs_sum(x: &[f32]) -> f32 { ... }
///     // One level of generics, each with one bound by path:
///     fn axpy[T: Number](a: T, x: &[T], y: &mut [T]) { ... }
/// }
/// ```
/// The body is inlined into each version; functions it calls are compiled for the version only if they are inlined
/// (`#[inline(always)]`). Call it for at least some hundred elements: a call costs a branch and no inlining.
macro_rules! multiversion {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident $([$($g:ident : $bound:path),+])? ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)+) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx512 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                body $(::<$($g),+>)? ($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                body $(::<$($g),+>)? ($($arg),*)
            }
            match $crate::simd::Isa::detect() {
                // SAFETY: `Isa` values prove that this processor has the instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx512 => unsafe { avx512 $(::<$($g),+>)? ($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx2 => unsafe { avx2 $(::<$($g),+>)? ($($arg),*) },
                _ => body $(::<$($g),+>)? ($($arg),*),
            }
        }
    )+};
}
#[allow(unused_imports)]
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    multiversion! {
        fn sum_of(x: &[f32]) -> f32 {
            x.iter().sum()
        }
        fn largest[T: Ord](x: &[T]) -> Option<&T> {
            x.iter().max()
        }
    }

    #[test]
    fn multiversioned_functions_compute_what_they_say() {
        assert_eq!(sum_of(&[1.0, 2.0, 3.5]), 6.5);
        assert_eq!(largest(&[3, 9, 2]), Some(&9));
    }
}
