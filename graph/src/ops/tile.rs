//! Tile: a broadcast over a new axis before each, then a reshape.

use streampool_core::Error;

use super::constant::shape_from;
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("Tile", 6, tile)];

fn tile(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, repeats) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let repeats = shape_from(&lo.ints(&repeats)?)?;
    if repeats.rank() != x.rank() {
        return Err(Error::invalid_argument(format!(
            "repeats {repeats} should have an entry for each axis of {}",
            x.ty()
        ))
        .into());
    }
    let mut y = x;
    for (axis, &count) in repeats.iter().enumerate() {
        if count == 1 {
            continue;
        }
        let one = lo.unsqueeze(&y, &[axis])?;
        let mut wide = one.shape().to_vec();
        wide[axis] = count;
        let wide = lo.broadcast(&one, &wide.into())?;
        let mut dims = y.shape().to_vec();
        dims[axis] = dims[axis]
            .checked_mul(count)
            .ok_or_else(|| Error::invalid_argument("the tiled axis is too long"))?;
        y = lo.reshape(&wide, dims)?;
    }
    lo.set(n, 0, y)
}
