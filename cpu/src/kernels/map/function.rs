//! Loops over blocks of elements: one function of one, two or three elements applied to each.

use std::marker::PhantomData;

use super::number::{Bits, Float, Int, Number};
#[cfg(target_arch = "aarch64")]
use crate::simd::F32x4;
#[cfg(target_arch = "x86_64")]
use crate::simd::{F32x8, F32x16};
use crate::simd::{Isa, Portable, Vector, multiversion};

/// Elements that are read together before their results are written: a source may be the destination itself, and an
/// operand that is one value everywhere is stored this many times.
pub(super) const CHUNK: usize = 16;

/// Where an operand of a block lies.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) first: *const u8,
    /// 1: one element after the other. 0: [`CHUNK`] copies of one value.
    pub(super) step: usize,
}

/// One block of work.
pub(super) struct Block {
    destination: *mut u8,
    sources: [Source; 3],
    len: usize,
}

impl Block {
    /// # Safety
    /// `destination` is valid for `len` writes of the function's result, rounded up to [`CHUNK`] if all sources have step 0; each source that the
    /// function reads is valid for `len` reads of its operand (step 1) or for [`CHUNK`] (step 0); all are aligned; the destination
    /// overlaps no source, except one that starts at the very same address with elements of the same size.
    pub(super) unsafe fn new(destination: *mut u8, sources: [Source; 3], len: usize) -> Self {
        Self { destination, sources, len }
    }
}

/// A compiled loop.
pub(super) type Loop = fn(&Block);

/// A function of one element.
pub(super) trait Function1 {
    type A: Copy + Default;
    type R: Copy + Default;
    fn call(a: Self::A) -> Self::R;
}

/// A function of two elements.
pub(super) trait Function2 {
    type A: Copy + Default;
    type R: Copy + Default;
    fn call(a: Self::A, b: Self::A) -> Self::R;
}

/// A function of a single-precision vector.
pub(super) trait VectorFunction {
    fn call<V: Vector>(x: V) -> V;
}

multiversion! {
    /// Applies a function of one element.
    pub(super) fn apply1[F: Function1](block: &Block) {
        let (dst, a) = (block.destination.cast::<F::R>(), block.sources[0]);
        let src = a.first.cast::<F::A>();
        let mut i = 0;
        // SAFETY: the contract of `Block::new`; whole chunks lie within `len`, the rest is copied through an array.
        unsafe {
            while i + CHUNK <= block.len {
                let x = src.add(i * a.step).cast::<[F::A; CHUNK]>().read();
                let mut r = [F::R::default(); CHUNK];
                let mut j = 0;
                while j < CHUNK {
                    r[j] = F::call(x[j]);
                    j += 1;
                }
                dst.add(i).cast::<[F::R; CHUNK]>().write(r);
                i += CHUNK;
            }
            while i < block.len {
                dst.add(i).write(F::call(src.add(i * a.step).read()));
                i += 1;
            }
        }
    }

    /// Applies a function of two elements.
    pub(super) fn apply2[F: Function2](block: &Block) {
        let dst = block.destination.cast::<F::R>();
        let [a, b, _] = block.sources;
        let (x, y) = (a.first.cast::<F::A>(), b.first.cast::<F::A>());
        let mut i = 0;
        // SAFETY: as in `apply1`.
        unsafe {
            while i + CHUNK <= block.len {
                let p = x.add(i * a.step).cast::<[F::A; CHUNK]>().read();
                let q = y.add(i * b.step).cast::<[F::A; CHUNK]>().read();
                let mut r = [F::R::default(); CHUNK];
                let mut j = 0;
                while j < CHUNK {
                    r[j] = F::call(p[j], q[j]);
                    j += 1;
                }
                dst.add(i).cast::<[F::R; CHUNK]>().write(r);
                i += CHUNK;
            }
            while i < block.len {
                dst.add(i).write(F::call(x.add(i * a.step).read(), y.add(i * b.step).read()));
                i += 1;
            }
        }
    }

    /// `if c { a } else { b }`.
    pub(super) fn select[T: Bits](block: &Block) {
        let dst = block.destination.cast::<T>();
        let [c, a, b] = block.sources;
        let (x, y) = (a.first.cast::<T>(), b.first.cast::<T>());
        let mut i = 0;
        // SAFETY: as in `apply1`.
        unsafe {
            while i + CHUNK <= block.len {
                let t = c.first.add(i * c.step).cast::<[u8; CHUNK]>().read();
                let p = x.add(i * a.step).cast::<[T; CHUNK]>().read();
                let q = y.add(i * b.step).cast::<[T; CHUNK]>().read();
                let mut r = [T::default(); CHUNK];
                let mut j = 0;
                while j < CHUNK {
                    r[j] = if t[j] != 0 { p[j] } else { q[j] };
                    j += 1;
                }
                dst.add(i).cast::<[T; CHUNK]>().write(r);
                i += CHUNK;
            }
            while i < block.len {
                let (p, q) = (x.add(i * a.step).read(), y.add(i * b.step).read());
                dst.add(i).write(if c.first.add(i * c.step).read() != 0 { p } else { q });
                i += 1;
            }
        }
    }
}

