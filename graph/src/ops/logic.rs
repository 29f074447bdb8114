//! And, Or, Xor, Not of bools.

use streampool_core::op::{Binary, Unary};

use super::binary::binary;
use super::{Operator, op};

pub(super) const OPS: &[Operator] = &[
    op("And", 7, |lo, n| binary(lo, n, Binary::And)),
    op("Or", 7, |lo, n| binary(lo, n, Binary::Or)),
    op("Xor", 7, |lo, n| binary(lo, n, Binary::Xor)),
    op("Not", 1, |lo, n| {
        let x = lo.input(n, 0)?;
        let y = lo.unary(Unary::Not, &x)?;
        lo.set(n, 0, y)
    }),
];
