//! CenterCropPad: a slice where the axis shrinks, a border where it grows.

use streampool_core::Error;
use streampool_core::op::{Op, Pad, PadMode, Scalar};

use super::constant::shape_from;
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[op("CenterCropPad", 18, center_crop_pad)];

fn center_crop_pad(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (mut x, shape) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let wanted = shape_from(&lo.ints(&shape)?)?;
    let rank = x.rank();
    let axes: Vec<usize> = match n.attrs.ints("axes")? {
        Some(list) => list.iter().map(|&a| axis(a, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if axes.len() != wanted.rank() {
        return Err(Error::invalid_argument(format!(
            "{} lengths are given for {} axes",
            wanted.rank(),
            axes.len()
        ))
        .into());
    }
    let (mut before, mut after) = (vec![0isize; rank], vec![0isize; rank]);
    for (&a, &len) in axes.iter().zip(wanted.iter()) {
        let have = x.shape()[a];
        if len < have {
            x = lo.slice(&x, a, (have - len) / 2, len, 1);
        } else {
            let more = len - have;
            before[a] = (more / 2) as isize;
            after[a] = (more - more / 2) as isize;
        }
    }
    if after.iter().any(|&p| p > 0) {
        let mode = PadMode::Constant(Scalar::from_f64(x.dtype, 0.0));
        x = lo.emit1(Op::Pad(Pad { mode, before, after }), &[x])?;
    }
    lo.set(n, 0, x)
}
