//! Pooling: MaxPool, AveragePool, LpPool, their global forms, MaxUnpool.

use streampool_core::Error;
use streampool_core::op::{
    Binary, OnScatter, Op, Pad, PadMode, Pool, PoolKind, Reduce, ReduceKind, Scalar, ScatterElements, Unary,
};

use super::spatial::Window;
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[
    op("MaxPool", 1, max_pool),
    op("AveragePool", 1, |lo, n| {
        let count_pad = n.attrs.flag("count_include_pad", false)?;
        pool(lo, n, PoolKind::Average { count_pad })
    }),
    op("LpPool", 2, |lo, n| {
        let p = u32::try_from(n.attrs.int("p", 2)?).map_err(|_| Error::invalid_model("p is negative"))?;
        pool(lo, n, PoolKind::Lp { p })
    }),
    op("GlobalAveragePool", 1, |lo, n| global(lo, n, ReduceKind::Mean)),
    op("GlobalMaxPool", 1, |lo, n| global(lo, n, ReduceKind::Max)),
    op("GlobalLpPool", 2, global_lp),
    op("MaxUnpool", 9, unpool),
];

fn max_pool(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let column_major = n.attrs.flag("storage_order", false)?;
    pool(lo, n, PoolKind::Max { indices: n.has_output(1), column_major })
}

fn pool(lo: &mut Lower<'_>, n: &Node, kind: PoolKind) -> LResult<()> {
    let x = lo.input(n, 0)?;
    if x.rank() < 3 {
        return Err(Error::invalid_argument(format!(
            "x {} should be (batch, channels, spatial axes...)",
            x.ty()
        ))
        .into());
    }
    let w = Window::new(n, &x.shape()[2..], None)?;
    let ceil = n.attrs.flag("ceil_mode", false)?;
    let op = Pool {
        kind,
        kernel: w.kernel,
        strides: w.strides,
        dilations: w.dilations,
        pads_before: w.before,
        pads_after: w.after,
        ceil,
    };
    let outputs = lo.emit(Op::Pool(op), &[x])?;
    for (i, y) in outputs.into_iter().enumerate() {
        lo.set(n, i, y)?;
    }
    Ok(())
}

fn global(lo: &mut Lower<'_>, n: &Node, kind: ReduceKind) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let axes = (2..x.rank()).collect();
    let y = lo.emit1(Op::Reduce(Reduce { kind, axes, keep_dims: true }), &[x])?;
    lo.set(n, 0, y)
}

fn global_lp(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let p = n.attrs.int("p", 2)? as f64;
    let x = lo.input(n, 0)?;
    let axes: Vec<usize> = (2..x.rank()).collect();
    let powers = lo.map1(&x, |e, x| {
        let (a, p) = (e.un(Unary::Abs, x), e.num(x, p));
        e.bin(Binary::Pow, a, p);
    })?;
    let sum = lo.emit1(Op::Reduce(Reduce { kind: ReduceKind::Sum, axes, keep_dims: true }), &[powers])?;
    let y = lo.with_number(Binary::Pow, &sum, 1.0 / p)?;
    lo.set(n, 0, y)
}

/// Values go back to the flat positions that MaxPool gave; zero elsewhere.
fn unpool(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, indices, given) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.optional(n, 2)?);
    if x.rank() < 3 {
        return Err(Error::invalid_argument(format!(
            "x {} should be (batch, channels, spatial axes...)",
            x.ty()
        ))
        .into());
    }
    let w = Window::new(n, &x.shape()[2..], None)?;
    let mut inner = x.shape()[..2].to_vec();
    for i in 0..w.kernel.len() {
        let len = (x.shape()[2 + i].saturating_sub(1))
            .checked_mul(w.strides[i])
            .and_then(|l| l.checked_add(w.kernel[i]))
            .and_then(|l| l.checked_sub(w.before[i] + w.after[i]))
            .ok_or_else(|| Error::invalid_model("the unpooled length is impossible"))?;
        inner.push(len);
    }
    let shape = streampool_core::op::Shape::from(inner);
    let total = shape.checked_len()?;
    let zero = lo.filled(Scalar::from_f64(x.dtype, 0.0), &vec![total].into())?;
    let zero = lo.contiguous(&zero)?;
    let (flat_at, flat) =
        (lo.reshape(&indices, vec![indices.shape().len()])?, lo.reshape(&x, vec![x.shape().len()])?);
    let op = Op::ScatterElements(ScatterElements { axis: 0, reduction: OnScatter::Replace });
    let y = lo.emit1(op, &[zero, flat_at, flat])?;
    let mut y = lo.reshape(&y, shape.clone())?;
    if let Some(given) = given {
        // Positions count in the shape that the pooling saw; the rest of a larger output stays zero.
        let wanted = super::constant::shape_from(&lo.ints(&given)?)?;
        if wanted.rank() != shape.rank() || wanted.iter().zip(shape.iter()).any(|(w, s)| w < s) {
            return Err(
                Error::invalid_argument(format!("output_shape {wanted} is smaller than {shape}")).into()
            );
        }
        let after = wanted.iter().zip(shape.iter()).map(|(w, s)| (w - s) as isize).collect();
        let mode = PadMode::Constant(Scalar::from_f64(x.dtype, 0.0));
        y = lo.emit1(Op::Pad(Pad { mode, before: vec![0; shape.rank()], after }), &[y])?;
    }
    lo.set(n, 0, y)
}
