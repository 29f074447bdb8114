//! LayerNormalization, RMSNormalization.

use streampool_core::op::{Binary, DType, F32, LayerNorm, Op, ReduceKind, Unary};

use super::{Operator, op, reduce};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower, View, axis};

pub(super) const OPS: &[Operator] =
    &[op("LayerNormalization", 17, layer_norm), op("RMSNormalization", 23, rms_norm)];

/// Whether a scale or bias lies within the normalised axes.
fn fits(v: &View, x: &View, axis: usize) -> bool {
    let inner = streampool_core::op::Shape::new(&x.shape()[axis..]);
    v.shape().broadcast(&inner).is_ok_and(|s| s == inner)
}

fn layer_norm(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, scale, bias) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.optional(n, 2)?);
    let at = axis(n.attrs.int("axis", -1)?, x.rank())?;
    let epsilon = n.attrs.float("epsilon", 1e-5)?;
    let y = norm(lo, &x, Some(scale), bias, at, epsilon, false)?;
    lo.set(n, 0, y)?;
    if n.has_output(1) || n.has_output(2) {
        statistics(lo, n, &x, at, f64::from(epsilon))?;
    }
    Ok(())
}

fn rms_norm(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, scale) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let at = axis(n.attrs.int("axis", -1)?, x.rank())?;
    let epsilon = n.attrs.float("epsilon", 1e-5)?;
    let y = norm(lo, &x, Some(scale), None, at, epsilon, true)?;
    lo.set(n, 0, y)
}

pub(super) fn norm(
    lo: &mut Lower<'_>,
    x: &View,
    scale: Option<View>,
    bias: Option<View>,
    axis: usize,
    epsilon: f32,
    rms: bool,
) -> LResult<View> {
    let dtype = scale.as_ref().map_or(x.dtype, |s| s.dtype);
    let same = |v: &Option<View>| v.as_ref().is_none_or(|v| v.dtype == x.dtype && fits(v, x, axis));
    let fused = same(&scale) && same(&bias);
    let flags = if fused { (scale.is_some(), bias.is_some()) } else { (false, false) };
    let op =
        LayerNorm { axis, epsilon: F32::new(epsilon), rms, scale: flags.0, bias: flags.1, residual: false };
    let mut operands = vec![x.clone()];
    if fused {
        operands.extend(scale.into_iter().chain(bias));
        return lo.emit1(Op::LayerNorm(op), &operands);
    }
    let mut y = lo.emit1(Op::LayerNorm(op), &operands)?;
    y = lo.cast(&y, dtype)?;
    if let Some(s) = scale {
        y = lo.binary(Binary::Mul, &y, &s)?;
    }
    if let Some(b) = bias {
        y = lo.binary(Binary::Add, &y, &b)?;
    }
    Ok(y)
}

/// The optional outputs: mean and reciprocal standard deviation, in f32.
fn statistics(lo: &mut Lower<'_>, n: &Node, x: &View, at: usize, epsilon: f64) -> LResult<()> {
    let over: Vec<usize> = (at..x.rank()).collect();
    let wide = lo.cast(x, if x.dtype == DType::F64 { DType::F64 } else { DType::F32 })?;
    let mean = reduce::apply(lo, &wide, ReduceKind::Mean, over.clone(), true)?;
    let mut e = Expr::new();
    let (a, m) = (e.input(&wide), e.input(&mean));
    let d = e.sub(a, m);
    e.mul(d, d);
    let squares = lo.map(e)?;
    let var = reduce::apply(lo, &squares, ReduceKind::Mean, over, true)?;
    let inverse = lo.map1(&var, |e, v| {
        let eps = e.num(v, epsilon);
        let v = e.add(v, eps);
        e.un(Unary::Rsqrt, v);
    })?;
    lo.set(n, 1, mean)?;
    lo.set(n, 2, inverse)
}
