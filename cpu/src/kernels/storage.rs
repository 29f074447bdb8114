//! Elements as they lie in memory, and the numbers that they are computed as.

use half::{bf16, f16};
use streampool_core::op::DType;

use super::map::number::Number;

/// An element in memory.
pub(crate) trait Storage: Copy + Send + Sync + 'static {
    /// What it is computed as: `f32` for 16-bit floats, else itself.
    type Compute: Number;
    /// Read.
    fn get(self) -> Self::Compute;
    /// Rounded to memory's precision.
    fn put(x: Self::Compute) -> Self;
}

macro_rules! plain {
    ($($t:ty)*) => {$(
        impl Storage for $t {
            type Compute = $t;
            #[inline(always)]
            fn get(self) -> $t { self }
            #[inline(always)]
            fn put(x: $t) -> $t { x }
        }
    )*};
}
plain! { f32 f64 i8 u8 i32 i64 }

macro_rules! halves {
    ($($t:ty)*) => {$(
        impl Storage for $t {
            type Compute = f32;
            #[inline(always)]
            fn get(self) -> f32 { self.to_f32() }
            #[inline(always)]
            fn put(x: f32) -> $t { <$t>::from_f32(x) }
        }
    )*};
}
halves! { f16 bf16 }

/// `$body` with `$T` standing for the element type of a numeric dtype.
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            ::streampool_core::op::DType::F32 => {
                type $T = f32;
                $body
            }
            ::streampool_core::op::DType::F64 => {
                type $T = f64;
                $body
            }
            ::streampool_core::op::DType::F16 => {
                type $T = ::half::f16;
                $body
            }
            ::streampool_core::op::DType::BF16 => {
                type $T = ::half::bf16;
                $body
            }
            ::streampool_core::op::DType::I8 => {
                type $T = i8;
                $body
            }
            ::streampool_core::op::DType::U8 | ::streampool_core::op::DType::Bool => {
                type $T = u8;
                $body
            }
            ::streampool_core::op::DType::I32 => {
                type $T = i32;
                $body
            }
            ::streampool_core::op::DType::I64 => {
                type $T = i64;
                $body
            }
        }
    };
}
pub(crate) use with_number;

/// `$body` with `$T` standing for the element type of a float dtype; integers cannot come here.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            ::streampool_core::op::DType::F32 => {
                type $T = f32;
                $body
            }
            ::streampool_core::op::DType::F64 => {
                type $T = f64;
                $body
            }
            ::streampool_core::op::DType::F16 => {
                type $T = ::half::f16;
                $body
            }
            ::streampool_core::op::DType::BF16 => {
                type $T = ::half::bf16;
                $body
            }
            d => unreachable!("inference lets only floats through, not {d}"),
        }
    };
}
pub(crate) use with_float;

/// `$body` with `$T` standing for an unsigned integer of the dtype's size: for moving elements.
macro_rules! with_size {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype.size() {
            8 => {
                type $T = u64;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            2 => {
                type $T = u16;
                $body
            }
            _ => {
                type $T = u8;
                $body
            }
        }
    };
}
pub(crate) use with_size;

/// An index operand's elements: i32 or i64.
#[derive(Clone, Copy)]
pub(crate) struct Indices {
    first: *const u8,
    wide: bool,
}

// SAFETY: an address alone does nothing; reading through it is `unsafe`.
unsafe impl Sync for Indices {}

impl Indices {
    pub(crate) fn new(first: *const u8, dtype: DType) -> Self {
        Self { first, wide: dtype == DType::I64 }
    }

    /// Index `i`, negative ones counted from the end of an axis of `len`. `Err` gives the index as it is.
    ///
    /// # Safety
    /// Element `i` is readable.
    #[inline(always)]
    pub(crate) unsafe fn get(self, i: usize, len: usize) -> Result<usize, i64> {
        // SAFETY: passed on from the caller.
        let raw = unsafe {
            if self.wide {
                self.first.cast::<i64>().add(i).read()
            } else {
                i64::from(self.first.cast::<i32>().add(i).read())
            }
        };
        let wrapped = if raw < 0 { raw.wrapping_add(len as i64) } else { raw };
        if (wrapped as u64) < len as u64 { Ok(wrapped as usize) } else { Err(raw) }
    }
}
