//! Elementwise work: one small expression per output element, with broadcasting.

use super::{DType, Operation, Scalar, Shape, TensorType, check};
use crate::error::{Error, Result};

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

impl Unary {
    /// Whether it takes elements of `dtype`.
    pub const fn takes(self, dtype: DType) -> bool {
        match self {
            Unary::Neg => dtype.is_float() || matches!(dtype, DType::I8 | DType::I32 | DType::I64),
            Unary::Abs | Unary::Sign | Unary::Relu => dtype.is_float() || dtype.is_int(),
            Unary::Not => matches!(dtype, DType::Bool),
            Unary::BitNot => dtype.is_int(),
            _ => dtype.is_float(),
        }
    }
}

impl Binary {
    /// Whether it takes elements of `dtype`.
    pub const fn takes(self, dtype: DType) -> bool {
        match self {
            Binary::Eq | Binary::Ne => true,
            Binary::And | Binary::Or | Binary::Xor => matches!(dtype, DType::Bool),
            Binary::BitAnd | Binary::BitOr | Binary::BitXor | Binary::Shl | Binary::Shr => dtype.is_int(),
            Binary::Atan2 => dtype.is_float(),
            _ => !matches!(dtype, DType::Bool),
        }
    }
}

impl Map {
    /// Most operands that one expression may have.
    pub const MAX_INPUTS: usize = 250;

    /// Checks the expression for operands of these dtypes and gives the dtype of each register, the last of which is the
    /// output's.
    ///
    /// # Errors
    /// `is_invalid_argument`: an instruction that reads a register not yet written or an operand not there, or a function
    /// that does not take its operand's dtype.
    pub fn check(&self, inputs: &[DType]) -> Result<Vec<DType>> {
        if self.code.is_empty() {
            return Err(check::invalid("Map", "has no instruction, needs at least one"));
        }
        if self.code.len() > usize::from(Reg::MAX) {
            return Err(check::invalid(
                "Map",
                format_args!("has {} instructions, at most {} are possible", self.code.len(), Reg::MAX),
            ));
        }
        if inputs.len() > Self::MAX_INPUTS {
            return Err(check::invalid(
                "Map",
                format_args!("has {} operands, at most {} are possible", inputs.len(), Self::MAX_INPUTS),
            ));
        }
        let mut dtypes: Vec<DType> = Vec::with_capacity(self.code.len());
        for (i, instr) in self.code.iter().enumerate() {
            let dtype = Self::check_one(instr, &dtypes, inputs)
                .map_err(|why| Error::invalid_argument(format!("Map: instruction {i} ({instr:?}) {why}")))?;
            dtypes.push(dtype);
        }
        Ok(dtypes)
    }

    fn check_one(instr: &Instr, written: &[DType], inputs: &[DType]) -> Result<DType, String> {
        let reg = |r: Reg| {
            written
                .get(usize::from(r))
                .copied()
                .ok_or_else(|| format!("reads register {r}, only {} are written by then", written.len()))
        };
        let pair = |a: Reg, b: Reg| {
            let (x, y) = (reg(a)?, reg(b)?);
            if x == y {
                Ok(x)
            } else {
                Err(format!("takes two operands of one dtype, got {x} and {y}; cast one"))
            }
        };
        match *instr {
            Instr::Input(n) => inputs
                .get(usize::from(n))
                .copied()
                .ok_or_else(|| format!("reads operand {n}, there are {}", inputs.len())),
            Instr::Const(s) if s.dtype() == DType::Bool && s.bits() > 1 => {
                Err(format!("is a bool with bits {:#x}, needs 0 or 1", s.bits()))
            }
            Instr::Const(s) => Ok(s.dtype()),
            Instr::Unary(f, a) => {
                let x = reg(a)?;
                if !f.takes(x) {
                    return Err(format!("does not take {x}; cast the operand first"));
                }
                Ok(if f.is_test() { DType::Bool } else { x })
            }
            Instr::Binary(f, a, b) => {
                let x = pair(a, b)?;
                if !f.takes(x) {
                    return Err(format!("does not take {x}; cast the operands first"));
                }
                Ok(if f.is_comparison() { DType::Bool } else { x })
            }
            Instr::Select(c, a, b) => {
                let condition = reg(c)?;
                if condition != DType::Bool {
                    return Err(format!("has a condition of dtype {condition}, needs bool; cast it first"));
                }
                pair(a, b)
            }
            Instr::Cast(to, a) => reg(a).map(|_| to),
        }
    }
}

impl Operation for Map {
    fn name(&self) -> &'static str {
        "Map"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let dtypes = self.check(&inputs.iter().map(|t| t.dtype).collect::<Vec<_>>())?;
        let mut shape = Shape::default();
        for ty in inputs {
            shape = shape.broadcast(&ty.shape).map_err(|e| e.context("Map"))?;
        }
        Ok(vec![TensorType { dtype: dtypes[dtypes.len() - 1], shape }])
    }

    fn takes_strided_input(&self, _i: usize) -> bool {
        true
    }

    fn in_place(&self, _i: usize) -> bool {
        true
    }
}
