//! Where.

use super::{Operator, op};

pub(super) const OPS: &[Operator] = &[op("Where", 9, |lo, n| {
    let (c, a, b) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let y = lo.select(&c, &a, &b)?;
    lo.set(n, 0, y)
})];
