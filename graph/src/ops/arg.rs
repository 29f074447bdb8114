//! ArgMax, ArgMin.

use streampool_core::op::{ArgReduce, Op};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] =
    &[op("ArgMax", 1, |lo, n| arg(lo, n, true)), op("ArgMin", 1, |lo, n| arg(lo, n, false))];

fn arg(lo: &mut Lower<'_>, n: &Node, max: bool) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let axis = axis(n.attrs.int("axis", 0)?, x.rank())?;
    let keep_dims = n.attrs.flag("keepdims", true)?;
    let last = n.attrs.flag("select_last_index", false)?;
    let y = lo.emit1(Op::ArgReduce(ArgReduce { max, axis, keep_dims, last }), &[x])?;
    lo.set(n, 0, y)
}
