//! Elementwise work: one small expression per output element, with broadcasting.

use super::{DType, Scalar};

/// A register of a [`Map`]: the result of the instruction with this index.
pub type Reg = u16;

/// One instruction of a [`Map`]. Instruction `i` writes register `i` and reads only lower registers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Instr {
    /// The element of operand `n` at this output position (operands are broadcast to the output's shape).
    Input(u8),
    /// The same value everywhere.
    Const(Scalar),
    /// A function of one register. Keeps the dtype, except tests (`IsNan`, ...), which give bool.
    Unary(Unary, Reg),
    /// A function of two registers of one dtype. Comparisons give bool; all others keep the dtype.
    Binary(Binary, Reg, Reg),
    /// `if c { a } else { b }`; `c` is bool, `a` and `b` of one dtype.
    Select(Reg, Reg, Reg),
    /// Conversion as C does it: float to integer truncates (saturating, NaN to 0), to bool is `!= 0`, integers wrap.
    Cast(DType, Reg),
}

/// Functions of one element. Float functions take any float dtype; f16 and bf16 are computed in f32 and rounded only when
/// stored or cast.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// Floats and signed integers (wrapping).
    Neg,
    /// Floats and signed integers.
    Abs,
    /// -1, 0, 1; NaN stays NaN.
    Sign,
    Ceil,
    Floor,
    Trunc,
    /// Half to even.
    Round,
    Sqrt,
    /// `1 / sqrt(x)`.
    Rsqrt,
    /// `1 / x`.
    Reciprocal,
    Exp,
    Log,
    Log1p,
    Expm1,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Tanh,
    Asinh,
    Acosh,
    Atanh,
    Erf,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `max(x, 0)`; NaN stays NaN. Floats and integers.
    Relu,
    /// `x / 2 * (1 + erf(x / sqrt 2))`.
    Gelu,
    /// The tanh approximation of Gelu.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
    /// `log(1 + exp(x))`, without overflow.
    Softplus,
    /// Bool.
    Not,
    /// Integers.
    BitNot,
    /// Gives bool.
    IsNan,
    /// Gives bool: either infinity.
    IsInf,
    /// Gives bool: `+inf` only.
    IsPosInf,
    /// Gives bool: `-inf` only.
    IsNegInf,
}

/// Functions of two elements of one dtype.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// Integers wrap.
    Add,
    Sub,
    Mul,
    /// Floats: IEEE. Integers: truncates; by zero gives 0; `MIN / -1` wraps.
    Div,
    /// Floor division: rounds towards minus infinity; integers by zero give 0.
    FloorDiv,
    /// C's remainder (sign of the dividend; `fmod`). Integers by zero give 0.
    Rem,
    /// Python's modulo (sign of the divisor). Integers by zero give 0.
    Mod,
    /// Floats: `powf`. Integers: by squaring, wrapping; a negative exponent gives 0 except for bases 1 and -1.
    Pow,
    Atan2,
    /// NaN if either is NaN.
    Min,
    /// NaN if either is NaN.
    Max,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Bool.
    And,
    Or,
    Xor,
    /// Integers.
    BitAnd,
    BitOr,
    BitXor,
    /// Shifts of the width or more give 0.
    Shl,
    /// Arithmetic for signed integers.
    Shr,
}

impl Unary {
    /// Whether the result is bool whatever the operand.
    pub const fn is_test(self) -> bool {
        matches!(self, Unary::IsNan | Unary::IsInf | Unary::IsPosInf | Unary::IsNegInf)
    }
}

impl Binary {
    /// Whether the result is bool whatever the operands.
    pub const fn is_comparison(self) -> bool {
        matches!(self, Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge)
    }
}

/// Elementwise work. Inputs: any number (up to 250), of any dtype, broadcastable to one shape, which is the output's; any strides.
/// Output: one, of the dtype of the last register. The output may be bound to the very memory of an input that has
/// its dtype size and is contiguous and not broadcast (in place).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// The expression; the last instruction is the result. At least one.
    pub code: Vec<Instr>,
}

impl Map {
    /// `f(input 0)`.
    pub fn unary(f: Unary) -> Self {
        Self { code: vec![Instr::Input(0), Instr::Unary(f, 0)] }
    }

    /// `f(input 0, input 1)`.
    pub fn binary(f: Binary) -> Self {
        Self { code: vec![Instr::Input(0), Instr::Input(1), Instr::Binary(f, 0, 1)] }
    }

    /// `input 0` as `dtype`.
    pub fn cast(dtype: DType) -> Self {
        Self { code: vec![Instr::Input(0), Instr::Cast(dtype, 0)] }
    }

    /// `if input 0 { input 1 } else { input 2 }`.
    pub fn select() -> Self {
        Self { code: vec![Instr::Input(0), Instr::Input(1), Instr::Input(2), Instr::Select(0, 1, 2)] }
    }
}

impl super::Operation for Map {
    fn name(&self) -> &'static str {
        "Map"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Map: shape inference is not written yet"))
    }
}
