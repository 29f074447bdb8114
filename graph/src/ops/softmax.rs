//! Softmax, LogSoftmax, Hardmax. Before operator set 13 the axes from `axis` on are taken as one.

use streampool_core::op::{ArgReduce, Binary, Op, Softmax};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[
    op("Softmax", 1, |lo, n| softmax(lo, n, false, true)),
    op("Softmax", 13, |lo, n| softmax(lo, n, false, false)),
    op("LogSoftmax", 1, |lo, n| softmax(lo, n, true, true)),
    op("LogSoftmax", 13, |lo, n| softmax(lo, n, true, false)),
    op("Hardmax", 1, |lo, n| hardmax(lo, n, true)),
    op("Hardmax", 13, |lo, n| hardmax(lo, n, false)),
];

fn softmax(lo: &mut Lower<'_>, n: &Node, log: bool, flatten: bool) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let rank = x.rank();
    let first = axis(n.attrs.int("axis", if flatten { 1 } else { -1 })?, rank)?;
    let axes = if flatten { rank - first } else { 1 };
    let y = lo.emit1(Op::Softmax(Softmax { axis: first, axes, log }), &[x])?;
    lo.set(n, 0, y)
}

/// One at the first greatest element, zero elsewhere.
fn hardmax(lo: &mut Lower<'_>, n: &Node, flatten: bool) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let at = axis(n.attrs.int("axis", if flatten { 1 } else { -1 })?, x.rank())?;
    let flat = if flatten {
        let outer: usize = x.shape()[..at].iter().product();
        let inner: usize = x.shape()[at..].iter().product();
        lo.reshape(&x, vec![outer, inner])?
    } else {
        x.clone()
    };
    let at = if flatten { 1 } else { at };
    let best = lo.emit1(
        Op::ArgReduce(ArgReduce { max: true, axis: at, keep_dims: true, last: false }),
        std::slice::from_ref(&flat),
    )?;
    let count: Vec<i64> = (0..flat.shape()[at] as i64).collect();
    let mut shape = vec![1; flat.rank()];
    shape[at] = count.len();
    let positions = lo.ints_constant(&count, shape);
    let mut e = Expr::new();
    let (b, p) = (e.input(&best), e.input(&positions));
    let hit = e.bin(Binary::Eq, b, p);
    e.cast(x.dtype, hit);
    let y = lo.map(e)?;
    let y = lo.reshape(&y, x.shape().clone())?;
    lo.set(n, 0, y)
}
