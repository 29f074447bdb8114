//! Trilu.

use streampool_core::op::{Op, Trilu};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("Trilu", 14, trilu)];

fn trilu(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let k = match lo.optional(n, 1)? {
        Some(k) => lo.one(&k, "k")?.to_i64(),
        None => 0,
    };
    let upper = n.attrs.flag("upper", true)?;
    let y = lo.emit1(Op::Trilu(Trilu { upper, k }), &[x])?;
    lo.set(n, 0, y)
}