/// Applies a function that is written over vectors.
pub(super) fn apply_vector<F: VectorFunction>(block: &Block) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn avx512<F: VectorFunction>(block: &Block) {
        // SAFETY: this function's instructions are there.
        unsafe { vectors::<F, F32x16>(block) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<F: VectorFunction>(block: &Block) {
        // SAFETY: this function's instructions are there.
        unsafe { vectors::<F, F32x8>(block) }
    }
    match Isa::detect() {
        // SAFETY: `Isa` values prove that this processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::<F>(block) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::<F>(block) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { vectors::<F, F32x4>(block) },
        // SAFETY: the portable vectors need no particular instructions.
        Isa::Portable => unsafe { vectors::<F, Portable>(block) },
    }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn vectors<F: VectorFunction, V: Vector>(block: &Block) {
    let a = block.sources[0];
    let (dst, src) = (block.destination.cast::<f32>(), a.first.cast::<f32>());
    let mut i = 0;
    // SAFETY: the contract of `Block::new`: whole registers lie within `len`, the rest is masked. The caller vouches for the instructions.
    unsafe {
        while i + V::LANES <= block.len {
            F::call(V::load(src.add(i * a.step))).store(dst.add(i));
            i += V::LANES;
        }
        let rest = block.len - i;
        if rest > 0 {
            F::call(V::load_first(src.add(i * a.step), rest)).store_first(dst.add(i), rest);
        }
    }
}

/// Names of functions as types, each with what it computes.
macro_rules! functions1 {
    ($($name:ident<$bound:ident>($x:ident) = $e:expr;)*) => {$(
        pub(super) struct $name<T>(PhantomData<T>);
        impl<T: $bound> Function1 for $name<T> {
            type A = T;
            type R = T;
            #[inline(always)]
            fn call($x: T) -> T { $e }
        }
    )*};
}
functions1! {
    Neg<Number>(x) = x.neg();
    Abs<Number>(x) = x.abs();
    Sign<Number>(x) = x.sign();
    Relu<Number>(x) = x.relu();
    BitNot<Int>(x) = x.not();
    Ceil<Float>(x) = x.ceil();
    Floor<Float>(x) = x.floor();
    Trunc<Float>(x) = x.trunc();
    Round<Float>(x) = x.round();
    Sqrt<Float>(x) = x.sqrt();
    Rsqrt<Float>(x) = T::ONE / x.sqrt();
    Reciprocal<Float>(x) = T::ONE / x;
    Exp<Float>(x) = x.exp();
    Log<Float>(x) = x.ln();
    Log1p<Float>(x) = x.ln_1p();
    Expm1<Float>(x) = x.exp_m1();
    Sin<Float>(x) = x.sin();
    Cos<Float>(x) = x.cos();
    Tan<Float>(x) = x.tan();
    Asin<Float>(x) = x.asin();
    Acos<Float>(x) = x.acos();
    Atan<Float>(x) = x.atan();
    Sinh<Float>(x) = x.sinh();
    Cosh<Float>(x) = x.cosh();
    Tanh<Float>(x) = x.tanh();
    Asinh<Float>(x) = x.asinh();
    Acosh<Float>(x) = x.acosh();
    Atanh<Float>(x) = x.atanh();
    Erf<Float>(x) = x.erf();
    Sigmoid<Float>(x) = x.sigmoid();
    Gelu<Float>(x) = x.gelu();
    GeluTanh<Float>(x) = x.gelu_tanh();
    Silu<Float>(x) = x * x.sigmoid();
    Softplus<Float>(x) = x.softplus();
}

macro_rules! tests1 {
    ($($name:ident($x:ident) = $e:expr;)*) => {$(
        pub(super) struct $name<T>(PhantomData<T>);
        impl<T: Float> Function1 for $name<T> {
            type A = T;
            type R = u8;
            #[inline(always)]
            fn call($x: T) -> u8 { u8::from($e) }
        }
    )*};
}
tests1! {
    IsNan(x) = x.is_nan();
    IsInf(x) = x == T::INFINITY || x == T::NEG_INFINITY;
    IsPosInf(x) = x == T::INFINITY;
    IsNegInf(x) = x == T::NEG_INFINITY;
}

/// Boolean negation.
pub(super) struct Not;
impl Function1 for Not {
    type A = u8;
    type R = u8;
    #[inline(always)]
    fn call(a: u8) -> u8 {
        u8::from(a == 0)
    }
}

macro_rules! functions2 {
    ($($name:ident<$bound:ident>($x:ident, $y:ident) -> $r:ty = $e:expr;)*) => {$(
        pub(super) struct $name<T>(PhantomData<T>);
        impl<T: $bound> Function2 for $name<T> {
            type A = T;
            type R = $r;
            #[inline(always)]
            fn call($x: T, $y: T) -> $r { $e }
        }
    )*};
}
functions2! {
    Add<Number>(x, y) -> T = x.add(y);
    Sub<Number>(x, y) -> T = x.sub(y);
    Mul<Number>(x, y) -> T = x.mul(y);
    Div<Number>(x, y) -> T = x.div(y);
    FloorDiv<Number>(x, y) -> T = x.floor_div(y);
    Rem<Number>(x, y) -> T = x.rem(y);
    Mod<Number>(x, y) -> T = x.modulo(y);
    Pow<Number>(x, y) -> T = x.pow(y);
    Min<Number>(x, y) -> T = x.min(y);
    Max<Number>(x, y) -> T = x.max(y);
    Atan2<Float>(x, y) -> T = x.atan2(y);
    Eq<Bits>(x, y) -> u8 = u8::from(x == y);
    Ne<Bits>(x, y) -> u8 = u8::from(x != y);
    Lt<Number>(x, y) -> u8 = u8::from(x < y);
    Le<Number>(x, y) -> u8 = u8::from(x <= y);
    Gt<Number>(x, y) -> u8 = u8::from(x > y);
    Ge<Number>(x, y) -> u8 = u8::from(x >= y);
    BitAnd<Int>(x, y) -> T = x.and(y);
    BitOr<Int>(x, y) -> T = x.or(y);
    BitXor<Int>(x, y) -> T = x.xor(y);
    Shl<Int>(x, y) -> T = x.shl(y);
    Shr<Int>(x, y) -> T = x.shr(y);
}

macro_rules! logic {
    ($($name:ident($x:ident, $y:ident) = $e:expr;)*) => {$(
        /// Of bools, any byte but 0 being true.
        pub(super) struct $name;
        impl Function2 for $name {
            type A = u8;
            type R = u8;
            #[inline(always)]
            fn call($x: u8, $y: u8) -> u8 { u8::from($e) }
        }
    )*};
}
logic! {
    And(x, y) = (x != 0) & (y != 0);
    Or(x, y) = (x | y) != 0;
    Xor(x, y) = (x != 0) ^ (y != 0);
    EqBool(x, y) = (x != 0) == (y != 0);
    NeBool(x, y) = (x != 0) != (y != 0);
}

/// Of single-precision vectors.
macro_rules! vector_functions {
    ($($name:ident = $f:ident;)*) => {$(
        pub(super) struct $name;
        impl VectorFunction for $name {
            #[inline(always)]
            fn call<V: Vector>(x: V) -> V { crate::simd::math::$f(x) }
        }
    )*};
}
vector_functions! {
    VectorExp = exp;
    VectorTanh = tanh;
    VectorErf = erf;
    VectorSigmoid = sigmoid;
    VectorSilu = silu;
    VectorGelu = gelu;
    VectorGeluTanh = gelu_tanh;
}
