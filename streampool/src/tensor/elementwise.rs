//! Elementwise operations, with NumPy's broadcasting and PyTorch's type promotion.

use streampool_core::op::{Binary, DType, Instr, Map, Op, Scalar, Unary};

use super::Tensor;
use crate::{Error, Result};

/// The dtype in which PyTorch would compute on tensors of `a` and `b`: the wider of one kind; float wins over integer, integer over bool;
/// f16 with bf16 gives f32, i8 with u8 gives... i32, the next type that holds both (PyTorch: int16, which does not exist here).
pub fn promote_types(a: DType, b: DType) -> DType {
    use DType::*;
    if a == b {
        return a;
    }
    match (a.is_float(), b.is_float()) {
        (true, false) => return a,
        (false, true) => return b,
        (true, true) => {
            return match (a, b) {
                (F64, _) | (_, F64) => F64,
                _ => F32, // f32 with anything smaller, or f16 with bf16
            };
        }
        (false, false) => {}
    }
    match (a, b) {
        (Bool, other) | (other, Bool) => other,
        (I64, _) | (_, I64) => I64,
        _ => I32, // i32 with a smaller one, or i8 with u8
    }
}

pub(super) fn cast_if(code: &mut Vec<Instr>, reg: u16, from: DType, to: DType) -> u16 {
    if from == to {
        return reg;
    }
    code.push(Instr::Cast(to, reg));
    (code.len() - 1) as u16
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $f:ident;)*) => {
        impl Tensor {
            $(
                $(#[$doc])*
                pub fn $name(&self) -> Result<Tensor> {
                    self.unary(Unary::$f, stringify!($name))
                }
            )*
        }
    };
}

unary! {
    /// `-x`. Errors for bool and u8.
    neg = Neg;
    /// `|x|`.
    abs = Abs;
    /// -1, 0 or 1.
    sign = Sign;
    /// Rounded up.
    ceil = Ceil;
    /// Rounded down.
    floor = Floor;
    /// Rounded towards zero.
    trunc = Trunc;
    /// Rounded to nearest, half to even.
    round = Round;
    /// Square root; integers are computed in float32 (as for all functions below).
    sqrt = Sqrt;
    /// `1 / sqrt(x)`.
    rsqrt = Rsqrt;
    /// `1 / x`.
    reciprocal = Reciprocal;
    /// `e^x`.
    exp = Exp;
    /// Natural logarithm.
    log = Log;
    /// `log(1 + x)`.
    log1p = Log1p;
    /// `e^x - 1`.
    expm1 = Expm1;
    /// Sine.
    sin = Sin;
    /// Cosine.
    cos = Cos;
    /// Tangent.
    tan = Tan;
    /// Hyperbolic tangent.
    tanh = Tanh;
    /// Error function.
    erf = Erf;
    /// `1 / (1 + e^-x)`.
    sigmoid = Sigmoid;
    /// `max(x, 0)`.
    relu = Relu;
    /// Gaussian error linear unit, by the error function.
    gelu = Gelu;
    /// `x * sigmoid(x)`.
    silu = Silu;
    /// `log(1 + e^x)`.
    softplus = Softplus;
    /// Logical not of a bool tensor.
    logical_not = Not;
    /// Whether NaN. Bool.
    isnan = IsNan;
    /// Whether infinite. Bool.
    isinf = IsInf;
}

/// Whether a function is defined on floats only, so that integers are computed in float32 as PyTorch does.
fn needs_float(f: Unary) -> bool {
    !matches!(
        f,
        Unary::Neg
            | Unary::Abs
            | Unary::Sign
            | Unary::Relu
            | Unary::Not
            | Unary::BitNot
            | Unary::Ceil
            | Unary::Floor
            | Unary::Trunc
            | Unary::Round
    )
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident, $scalar:ident = $f:ident;)*) => {
        impl Tensor {
            $(
                $(#[$doc])*
                pub fn $name(&self, other: &Tensor) -> Result<Tensor> {
                    self.binary(Binary::$f, other, stringify!($name))
                }
                #[doc = concat!("[`Tensor::", stringify!($name), "`] with a number on the right.")]
                pub fn $scalar(&self, other: f64) -> Result<Tensor> {
                    self.binary_scalar(Binary::$f, other, stringify!($name))
                }
            )*
        }
    };
}

binary! {
    /// Sum.
    add, add_scalar = Add;
    /// Difference.
    sub, sub_scalar = Sub;
    /// Product.
    mul, mul_scalar = Mul;
    /// Quotient; integers are divided in float32.
    div, div_scalar = Div;
    /// Power.
    pow, pow_scalar = Pow;
    /// Python's modulo: the sign of the divisor.
    remainder, remainder_scalar = Mod;
    /// C's remainder: the sign of the dividend.
    fmod, fmod_scalar = Rem;
    /// The lesser; NaN wins.
    minimum, minimum_scalar = Min;
    /// The greater; NaN wins.
    maximum, maximum_scalar = Max;
    /// `==`. Bool.
    eq, eq_scalar = Eq;
    /// `!=`. Bool.
    ne, ne_scalar = Ne;
    /// `<`. Bool.
    lt, lt_scalar = Lt;
    /// `<=`. Bool.
    le, le_scalar = Le;
    /// `>`. Bool.
    gt, gt_scalar = Gt;
    /// `>=`. Bool.
    ge, ge_scalar = Ge;
}

