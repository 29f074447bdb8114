//! Max, Min, Sum, Mean of any number of tensors.

use streampool_core::op::Binary;

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[
    op("Max", 8, |lo, n| fold(lo, n, Binary::Max)),
    op("Min", 8, |lo, n| fold(lo, n, Binary::Min)),
    op("Sum", 8, |lo, n| fold(lo, n, Binary::Add)),
    op("Mean", 8, mean),
];

fn folded(lo: &mut Lower<'_>, n: &Node, f: Binary) -> LResult<View> {
    let mut acc = lo.input(n, 0)?;
    for i in 1..n.inputs.len() {
        let next = lo.input(n, i)?;
        acc = lo.binary(f, &acc, &next)?;
    }
    Ok(acc)
}

fn fold(lo: &mut Lower<'_>, n: &Node, f: Binary) -> LResult<()> {
    let y = folded(lo, n, f)?;
    lo.set(n, 0, y)
}

fn mean(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let sum = folded(lo, n, Binary::Add)?;
    let y = lo.with_number(Binary::Div, &sum, n.inputs.len() as f64)?;
    lo.set(n, 0, y)
}
