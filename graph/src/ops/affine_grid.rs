//! AffineGrid: a constant grid of positions times a matrix per sample.

use streampool_core::Error;
use streampool_core::op::{MatMul, Op};

use super::constant::shape_from;
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("AffineGrid", 20, affine_grid)];

fn affine_grid(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (theta, size) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let size = shape_from(&lo.ints(&size)?)?;
    let corners = n.attrs.flag("align_corners", false)?;
    let axes = size.rank().saturating_sub(2);
    if !(2..=3).contains(&axes) || theta.shape()[..] != [size[0], axes, axes + 1] {
        return Err(
            Error::invalid_argument(format!("theta {} does not fit the size {size}", theta.ty())).into()
        );
    }
    let spatial = &size[2..];
    let position = |i: usize, len: usize| {
        if !corners {
            -1.0 + (2.0 * i as f64 + 1.0) / len as f64
        } else if len == 1 {
            -1.0
        } else {
            -1.0 + 2.0 * i as f64 / (len - 1) as f64
        }
    };
    let count: usize = spatial.iter().product();
    // Homogeneous coordinates, the innermost axis first.
    let mut grid = Vec::with_capacity(count * (axes + 1));
    for flat in 0..count {
        let mut rest = flat;
        for &len in spatial.iter().rev() {
            grid.push(position(rest % len, len));
            rest /= len;
        }
        grid.push(1.0);
    }
    let grid = lo.floats_constant(theta.dtype, &grid, vec![count, axes + 1]);
    let across = lo.transpose_last(&theta)?;
    let y = lo.emit1(Op::MatMul(MatMul::default()), &[grid, across])?;
    let mut shape = vec![size[0]];
    shape.extend(spatial);
    shape.push(axes);
    let y = lo.reshape(&y, shape)?;
    lo.set(n, 0, y)
}
