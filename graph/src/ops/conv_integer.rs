//! ConvInteger and QLinearConv: in f64, whose 53 bits hold every sum of products of bytes exactly.

use streampool_core::op::{Binary, DType};

use super::quantize::{per_axis, quantize};
use super::{Operator, conv, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[op("ConvInteger", 10, integer), op("QLinearConv", 10, quantized)];

/// `v - zero` in f64.
fn centred(lo: &mut Lower<'_>, v: &View, zero: Option<View>) -> LResult<View> {
    let mut e = Expr::new();
    let x = e.input(v);
    let x = e.cast(DType::F64, x);
    if let Some(zero) = zero {
        let z = e.input(&zero);
        let z = e.cast(DType::F64, z);
        e.sub(x, z);
    }
    lo.map(e)
}

fn integer(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, w) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let zx = lo.optional(n, 2)?;
    let zw = match lo.optional(n, 3)? {
        Some(z) => Some(per_axis(lo, &z, 0, w.rank())?),
        None => None,
    };
    let (x, w) = (centred(lo, &x, zx)?, centred(lo, &w, zw)?);
    let y = conv::emit(lo, n, &x, &w, None)?;
    let y = lo.cast(&y, DType::I32)?;
    lo.set(n, 0, y)
}

fn quantized(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, sx, zx) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let (w, sw, zw) = (lo.input(n, 3)?, lo.input(n, 4)?, lo.input(n, 5)?);
    let (sy, zy) = (lo.input(n, 6)?, lo.input(n, 7)?);
    let zw = per_axis(lo, &zw, 0, w.rank())?;
    let (xf, wf) = (centred(lo, &x, Some(zx))?, centred(lo, &w, Some(zw))?);
    let bias = match lo.optional(n, 8)? {
        Some(b) => Some(lo.cast(&b, DType::F64)?),
        None => None,
    };
    let sums = conv::emit(lo, n, &xf, &wf, bias)?;
    let sw = per_axis(lo, &sw, 1, x.rank())?;
    let mut e = Expr::new();
    let acc = e.input(&sums);
    let acc = e.cast(DType::F32, acc);
    let (a, b) = (e.input(&sx), e.input(&sw));
    let scale = e.bin(Binary::Mul, a, b);
    e.mul(acc, scale);
    let real = lo.map(e)?;
    let y = quantize(lo, &real, &sy, Some(&zy), zy.dtype)?;
    lo.set(n, 0, y)
}
