//! Det.

use streampool_core::op::{Linalg, Op};

use super::{Operator, op};

pub(super) const OPS: &[Operator] = &[op("Det", 11, |lo, n| {
    let x = lo.input(n, 0)?;
    let y = lo.emit1(Op::Linalg(Linalg::Det), &[x])?;
    lo.set(n, 0, y)
})];
