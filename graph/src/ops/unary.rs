//! Functions of one element that are primitives.

use streampool_core::op::{DType, Unary};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[
    op("Abs", 1, |lo, n| unary(lo, n, Unary::Abs)),
    op("Neg", 1, |lo, n| unary(lo, n, Unary::Neg)),
    op("Sign", 9, |lo, n| unary(lo, n, Unary::Sign)),
    op("Ceil", 1, |lo, n| unary(lo, n, Unary::Ceil)),
    op("Floor", 1, |lo, n| unary(lo, n, Unary::Floor)),
    op("Round", 11, |lo, n| unary(lo, n, Unary::Round)),
    op("Sqrt", 1, |lo, n| unary(lo, n, Unary::Sqrt)),
    op("Reciprocal", 1, |lo, n| unary(lo, n, Unary::Reciprocal)),
    op("Exp", 1, |lo, n| unary(lo, n, Unary::Exp)),
    op("Log", 1, |lo, n| unary(lo, n, Unary::Log)),
    op("Sin", 7, |lo, n| unary(lo, n, Unary::Sin)),
    op("Cos", 7, |lo, n| unary(lo, n, Unary::Cos)),
    op("Tan", 7, |lo, n| unary(lo, n, Unary::Tan)),
    op("Asin", 7, |lo, n| unary(lo, n, Unary::Asin)),
    op("Acos", 7, |lo, n| unary(lo, n, Unary::Acos)),
    op("Atan", 7, |lo, n| unary(lo, n, Unary::Atan)),
    op("Sinh", 9, |lo, n| unary(lo, n, Unary::Sinh)),
    op("Cosh", 9, |lo, n| unary(lo, n, Unary::Cosh)),
    op("Tanh", 1, |lo, n| unary(lo, n, Unary::Tanh)),
    op("Asinh", 9, |lo, n| unary(lo, n, Unary::Asinh)),
    op("Acosh", 9, |lo, n| unary(lo, n, Unary::Acosh)),
    op("Atanh", 9, |lo, n| unary(lo, n, Unary::Atanh)),
    op("Erf", 9, |lo, n| unary(lo, n, Unary::Erf)),
    op("Sigmoid", 1, |lo, n| unary(lo, n, Unary::Sigmoid)),
    op("Relu", 1, |lo, n| unary(lo, n, Unary::Relu)),
    op("Softplus", 1, |lo, n| unary(lo, n, Unary::Softplus)),
    op("IsNaN", 9, |lo, n| unary(lo, n, Unary::IsNan)),
    op("IsInf", 10, is_inf),
];

fn unary(lo: &mut Lower<'_>, n: &Node, f: Unary) -> LResult<()> {
    let x = lo.input(n, 0)?;
    // Rounding an integer changes nothing; unsigned integers are their own absolute values.
    let same = (!x.dtype.is_float() && matches!(f, Unary::Ceil | Unary::Floor | Unary::Round))
        || (x.dtype == DType::U8 && matches!(f, Unary::Abs));
    let y = if same { x } else { lo.unary(f, &x)? };
    lo.set(n, 0, y)
}

fn is_inf(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let y = match (n.attrs.flag("detect_positive", true)?, n.attrs.flag("detect_negative", true)?) {
        (true, true) => lo.unary(Unary::IsInf, &x)?,
        (true, false) => lo.unary(Unary::IsPosInf, &x)?,
        (false, true) => lo.unary(Unary::IsNegInf, &x)?,
        (false, false) => lo.filled(streampool_core::op::Scalar::from_i64(DType::Bool, 0), x.shape())?,
    };
    lo.set(n, 0, y)
}
