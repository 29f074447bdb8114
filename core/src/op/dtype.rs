//! Element types.

use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// Signed 8 bit.
    I8,
    /// Unsigned 8 bit.
    U8,
    /// Signed 32 bit.
    I32,
    /// Signed 64 bit.
    I64,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// All of them.
    pub const ALL: [DType; 9] = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::I8,
        DType::U8,
        DType::I32,
        DType::I64,
        DType::Bool,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether it has a fraction.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }

    /// Whether it is an integer (bool is not).
    pub const fn is_int(self) -> bool {
        matches!(self, DType::I8 | DType::U8 | DType::I32 | DType::I64)
    }

    /// PyTorch's and NumPy's name: `"float32"`, `"int64"`, ...
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "float32",
            DType::F64 => "float64",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::I8 => "int8",
            DType::U8 => "uint8",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is the element of a tensor.
pub trait Element:
    Copy + Send + Sync + PartialEq + fmt::Debug + bytemuck::CheckedBitPattern + bytemuck::NoUninit + 'static
{
    /// Its [`DType`].
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty = $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
elements!(
    f32 = F32,
    f64 = F64,
    half::f16 = F16,
    half::bf16 = BF16,
    i8 = I8,
    u8 = U8,
    i32 = I32,
    i64 = I64,
    bool = Bool
);

/// One value of any dtype, comparable and hashable by its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scalar {
    dtype: DType,
    /// Little-endian bits of the element, zero-extended.
    bits: u64,
}

impl Scalar {
    /// `value` as an element of `dtype`: rounded to nearest for floats, saturated for integers, `!= 0` for bool.
    pub fn from_f64(dtype: DType, value: f64) -> Self {
        let bits = match dtype {
            DType::F32 => u64::from((value as f32).to_bits()),
            DType::F64 => value.to_bits(),
            DType::F16 => u64::from(half::f16::from_f64(value).to_bits()),
            DType::BF16 => u64::from(half::bf16::from_f64(value).to_bits()),
            DType::I8 => u64::from(value as i8 as u8),
            DType::U8 => u64::from(value as u8),
            DType::I32 => u64::from(value as i32 as u32),
            DType::I64 => value as i64 as u64,
            DType::Bool => u64::from(value != 0.0),
        };
        Self { dtype, bits }
    }

    /// `value` as an element of `dtype`; integers wrap as a C cast does.
    pub fn from_i64(dtype: DType, value: i64) -> Self {
        match dtype {
            DType::I8 => Self { dtype, bits: u64::from(value as u8) },
            DType::U8 => Self { dtype, bits: u64::from(value as u8) },
            DType::I32 => Self { dtype, bits: u64::from(value as u32) },
            DType::I64 => Self { dtype, bits: value as u64 },
            DType::Bool => Self { dtype, bits: u64::from(value != 0) },
            _ => Self::from_f64(dtype, value as f64),
        }
    }

    /// From the element's bits (little endian, zero-extended).
    pub const fn from_bits(dtype: DType, bits: u64) -> Self {
        Self { dtype, bits }
    }

    /// Its dtype.
    pub const fn dtype(self) -> DType {
        self.dtype
    }

    /// Its bits, zero-extended.
    pub const fn bits(self) -> u64 {
        self.bits
    }

    /// Its value as `f64` (an `i64` may lose low bits).
    pub fn to_f64(self) -> f64 {
        match self.dtype {
            DType::F32 => f64::from(f32::from_bits(self.bits as u32)),
            DType::F64 => f64::from_bits(self.bits),
            DType::F16 => half::f16::from_bits(self.bits as u16).to_f64(),
            DType::BF16 => half::bf16::from_bits(self.bits as u16).to_f64(),
            _ => self.to_i64() as f64,
        }
    }

    /// Its value as `i64`; floats are truncated and saturate.
    pub fn to_i64(self) -> i64 {
        match self.dtype {
            DType::I8 => i64::from(self.bits as u8 as i8),
            DType::U8 | DType::Bool => i64::from(self.bits as u8),
            DType::I32 => i64::from(self.bits as u32 as i32),
            DType::I64 => self.bits as i64,
            _ => self.to_f64() as i64,
        }
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dtype.is_float() {
            write!(f, "{}:{}", self.to_f64(), self.dtype)
        } else {
            write!(f, "{}:{}", self.to_i64(), self.dtype)
        }
    }
}
