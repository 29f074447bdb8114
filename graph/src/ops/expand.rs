//! Expand: broadcasting by strides of 0.

use super::constant::shape_from;
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("Expand", 8, expand)];

/// The broadcast goes both ways: an axis of 1 in the asked shape keeps the input's length.
fn expand(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, shape) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let asked = shape_from(&lo.ints(&shape)?)?;
    let full = x.shape().broadcast(&asked)?;
    let y = lo.broadcast(&x, &full)?;
    lo.set(n, 0, y)
}
