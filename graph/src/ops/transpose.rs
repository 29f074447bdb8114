//! Transpose: a view.

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("Transpose", 1, transpose)];

fn transpose(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let perm: Vec<usize> = match n.attrs.ints("perm")? {
        Some(p) => p.iter().map(|&a| axis(a, x.rank())).collect::<Result<_, _>>()?,
        None => (0..x.rank()).rev().collect(),
    };
    let y = lo.permute(&x, &perm)?;
    lo.set(n, 0, y)
}
