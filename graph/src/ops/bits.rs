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
        other => return Err(Error::invalid_model(format!("direction '{other}' is neither LEFT nor RIGHT")).into()),
    };
    let mut e = Expr::new();
    let (x, y) = (e.input(&a), e.input(&b));
    let y = if a.dtype == DType::Bool { y } else { e.cast(a.dtype, y) };
    e.bin(f, x, y);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}
