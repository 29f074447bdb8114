//! TopK. `k` is an attribute before operator set 10, an input since.

use streampool_core::Error;
use streampool_core::op::{Op, TopK};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("TopK", 1, topk)];

fn topk(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let k = if n.version < 10 {
        n.attrs.required_int("k")?
    } else {
        let k = lo.input(n, 1)?;
        lo.one(&k, "k")?.to_i64()
    };
    let k = usize::try_from(k)
        .map_err(|_| Error::invalid_argument(format!("k is {k}, it should not be negative")))?;
    let axis = axis(n.attrs.int("axis", -1)?, x.rank())?;
    let op = TopK { k, axis, largest: n.attrs.flag("largest", true)?, sorted: n.attrs.flag("sorted", true)? };
    let outputs = lo.emit(Op::TopK(op), &[x])?;
    for (i, y) in outputs.into_iter().enumerate() {
        lo.set(n, i, y)?;
    }
    Ok(())
}
