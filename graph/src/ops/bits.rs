//! Bitwise operators.

use streampool_core::Error;
use streampool_core::op::{Binary, DType, Unary};

use super::binary::binary;
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower};

pub(super) const OPS: &[Operator] = &[
    op("BitwiseAnd", 18, |lo, n| binary(lo, n, Binary::BitAnd)),
    op("BitwiseOr", 18, |lo, n| binary(lo, n, Binary::BitOr)),
    op("BitwiseXor", 18, |lo, n| binary(lo, n, Binary::BitXor)),
    op("BitwiseNot", 18, |lo, n| {
        let x = lo.input(n, 0)?;
        let y = lo.unary(Unary::BitNot, &x)?;
        lo.set(n, 0, y)
    }),
    op("BitShift", 11, shift),
];

fn shift(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (a, b) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let f = match n.attrs.str("direction", "")? {
        "LEFT" => Binary::Shl,
        "RIGHT" => Binary::Shr,
        other => {
            return Err(Error::invalid_model(format!("direction '{other}' is neither LEFT nor RIGHT")).into());
        }
    };
    let mut e = Expr::new();
    let (x, y) = (e.input(&a), e.input(&b));
    let mut y = e.cast(a.dtype, y);
    if f == Binary::Shr && matches!(a.dtype, DType::I8 | DType::I32 | DType::I64) {
        // An arithmetic shift of the width or more leaves the sign in every bit.
        let (width, zero) = (8.0 * a.dtype.size() as f64, 0.0);
        let (most, all, none) = (e.num(y, width - 1.0), e.num(y, width), e.num(y, zero));
        let (fits, positive) = (e.bin(Binary::Lt, y, all), e.bin(Binary::Ge, y, none));
        let inside = e.bin(Binary::And, fits, positive);
        y = e.select(inside, y, most);
    }
    e.bin(f, x, y);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}