macro_rules! logical {
    ($($(#[$doc:meta])* $name:ident = $f:ident;)*) => {
        impl Tensor {
            $(
                $(#[$doc])*
                pub fn $name(&self, other: &Tensor) -> Result<Tensor> {
                    for t in [self, other] {
                        if t.dtype() != DType::Bool {
                            return Err(Error::invalid_argument(format!(
                                concat!(stringify!($name), ": needs bool tensors, got {}; compare first, as in x.ne_scalar(0.0)"),
                                t.dtype()
                            )));
                        }
                    }
                    self.binary(Binary::$f, other, stringify!($name))
                }
            )*
        }
    };
}

logical! {
    /// Both.
    logical_and = And;
    /// Either.
    logical_or = Or;
    /// One of the two.
    logical_xor = Xor;
}

impl Tensor {
    pub(super) fn unary(&self, f: Unary, name: &str) -> Result<Tensor> {
        let dtype = self.dtype();
        let to = if needs_float(f) && !dtype.is_float() { DType::F32 } else { dtype };
        let integral = matches!(f, Unary::Ceil | Unary::Floor | Unary::Trunc | Unary::Round);
        if integral && !dtype.is_float() {
            return Ok(self.clone());
        }
        let mut code = vec![Instr::Input(0)];
        let x = cast_if(&mut code, 0, dtype, to);
        code.push(Instr::Unary(f, x));
        self.device_handle().apply1(name, Op::Map(Map { code }), &[self])
    }

    /// Integers are divided, and raised to scalar powers, in floats.
    pub(super) fn compute_dtype(f: Binary, dtype: DType) -> DType {
        match f {
            Binary::Div if !dtype.is_float() => DType::F32,
            Binary::Add | Binary::Sub | Binary::Mul | Binary::Pow | Binary::Rem | Binary::Mod
                if dtype == DType::Bool =>
            {
                DType::I64
            }
            _ => dtype,
        }
    }

    pub(super) fn binary(&self, f: Binary, other: &Tensor, name: &str) -> Result<Tensor> {
        let dtype = Self::compute_dtype(f, promote_types(self.dtype(), other.dtype()));
        let mut code = vec![Instr::Input(0), Instr::Input(1)];
        let a = cast_if(&mut code, 0, self.dtype(), dtype);
        let b = cast_if(&mut code, 1, other.dtype(), dtype);
        code.push(Instr::Binary(f, a, b));
        self.device_handle().apply1(name, Op::Map(Map { code }), &[self, other])
    }

    fn binary_scalar(&self, f: Binary, other: f64, name: &str) -> Result<Tensor> {
        // A fractional number on an integer tensor computes in float32, as in PyTorch.
        let base = if !self.dtype().is_float() && other.fract() != 0.0 { DType::F32 } else { self.dtype() };
        let dtype = Self::compute_dtype(f, base);
        let mut code = vec![Instr::Input(0)];
        let a = cast_if(&mut code, 0, self.dtype(), dtype);
        code.push(Instr::Const(Scalar::from_f64(dtype, other)));
        code.push(Instr::Binary(f, a, (code.len() - 1) as u16));
        self.device_handle().apply1(name, Op::Map(Map { code }), &[self])
    }

    /// Converted to `dtype`: floats to integers truncate, to bool `!= 0`.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        self.device_handle().apply1("cast", Op::Map(Map::cast(dtype)), &[self])
    }

    /// `if self { a } else { b }`, element by element; `self` is bool. Broadcasts.
    pub fn where_(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let dtype = promote_types(a.dtype(), b.dtype());
        let mut code = vec![Instr::Input(0), Instr::Input(1), Instr::Input(2)];
        let x = cast_if(&mut code, 1, a.dtype(), dtype);
        let y = cast_if(&mut code, 2, b.dtype(), dtype);
        code.push(Instr::Select(0, x, y));
        self.device_handle().apply1("where", Op::Map(Map { code }), &[self, a, b])
    }

    /// Into `[lo, hi]`.
    pub fn clamp(&self, lo: f64, hi: f64) -> Result<Tensor> {
        let constant = |v| Instr::Const(Scalar::from_f64(self.dtype(), v));
        let code = vec![
            Instr::Input(0),
            constant(lo),
            Instr::Binary(Binary::Max, 0, 1),
            constant(hi),
            Instr::Binary(Binary::Min, 2, 3),
        ];
        self.device_handle().apply1("clamp", Op::Map(Map { code }), &[self])
    }
}

macro_rules! operators {
    ($($trait:ident, $method:ident, $scalar:ident;)*) => {
        $(
            impl std::ops::$trait<&Tensor> for &Tensor {
                type Output = Result<Tensor>;
                fn $method(self, other: &Tensor) -> Result<Tensor> {
                    Tensor::$method(self, other)
                }
            }
            impl std::ops::$trait<f64> for &Tensor {
                type Output = Result<Tensor>;
                fn $method(self, other: f64) -> Result<Tensor> {
                    self.$scalar(other)
                }
            }
        )*
    };
}

operators! {
    Add, add, add_scalar;
    Sub, sub, sub_scalar;
    Mul, mul, mul_scalar;
    Div, div, div_scalar;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promotion_follows_pytorch() {
        use DType::*;
        for (a, b, want) in [
            (F32, I64, F32),
            (F16, BF16, F32),
            (I32, Bool, I32),
            (U8, I64, I64),
            (U8, I8, I32),
            (F64, F32, F64),
            (F16, I64, F16),
        ] {
            assert_eq!(promote_types(a, b), want);
            assert_eq!(promote_types(b, a), want);
        }
    }
}
