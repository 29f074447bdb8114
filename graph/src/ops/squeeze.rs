//! Squeeze, Unsqueeze. Axes are an attribute before operator set 13, an input since.

use streampool_core::Error;

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axes};

pub(super) const OPS: &[Operator] = &[op("Squeeze", 1, squeeze), op("Unsqueeze", 1, unsqueeze)];

fn listed(lo: &mut Lower<'_>, n: &Node) -> LResult<Option<Vec<i64>>> {
    match n.attrs.ints("axes")? {
        Some(a) => Ok(Some(a.to_vec())),
        None => match lo.optional(n, 1)? {
            Some(v) => Ok(Some(lo.ints(&v)?)),
            None => Ok(None),
        },
    }
}

fn squeeze(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let over = match listed(lo, n)? {
        Some(list) => axes(&list, x.rank())?,
        None => (0..x.rank()).filter(|&a| x.shape()[a] == 1).collect(),
    };
    let y = lo.squeeze(&x, &over)?;
    lo.set(n, 0, y)
}

fn unsqueeze(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let list = listed(lo, n)?.ok_or_else(|| Error::invalid_model("the axes are missing"))?;
    let at = axes(&list, x.rank() + list.len())?;
    let y = lo.unsqueeze(&x, &at)?;
    lo.set(n, 0, y)
}
