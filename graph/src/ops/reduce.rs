//! Reductions. Axes became an input with operator set 13 (ReduceSum) or 18 (the others).

use streampool_core::op::{DType, Op, Reduce, ReduceKind};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View, axes};

pub(super) const OPS: &[Operator] = &[
    op("ReduceSum", 1, |lo, n| reduce(lo, n, ReduceKind::Sum)),
    op("ReduceMean", 1, |lo, n| reduce(lo, n, ReduceKind::Mean)),
    op("ReduceProd", 1, |lo, n| reduce(lo, n, ReduceKind::Prod)),
    op("ReduceMax", 1, |lo, n| reduce(lo, n, ReduceKind::Max)),
    op("ReduceMin", 1, |lo, n| reduce(lo, n, ReduceKind::Min)),
    op("ReduceL1", 1, |lo, n| reduce(lo, n, ReduceKind::L1)),
    op("ReduceL2", 1, |lo, n| reduce(lo, n, ReduceKind::L2)),
    op("ReduceSumSquare", 1, |lo, n| reduce(lo, n, ReduceKind::SumSquare)),
    op("ReduceLogSum", 1, |lo, n| reduce(lo, n, ReduceKind::LogSum)),
    op("ReduceLogSumExp", 1, |lo, n| reduce(lo, n, ReduceKind::LogSumExp)),
];

/// The axes of a node: attribute or input, all of them if none are named and `noop` is not set.
pub(super) fn axes_of(lo: &mut Lower<'_>, n: &Node, rank: usize) -> LResult<Option<Vec<usize>>> {
    let listed = match n.attrs.ints("axes")? {
        Some(list) => Some(list.to_vec()),
        None => match lo.optional(n, 1)? {
            Some(v) => Some(lo.ints(&v)?),
            None => None,
        },
    };
    match listed {
        Some(list) if !list.is_empty() => Ok(Some(axes(&list, rank)?)),
        _ if n.attrs.flag("noop_with_empty_axes", false)? => Ok(None),
        _ => Ok(Some((0..rank).collect())),
    }
}

fn reduce(lo: &mut Lower<'_>, n: &Node, kind: ReduceKind) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let keep_dims = n.attrs.flag("keepdims", true)?;
    // With `noop_with_empty_axes` the elementwise part still happens: the square of SumSquare, the logarithm of LogSum.
    let over = axes_of(lo, n, x.rank())?.unwrap_or_default();
    let y = apply(lo, &x, kind, over, keep_dims)?;
    lo.set(n, 0, y)
}

pub(super) fn apply(
    lo: &mut Lower<'_>,
    x: &View,
    kind: ReduceKind,
    axes: Vec<usize>,
    keep_dims: bool,
) -> LResult<View> {
    // Greatest and least of bools are "any" and "all".
    let kind = match (kind, x.dtype) {
        (ReduceKind::Max, DType::Bool) => ReduceKind::Any,
        (ReduceKind::Min, DType::Bool) => ReduceKind::All,
        (kind, _) => kind,
    };
    let identity = axes.is_empty()
        && matches!(
            kind,
            ReduceKind::Sum
                | ReduceKind::Mean
                | ReduceKind::Prod
                | ReduceKind::Max
                | ReduceKind::Min
                | ReduceKind::All
                | ReduceKind::Any
        );
    if identity {
        return Ok(x.clone());
    }
    lo.emit1(Op::Reduce(Reduce { kind, axes, keep_dims }), std::slice::from_ref(x))
}
