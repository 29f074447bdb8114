//! Conversions: between register types, and between memory and registers.
//!
//! A register holds `f32` for f32, f16 and bf16, `u8` for bool, and the element itself for all others.

use std::marker::PhantomData;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use streampool_core::op::DType;

use super::function::{CHUNK, Function1, Loop, Source, apply1};
use super::number::Bits;
use crate::simd::multiversion;

/// The type of a register that holds elements of this dtype.
pub(super) fn register_type(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        d => d,
    }
}

/// `A` to `R` as C does it.
struct To<A, R>(PhantomData<(A, R)>);

macro_rules! casts {
    ($($a:ty => $($r:ty)*;)*) => {$($(
        impl Function1 for To<$a, $r> {
            type A = $a;
            type R = $r;
            #[inline(always)]
            fn call(a: $a) -> $r { a as $r }
        }
    )*)*};
}
casts! {
    f32 => f32 f64 i8 u8 i32 i64;
    f64 => f32 f64 i8 u8 i32 i64;
    i8 => f32 f64 i8 u8 i32 i64;
    u8 => f32 f64 i8 u8 i32 i64;
    i32 => f32 f64 i8 u8 i32 i64;
    i64 => f32 f64 i8 u8 i32 i64;
}

/// `!= 0`, for NaN true.
struct ToBool<A>(PhantomData<A>);
/// From a byte that is true if it is not 0.
struct FromBool<R>(PhantomData<R>);
/// Rounded to 16 bits and back.
struct RoundTo<A, H>(PhantomData<(A, H)>);

macro_rules! bools {
    ($($t:ty)*) => {$(
        impl Function1 for ToBool<$t> {
            type A = $t;
            type R = u8;
            #[inline(always)]
            fn call(a: $t) -> u8 { u8::from(a != (0 as $t)) }
        }
        impl Function1 for FromBool<$t> {
            type A = u8;
            type R = $t;
            #[inline(always)]
            fn call(a: u8) -> $t { u8::from(a != 0) as $t }
        }
    )*};
}
bools! { f32 f64 i8 u8 i32 i64 }

/// Rounds to nearest even; NaN stays NaN.
#[inline(always)]
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // A NaN's payload could be rounded away, or up into the sign.
    (if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }) as u16
}

macro_rules! rounds {
    ($($a:ty, $h:ty: $x:ident => $e:expr;)*) => {$(
        impl Function1 for RoundTo<$a, $h> {
            type A = $a;
            type R = f32;
            #[inline(always)]
            fn call($x: $a) -> f32 { $e }
        }
    )*};
}
rounds! {
    f32, f16: x => f16::from_f32(x).to_f32();
    f64, f16: x => f16::from_f64(x).to_f32();
    i32, f16: x => f16::from_f64(f64::from(x)).to_f32();
    i64, f16: x => f16::from_f64(x as f64).to_f32();
    f32, bf16: x => f32::from_bits(u32::from(to_bf16(x)) << 16);
    f64, bf16: x => bf16::from_f64(x).to_f32();
    i32, bf16: x => bf16::from_f64(f64::from(x)).to_f32();
    i64, bf16: x => bf16::from_f64(x as f64).to_f32();
}

/// The conversion from elements of `from` to elements of `to`, as registers hold them. `None` if they are held alike.
pub(super) fn cast(from: DType, to: DType) -> Option<Loop> {
    use DType::*;
    macro_rules! to {
        ($a:ty) => {
            match to {
                F32 => apply1::<To<$a, f32>>,
                F64 => apply1::<To<$a, f64>>,
                I8 => apply1::<To<$a, i8>>,
                U8 => apply1::<To<$a, u8>>,
                I32 => apply1::<To<$a, i32>>,
                I64 => apply1::<To<$a, i64>>,
                Bool => apply1::<ToBool<$a>>,
                F16 | BF16 => unreachable!("rounded above"),
            }
        };
    }
    Some(match (register_type(from), to) {
        (a, b) if a == b => return None,
        (_, b) if from == b => return None,
        // All integers of 8 bits and bools are exact in 16-bit floats (bf16 has 8 significant bits).
        (I8, F16 | BF16) => apply1::<To<i8, f32>>,
        (U8, F16 | BF16) => apply1::<To<u8, f32>>,
        (Bool, F16 | BF16) => apply1::<FromBool<f32>>,
        (F32, F16) => apply1::<RoundTo<f32, f16>>,
        (F64, F16) => apply1::<RoundTo<f64, f16>>,
        (I32, F16) => apply1::<RoundTo<i32, f16>>,
        (I64, F16) => apply1::<RoundTo<i64, f16>>,
        (F32, BF16) => apply1::<RoundTo<f32, bf16>>,
        (F64, BF16) => apply1::<RoundTo<f64, bf16>>,
        (I32, BF16) => apply1::<RoundTo<i32, bf16>>,
        (I64, BF16) => apply1::<RoundTo<i64, bf16>>,
        (F32, _) => to!(f32),
        (F64, _) => to!(f64),
        (I8, _) => to!(i8),
        (U8, _) => to!(u8),
        (I32, _) => to!(i32),
        (I64, _) => to!(i64),
        (Bool, _) => match to {
            F32 => apply1::<FromBool<f32>>,
            F64 => apply1::<FromBool<f64>>,
            I8 => apply1::<FromBool<i8>>,
            U8 => apply1::<FromBool<u8>>,
            I32 => apply1::<FromBool<i32>>,
            _ => apply1::<FromBool<i64>>,
        },
        (F16 | BF16, _) => unreachable!("no register holds 16-bit floats"),
    })
}

