//! NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss.

use streampool_core::Error;
use streampool_core::op::{Binary, Gather, GatherElements, Op, ReduceKind, Softmax};

use super::{Operator, op, reduce};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[
    op("NegativeLogLikelihoodLoss", 12, |lo, n| {
        let x = lo.input(n, 0)?;
        let y = loss(lo, n, &x)?;
        lo.set(n, 0, y)
    }),
    op("SoftmaxCrossEntropyLoss", 12, |lo, n| {
        let x = lo.input(n, 0)?;
        let log = lo.emit1(Op::Softmax(Softmax { axis: 1, axes: 1, log: true }), &[x])?;
        let y = loss(lo, n, &log)?;
        lo.set(n, 0, y)?;
        lo.set(n, 1, log)
    }),
];

/// Minus the log-probability of each target, weighted by its class, reduced as the node says.
fn loss(lo: &mut Lower<'_>, n: &Node, log: &View) -> LResult<View> {
    let target = lo.input(n, 1)?;
    let mut expected = log.shape().to_vec();
    if expected.len() < 2 {
        return Err(Error::invalid_argument(format!(
            "the scores {} should be (batch, classes, ...)",
            log.ty()
        ))
        .into());
    }
    expected.remove(1);
    if target.shape()[..] != expected[..] {
        return Err(Error::invalid_argument(format!(
            "targets {} do not fit scores {}",
            target.ty(),
            log.ty()
        ))
        .into());
    }
    // Ignored targets may be out of range: they read class 0 with weight 0.
    let (safe, valid) = match n.attrs.int_opt("ignore_index")? {
        None => (target.clone(), None),
        Some(&ignored) => {
            let mut e = Expr::new();
            let t = e.input(&target);
            let skip = e.num(t, ignored as f64);
            e.bin(Binary::Ne, t, skip);
            let valid = lo.map(e)?;
            let zero = lo.number(target.dtype, 0.0);
            (lo.select(&valid, &target, &zero)?, Some(valid))
        }
    };
    let at = lo.unsqueeze(&safe, &[1])?;
    let picked = lo.emit1(Op::GatherElements(GatherElements { axis: 1 }), &[log.clone(), at])?;
    let picked = lo.squeeze(&picked, &[1])?;
    let mut weight = match lo.optional(n, 2)? {
        Some(w) => Some(lo.emit1(Op::Gather(Gather { axis: 0 }), &[w, safe])?),
        None => None,
    };
    if let Some(valid) = valid {
        let mask = lo.cast(&valid, log.dtype)?;
        weight = Some(match weight {
            Some(w) => lo.binary(Binary::Mul, &w, &mask)?,
            None => mask,
        });
    }
    let mut e = Expr::new();
    let p = e.input(&picked);
    let minus = e.un(streampool_core::op::Unary::Neg, p);
    if let Some(w) = &weight {
        let w = e.input(w);
        e.mul(minus, w);
    }
    let each = lo.map(e)?;
    let axes: Vec<usize> = (0..each.rank()).collect();
    match n.attrs.str("reduction", "mean")? {
        "none" => Ok(each),
        "sum" => reduce::apply(lo, &each, ReduceKind::Sum, axes, false),
        "mean" => match weight {
            None => reduce::apply(lo, &each, ReduceKind::Mean, axes, false),
            Some(w) => {
                let sum = reduce::apply(lo, &each, ReduceKind::Sum, axes.clone(), false)?;
                let total = reduce::apply(lo, &w, ReduceKind::Sum, axes, false)?;
                lo.binary(Binary::Div, &sum, &total)
            }
        },
        other => Err(Error::invalid_model(format!("reduction '{other}' is none of none, sum, mean")).into()),
    }
}
