//! Col2Im: overlapping blocks summed into an image, as a scatter with indices known at plan time.

use streampool_core::Error;
use streampool_core::op::{OnScatter, Op, Scalar, ScatterElements, Shape};

use super::constant::shape_from;
use super::spatial::{extent, sizes};
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("Col2Im", 18, col2im)];

fn col2im(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, image, block) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let image = shape_from(&lo.ints(&image)?)?;
    let block = shape_from(&lo.ints(&block)?)?;
    let axes = image.rank();
    let (strides, dilations) = (sizes(n, "strides", axes, 1)?, sizes(n, "dilations", axes, 1)?);
    let pads = sizes(n, "pads", 2 * axes, 0)?;
    let wrong =
        || Error::invalid_argument(format!("x {} holds no blocks {block} of an image {image}", x.ty()));
    if x.rank() != 3 || block.rank() != axes || block.is_empty() || strides.contains(&0) {
        return Err(wrong().into());
    }
    let padded: Vec<usize> =
        (0..axes).map(|i| image[i].saturating_add(pads[i]).saturating_add(pads[axes + i])).collect();
    let mut places = Vec::with_capacity(axes);
    for i in 0..axes {
        let room = padded[i].checked_sub(extent(block[i], dilations[i])?).ok_or_else(wrong)?;
        places.push(room / strides[i] + 1);
    }
    let (window, count): (usize, usize) = (block.len(), places.iter().product());
    if x.shape()[2] != count || !x.shape()[1].is_multiple_of(window) {
        return Err(wrong().into());
    }
    let padded = Shape::from(padded);
    let total = padded.checked_len()?;
    let mut indices = Vec::with_capacity(window * count);
    for w in 0..window {
        for p in 0..count {
            let (mut w, mut p, mut at, mut step) = (w, p, 0, 1);
            for i in (0..axes).rev() {
                at += ((p % places[i]) * strides[i] + (w % block[i]) * dilations[i]) * step;
                step *= padded[i];
                p /= places[i];
                w /= block[i];
            }
            indices.push(at as i64);
        }
    }
    let rows = x.shape()[0] * (x.shape()[1] / window);
    let flat = lo.reshape(&x, vec![rows, window * count])?;
    let indices = lo.ints_constant(&indices, vec![1, window * count]);
    let indices = lo.broadcast(&indices, flat.shape())?;
    let zero = lo.filled(Scalar::from_f64(x.dtype, 0.0), &Shape::new(&[rows, total]))?;
    let op = Op::ScatterElements(ScatterElements { axis: 1, reduction: OnScatter::Add });
    let y = lo.emit1(op, &[zero, indices, flat])?;
    let mut shape = vec![x.shape()[0], x.shape()[1] / window];
    shape.extend(padded.iter());
    let mut y = lo.reshape(&y, shape)?;
    for i in 0..axes {
        y = lo.slice(&y, 2 + i, pads[i], image[i], 1);
    }
    lo.set(n, 0, y)
}