/// Gathers `n` elements that are `stride` elements apart from memory into a register.
///
/// # Safety
/// Every element read is valid, `register` for `n` writes; they do not overlap.
pub(super) unsafe fn load(dtype: DType, register: *mut u8, first: *const u8, stride: isize, n: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        match dtype {
            DType::F16 => {
                let dst = std::slice::from_raw_parts_mut(register.cast::<f32>(), n);
                let src = first.cast::<f16>();
                if stride == 1 {
                    std::slice::from_raw_parts(src, n).convert_to_f32_slice(dst);
                } else {
                    for (i, d) in dst.iter_mut().enumerate() {
                        *d = src.offset(i as isize * stride).read().to_f32();
                    }
                }
            }
            DType::BF16 => {
                let dst = std::slice::from_raw_parts_mut(register.cast::<f32>(), n);
                let src = first.cast::<u16>();
                if stride == 1 {
                    widen_bf16(std::slice::from_raw_parts(src, n), dst);
                } else {
                    for (i, d) in dst.iter_mut().enumerate() {
                        *d = f32::from_bits(u32::from(src.offset(i as isize * stride).read()) << 16);
                    }
                }
            }
            _ => match dtype.size() {
                8 => gather::<u64>(register, first, stride, n),
                4 => gather::<u32>(register, first, stride, n),
                _ => gather::<u8>(register, first, stride, n),
            },
        }
    }
}

/// # Safety
/// As [`load`].
unsafe fn gather<T: Copy>(register: *mut u8, first: *const u8, stride: isize, n: usize) {
    let (dst, src) = (register.cast::<T>(), first.cast::<T>());
    // SAFETY: passed on from the caller.
    unsafe {
        match stride {
            1 => std::ptr::copy_nonoverlapping(src, dst, n),
            0 => {
                let x = src.read();
                for i in 0..n {
                    dst.add(i).write(x);
                }
            }
            _ => {
                for i in 0..n {
                    dst.add(i).write(src.offset(i as isize * stride).read());
                }
            }
        }
    }
}

/// Writes `n` elements of a register to memory.
///
/// # Safety
/// `source` is valid as [`super::function::Block::new`] says, `memory` for `n` writes; they do not overlap or are the same with elements of the same size.
pub(super) unsafe fn store(dtype: DType, memory: *mut u8, source: Source, n: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        if source.step == 0 {
            let mut one = [0u8; 8];
            let size = dtype.size();
            match dtype {
                DType::F16 | DType::BF16 => {
                    let x = source.first.cast::<f32>().read();
                    let bits = if dtype == DType::F16 { f16::from_f32(x).to_bits() } else { to_bf16(x) };
                    one[..2].copy_from_slice(&bits.to_ne_bytes());
                }
                _ => one[..size].copy_from_slice(std::slice::from_raw_parts(source.first, size)),
            }
            fill(memory, &one[..size], n);
            return;
        }
        match dtype {
            DType::F16 => {
                let src = std::slice::from_raw_parts(source.first.cast::<f32>(), n);
                std::slice::from_raw_parts_mut(memory.cast::<f16>(), n).convert_from_f32_slice(src);
            }
            DType::BF16 => {
                let src = std::slice::from_raw_parts(source.first.cast::<f32>(), n);
                narrow_bf16(src, std::slice::from_raw_parts_mut(memory.cast::<u16>(), n));
            }
            _ => std::ptr::copy(source.first, memory, n * dtype.size()),
        }
    }
}

/// Writes one element `n` times.
///
/// # Safety
/// `memory` is aligned for the element's size and valid for `n` writes of it.
pub(crate) unsafe fn fill(memory: *mut u8, element: &[u8], n: usize) {
    macro_rules! fill {
        ($t:ty) => {{
            let x = <$t>::from_ne_bytes(element.try_into().expect("the match is on the length"));
            std::slice::from_raw_parts_mut(memory.cast::<std::mem::MaybeUninit<$t>>(), n)
                .fill(std::mem::MaybeUninit::new(x));
        }};
    }
    // SAFETY: passed on from the caller.
    unsafe {
        match element.len() {
            8 => fill!(u64),
            4 => fill!(u32),
            2 => fill!(u16),
            _ => fill!(u8),
        }
    }
}

multiversion! {
    /// bf16 to f32.
    pub(crate) fn widen_bf16(from: &[u16], to: &mut [f32]) {
        for (t, &f) in to.iter_mut().zip(from) {
            *t = f32::from_bits(u32::from(f) << 16);
        }
    }

    /// f32 to bf16.
    pub(crate) fn narrow_bf16(from: &[f32], to: &mut [u16]) {
        for (t, &f) in to.iter_mut().zip(from) {
            *t = to_bf16(f);
        }
    }
}

/// Repeats the first element of a chunk-sized buffer through it.
///
/// # Safety
/// `buffer` is valid for [`CHUNK`] elements and holds the first.
pub(super) unsafe fn splat(dtype: DType, buffer: *mut u8) {
    /// # Safety
    /// As [`splat`].
    unsafe fn repeat<T: Bits>(buffer: *mut u8) {
        let p = buffer.cast::<T>();
        // SAFETY: passed on from the caller.
        unsafe { p.cast::<[T; CHUNK]>().write([p.read(); CHUNK]) }
    }
    // SAFETY: passed on from the caller.
    unsafe {
        match register_type(dtype).size() {
            8 => repeat::<i64>(buffer),
            4 => repeat::<i32>(buffer),
            _ => repeat::<u8>(buffer),
        }
    }
}
