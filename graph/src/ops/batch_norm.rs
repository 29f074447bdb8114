//! BatchNormalization: one multiply and one add per element, with the factors folded when the statistics are constant.

use streampool_core::Error;
use streampool_core::op::{DType, Op, Reduce, ReduceKind, Unary};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[op("BatchNormalization", 7, batch_norm)];

/// A tensor of one value per channel, shaped to broadcast over (batch, channels, ...).
pub(super) fn per_channel(lo: &mut Lower<'_>, v: &View, rank: usize) -> LResult<View> {
    let mut shape = vec![1; rank.max(2) - 1];
    shape[0] = v.shape().len();
    lo.reshape(v, shape)
}

fn batch_norm(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let (scale, bias) = (lo.input(n, 1)?, lo.input(n, 2)?);
    let (mut mean, mut var) = (lo.input(n, 3)?, lo.input(n, 4)?);
    let epsilon = f64::from(n.attrs.float("epsilon", 1e-5)?);
    let rank = x.rank();
    if rank < 2 {
        return Err(Error::invalid_argument(format!("x {} should be (batch, channels, ...)", x.ty())).into());
    }
    if n.attrs.flag("training_mode", false)? {
        let momentum = f64::from(n.attrs.float("momentum", 0.9)?);
        let axes: Vec<usize> = (0..rank).filter(|&a| a != 1).collect();
        let reduce = |kind| Op::Reduce(Reduce { kind, axes: axes.clone(), keep_dims: true });
        let now_mean = lo.emit1(reduce(ReduceKind::Mean), std::slice::from_ref(&x))?;
        let mut e = Expr::new();
        let (a, m) = (e.input(&x), e.input(&now_mean));
        let d = e.sub(a, m);
        e.mul(d, d);
        let squares = lo.map(e)?;
        let now_var = lo.emit1(reduce(ReduceKind::Mean), &[squares])?;
        let (now_mean, now_var) =
            (lo.reshape(&now_mean, mean.shape().clone())?, lo.reshape(&now_var, var.shape().clone())?);
        for (i, (old, new)) in [(&mean, &now_mean), (&var, &now_var)].into_iter().enumerate() {
            let mut e = Expr::new();
            let (a, b) = (e.input(old), e.input(new));
            let b = e.cast(old.dtype, b);
            let (keep, take) = (e.num(a, momentum), e.num(a, 1.0 - momentum));
            let (a, b) = (e.mul(a, keep), e.mul(b, take));
            e.add(a, b);
            let running = lo.map(e)?;
            lo.set(n, i + 1, running)?;
        }
        (mean, var) = (now_mean, now_var);
    }
    // Factors are computed in f32 at least.
    let wide = if x.dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let mut e = Expr::new();
    let (s, v) = (e.input(&scale), e.input(&var));
    let (s, v) = (e.cast(wide, s), e.cast(wide, v));
    let eps = e.num(v, epsilon);
    let v = e.add(v, eps);
    let root = e.un(Unary::Sqrt, v);
    e.div(s, root);
    let factor = lo.map(e)?;
    let mut e = Expr::new();
    let (b, m, f) = (e.input(&bias), e.input(&mean), e.input(&factor));
    let (b, m) = (e.cast(wide, b), e.cast(wide, m));
    let taken = e.mul(m, f);
    e.sub(b, taken);
    let offset = lo.map(e)?;
    let (factor, offset) = (lo.cast(&factor, x.dtype)?, lo.cast(&offset, x.dtype)?);
    let (factor, offset) = (per_channel(lo, &factor, rank)?, per_channel(lo, &offset, rank)?);
    let mut e = Expr::new();
    let (a, f, o) = (e.input(&x), e.input(&factor), e.input(&offset));
    let scaled = e.mul(a, f);
    e.add(scaled, o);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}
