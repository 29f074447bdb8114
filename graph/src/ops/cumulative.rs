//! CumSum, CumProd.

use streampool_core::op::{Cumulative, CumulativeKind, Op};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[
    op("CumSum", 11, |lo, n| cumulative(lo, n, CumulativeKind::Sum)),
    op("CumProd", 26, |lo, n| cumulative(lo, n, CumulativeKind::Prod)),
];

fn cumulative(lo: &mut Lower<'_>, n: &Node, kind: CumulativeKind) -> LResult<()> {
    let (x, at) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let axis = axis(lo.one(&at, "axis")?.to_i64(), x.rank())?;
    let exclusive = n.attrs.flag("exclusive", false)?;
    let reverse = n.attrs.flag("reverse", false)?;
    let y = lo.emit1(Op::Cumulative(Cumulative { kind, axis, exclusive, reverse }), &[x])?;
    lo.set(n, 0, y)
}
