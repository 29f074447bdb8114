//! Concat: one copy a part into the result.

use streampool_core::Error;

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("Concat", 4, concat)];

fn concat(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let parts = lo.inputs(n)?;
    let first = parts.first().ok_or_else(|| Error::invalid_model("Concat without inputs"))?;
    let at = axis(n.attrs.required_int("axis")?, first.rank())?;
    let y = lo.concat(&parts, at)?;
    lo.set(n, 0, y)
}
