//! Gather, GatherElements, GatherND and ReverseSequence.

use streampool_core::Error;
use streampool_core::op::{Gather, GatherElements, GatherNd, Op, TensorType};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, axis};

pub(super) const OPS: &[Operator] = &[
    op("Gather", 1, gather),
    op("GatherElements", 11, gather_elements),
    op("GatherND", 11, gather_nd),
    op("ReverseSequence", 10, reverse_sequence),
];

fn gather(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (data, indices) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let axis = axis(n.attrs.int("axis", 0)?, data.rank())?;
    // Known indices that are equally far apart: a view.
    if lo.is_known(&indices)
        && let Some((start, step)) = progression(&lo.ints(&indices)?, &data.ty(), axis)?
    {
        let part = lo.slice(&data, axis, start, indices.shape().len(), step);
        let mut shape = data.shape().to_vec();
        shape.splice(axis..=axis, indices.shape().iter().copied());
        let y = lo.reshape(&part, shape)?;
        return lo.set(n, 0, y);
    }
    let y = lo.emit1(Op::Gather(Gather { axis }), &[data, indices])?;
    lo.set(n, 0, y)
}

/// The first of `indices` into an axis of `data` and the step from each to the next, if there is one.
///
/// # Errors
/// An index that is out of range.
fn progression(indices: &[i64], data: &TensorType, axis: usize) -> Result<Option<(usize, isize)>, Error> {
    let len = data.shape[axis];
    let wrapped = |i: i64| {
        let at = if i < 0 { i + len as i64 } else { i };
        usize::try_from(at).ok().filter(|&a| a < len).ok_or_else(|| {
            Error::invalid_argument(format!("index {i} is out of range for axis {axis} of {data}"))
        })
    };
    let at = indices.iter().map(|&i| wrapped(i)).collect::<Result<Vec<_>, _>>()?;
    let Some(&first) = at.first() else { return Ok(None) };
    let steps = || at.windows(2).map(|w| w[1] as isize - w[0] as isize);
    let step = steps().next().unwrap_or(1);
    Ok((step != 0 && steps().all(|s| s == step)).then_some((first, step)))
}

fn gather_elements(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (data, indices) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let axis = axis(n.attrs.int("axis", 0)?, data.rank())?;
    let y = lo.emit1(Op::GatherElements(GatherElements { axis }), &[data, indices])?;
    lo.set(n, 0, y)
}

fn gather_nd(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (data, indices) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let batch_dims = usize::try_from(n.attrs.int("batch_dims", 0)?)
        .map_err(|_| Error::invalid_model("batch_dims is negative"))?;
    let y = lo.emit1(Op::GatherNd(GatherNd { batch_dims }), &[data, indices])?;
    lo.set(n, 0, y)
}

/// The first `lens[b]` elements of each sample are reversed: a gather with indices known at plan time.
fn reverse_sequence(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, lens) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let (time, batch) =
        (axis(n.attrs.int("time_axis", 0)?, x.rank())?, axis(n.attrs.int("batch_axis", 1)?, x.rank())?);
    let lens = lo.ints(&lens)?;
    if time + batch != 1 || lens.len() != x.shape()[batch] {
        return Err(Error::invalid_argument(format!(
            "time and batch axes should be 0 and 1, with one length a sample of {}; there are {}",
            x.ty(),
            lens.len()
        ))
        .into());
    }
    let steps = x.shape()[time];
    let (rows, cols) = (x.shape()[0], x.shape()[1]);
    let mut indices = Vec::with_capacity(rows * cols);
    for i in 0..rows {
        for j in 0..cols {
            let (t, b) = if time == 0 { (i, j) } else { (j, i) };
            let len = usize::try_from(lens[b]).ok().filter(|&l| l <= steps).ok_or_else(|| {
                Error::invalid_argument(format!(
                    "a sequence length of {} does not fit {steps} steps",
                    lens[b]
                ))
            })?;
            let from = if t < len { len - 1 - t } else { t };
            indices.push((if time == 0 { from * cols + b } else { b * cols + from }) as i64);
        }
    }
    let mut flat = vec![rows * cols];
    flat.extend(&x.shape()[2..]);
    let flat = lo.reshape(&x, flat)?;
    let indices = lo.ints_constant(&indices, vec![rows, cols]);
    let y = lo.emit1(Op::Gather(Gather { axis: 0 }), &[flat, indices])?;
    lo.set(n, 0, y)
}
