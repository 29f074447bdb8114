//! InstanceNormalization, GroupNormalization, MeanVarianceNormalization, LpNormalization.

use streampool_core::Error;
use streampool_core::op::{Binary, F32, LayerNorm, Op, ReduceKind, Unary};

use super::batch_norm::per_channel;
use super::{Operator, op, reduce};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower, View, axes, axis};

pub(super) const OPS: &[Operator] = &[
    op("InstanceNormalization", 6, |lo, n| {
        let x = lo.input(n, 0)?;
        if x.rank() < 3 {
            return Err(Error::invalid_argument(format!("x {} should have spatial axes", x.ty())).into());
        }
        let groups = x.shape()[1];
        grouped(lo, n, &x, groups, true)
    }),
    op("GroupNormalization", 18, |lo, n| group_norm(lo, n, false)),
    op("GroupNormalization", 21, |lo, n| group_norm(lo, n, true)),
    op("MeanVarianceNormalization", 9, mean_variance),
    op("LpNormalization", 1, lp),
];

fn group_norm(lo: &mut Lower<'_>, n: &Node, per_channel: bool) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let groups = usize::try_from(n.attrs.required_int("num_groups")?).unwrap_or(0);
    if x.rank() < 2 || groups == 0 || !x.shape()[1].is_multiple_of(groups) {
        return Err(Error::invalid_argument(format!(
            "the channels of x {} cannot be divided into {groups} groups",
            x.ty()
        ))
        .into());
    }
    grouped(lo, n, &x, groups, per_channel)
}

/// Normalises each group of channels of each sample; scale and bias per channel, or per group.
fn grouped(lo: &mut Lower<'_>, n: &Node, x: &View, groups: usize, scale_per_channel: bool) -> LResult<()> {
    let (mut scale, mut bias) = (lo.input(n, 1)?, lo.input(n, 2)?);
    let epsilon = F32::new(n.attrs.float("epsilon", 1e-5)?);
    let (batch, channels) = (x.shape()[0], x.shape()[1]);
    if !scale_per_channel {
        let each = channels / groups;
        for v in [&mut scale, &mut bias] {
            let column = lo.reshape(v, vec![groups, 1])?;
            let wide = lo.broadcast(&column, &[groups, each].into())?;
            *v = lo.reshape(&wide, vec![channels])?;
        }
    }
    let inner = x.shape().len().checked_div(batch * groups).unwrap_or(0);
    let rows = lo.reshape(x, vec![batch, groups, inner])?;
    let op = LayerNorm { axis: 2, epsilon, rms: false, scale: false, bias: false, residual: false };
    let y = lo.emit1(Op::LayerNorm(op), &[rows])?;
    let y = lo.reshape(&y, x.shape().clone())?;
    let (scale, bias) = (per_channel(lo, &scale, x.rank())?, per_channel(lo, &bias, x.rank())?);
    let mut e = Expr::new();
    let (a, s, b) = (e.input(&y), e.input(&scale), e.input(&bias));
    let scaled = e.mul(a, s);
    e.add(scaled, b);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}

/// `(x - mean) / (std + 1e-9)` over the given axes.
fn mean_variance(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let over = axes(n.attrs.ints("axes")?.unwrap_or(&[0, 2, 3]), x.rank())?;
    let mean = reduce::apply(lo, &x, ReduceKind::Mean, over.clone(), true)?;
    let d = lo.binary(Binary::Sub, &x, &mean)?;
    let squares = lo.map1(&d, |e, d| {
        e.mul(d, d);
    })?;
    let var = reduce::apply(lo, &squares, ReduceKind::Mean, over, true)?;
    let mut e = Expr::new();
    let (d, v) = (e.input(&d), e.input(&var));
    let s = e.un(Unary::Sqrt, v);
    let tiny = e.num(s, 1e-9);
    let s = e.add(s, tiny);
    e.div(d, s);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}

/// `x / |x|_p` along an axis; zero where the norm is.
fn lp(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let over = vec![axis(n.attrs.int("axis", -1)?, x.rank())?];
    let kind = match n.attrs.int("p", 2)? {
        1 => ReduceKind::L1,
        2 => ReduceKind::L2,
        p => return Err(Error::unsupported(format!("p = {p} is not supported, there are 1 and 2")).into()),
    };
    let norm = reduce::apply(lo, &x, kind, over, true)?;
    let mut e = Expr::new();
    let (a, d) = (e.input(&x), e.input(&norm));
    let (zero, q) = (e.num(a, 0.0), e.div(a, d));
    let none = e.bin(Binary::Eq, d, zero);
    e.select(none, zero, q);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}
