//! Clip. Bounds are attributes before operator set 11, inputs since.

use streampool_core::op::Binary;

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("Clip", 6, by_attributes), op("Clip", 11, by_inputs)];

fn by_attributes(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let mut x = lo.input(n, 0)?;
    if let Some(&min) = n.attrs.float_opt("min")? {
        x = lo.with_number(Binary::Max, &x, f64::from(min))?;
    }
    if let Some(&max) = n.attrs.float_opt("max")? {
        x = lo.with_number(Binary::Min, &x, f64::from(max))?;
    }
    lo.set(n, 0, x)
}

/// `min(max(x, lo), hi)`: where the bounds cross, the upper one wins.
fn by_inputs(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let mut x = lo.input(n, 0)?;
    if let Some(min) = lo.optional(n, 1)? {
        x = lo.binary(Binary::Max, &x, &min)?;
    }
    if let Some(max) = lo.optional(n, 2)? {
        x = lo.binary(Binary::Min, &x, &max)?;
    }
    lo.set(n, 0, x)
}
