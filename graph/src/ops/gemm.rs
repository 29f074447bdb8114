//! Gemm: `alpha * A' * B' + beta * C`.

use streampool_core::op::{Binary, F32, MatMul, Op};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("Gemm", 7, gemm)];

fn gemm(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (mut a, mut b) = (lo.input(n, 0)?, lo.input(n, 1)?);
    if n.attrs.flag("transA", false)? {
        a = lo.transpose_last(&a)?;
    }
    if n.attrs.flag("transB", false)? {
        b = lo.transpose_last(&b)?;
    }
    let (alpha, beta) = (n.attrs.float("alpha", 1.0)?, n.attrs.float("beta", 1.0)?);
    let mut operands = vec![a, b];
    if let Some(mut c) = lo.optional(n, 2)?
        && beta != 0.0
    {
        if beta != 1.0 {
            c = lo.with_number(Binary::Mul, &c, f64::from(beta))?;
        }
        operands.push(c);
    }
    let op = MatMul { alpha: F32::new(alpha), bias: operands.len() > 2, ..MatMul::default() };
    let y = lo.emit1(Op::MatMul(op), &operands)?;
    lo.set(n, 0, y)
}
