//! ScatterElements (and its old name Scatter), ScatterND.

use streampool_core::Error;
use streampool_core::op::{OnScatter, Op, ScatterElements, ScatterNd};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] =
    &[op("Scatter", 9, elements), op("ScatterElements", 11, elements), op("ScatterND", 11, nd)];

fn reduction(n: &Node) -> LResult<OnScatter> {
    Ok(match n.attrs.str("reduction", "none")? {
        "none" => OnScatter::Replace,
        "add" => OnScatter::Add,
        "mul" => OnScatter::Mul,
        "min" => OnScatter::Min,
        "max" => OnScatter::Max,
        other => return Err(Error::invalid_model(format!("reduction '{other}' does not exist")).into()),
    })
}

fn elements(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (data, indices, updates) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let axis = axis(n.attrs.int("axis", 0)?, data.rank())?;
    let op = Op::ScatterElements(ScatterElements { axis, reduction: reduction(n)? });
    let y = lo.emit1(op, &[data, indices, updates])?;
    lo.set(n, 0, y)
}

fn nd(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (data, indices, updates) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let op = Op::ScatterNd(ScatterNd { reduction: reduction(n)? });
    let y = lo.emit1(op, &[data, indices, updates])?;
    lo.set(n, 0, y)
}
