//! Comparisons.

use streampool_core::op::Binary;

use super::binary::binary;
use super::{Operator, op};

pub(super) const OPS: &[Operator] = &[
    op("Equal", 7, |lo, n| binary(lo, n, Binary::Eq)),
    op("Less", 7, |lo, n| binary(lo, n, Binary::Lt)),
    op("LessOrEqual", 12, |lo, n| binary(lo, n, Binary::Le)),
    op("Greater", 7, |lo, n| binary(lo, n, Binary::Gt)),
    op("GreaterOrEqual", 12, |lo, n| binary(lo, n, Binary::Ge)),
];
