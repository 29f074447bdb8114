//! Views that cost nothing: reshape, transpose, slice, broadcast, squeeze.

use streampool_core::Error;
use streampool_core::op::{Layout, Shape};

use super::{LResult, Lower, View};

/// `axis` counted from the front, for a tensor of this rank.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Error> {
    let wrapped = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    wrapped.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank).ok_or_else(|| {
        Error::invalid_model(format!("axis {axis} is out of range for a tensor of rank {rank}"))
    })
}

/// Axes counted from the front, without repeats, ascending.
pub(crate) fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>, Error> {
    let mut out = list.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    out.sort_unstable();
    if out.windows(2).any(|w| w[0] == w[1]) {
        return Err(Error::invalid_model(format!("axes {list:?} name one axis twice (rank {rank})")));
    }
    Ok(out)
}

impl Lower<'_> {
    /// The same elements under another shape of as many.
    pub(crate) fn reshape(&mut self, v: &View, shape: impl Into<Shape>) -> LResult<View> {
        let shape = shape.into();
        shape.checked_len()?;
        if shape.len() != v.shape().len() {
            return Err(Error::invalid_argument(format!(
                "shape {} has {} elements and cannot become {shape}, which has {}",
                v.shape(),
                v.shape().len(),
                shape.len()
            ))
            .into());
        }
        if let Some(layout) = v.layout.reshape(&shape) {
            return Ok(v.with(layout));
        }
        let copy = self.contiguous(v)?;
        match copy.layout.reshape(&shape) {
            Some(layout) => Ok(copy.with(layout)),
            None => Err(Error::internal("a row-major tensor could not be reshaped").into()),
        }
    }

    pub(crate) fn permute(&mut self, v: &View, perm: &[usize]) -> LResult<View> {
        let mut seen = vec![false; v.rank()];
        for &p in perm {
            if p >= v.rank() || std::mem::replace(&mut seen[p], true) {
                return Err(Error::invalid_model(format!(
                    "{perm:?} is no order of the axes of {}",
                    v.shape()
                ))
                .into());
            }
        }
        if perm.len() != v.rank() {
            return Err(
                Error::invalid_model(format!("{perm:?} is no order of the axes of {}", v.shape())).into()
            );
        }
        Ok(v.with(v.layout.permute(perm)))
    }

    /// Swaps the last two axes.
    pub(crate) fn transpose_last(&mut self, v: &View) -> LResult<View> {
        let mut perm: Vec<usize> = (0..v.rank()).collect();
        let n = perm.len();
        if n < 2 {
            return Err(Error::invalid_argument(format!("a matrix is needed, there is {}", v.ty())).into());
        }
        perm.swap(n - 1, n - 2);
        self.permute(v, &perm)
    }

    pub(crate) fn slice(&mut self, v: &View, axis: usize, start: usize, len: usize, step: isize) -> View {
        v.with(v.layout.slice(axis, start, len, step))
    }

    pub(crate) fn broadcast(&mut self, v: &View, shape: &Shape) -> LResult<View> {
        shape.checked_len()?;
        Ok(v.with(v.layout.broadcast_to(shape)?))
    }

    /// Axes of length 1 at these positions of the result.
    pub(crate) fn unsqueeze(&mut self, v: &View, axes: &[usize]) -> LResult<View> {
        let rank = v.rank() + axes.len();
        let mut dims = Vec::with_capacity(rank);
        let mut strides = Vec::with_capacity(rank);
        let mut old = 0;
        for i in 0..rank {
            if axes.contains(&i) {
                dims.push(1);
                strides.push(0);
            } else if old < v.rank() {
                dims.push(v.shape()[old]);
                strides.push(v.layout.strides[old]);
                old += 1;
            }
        }
        let shape = Shape::from(dims);
        shape.checked_len()?;
        Ok(v.with(Layout { shape, strides: strides.into_iter().collect(), offset: v.layout.offset }))
    }

    /// Takes off these axes, which have length 1.
    pub(crate) fn squeeze(&mut self, v: &View, axes: &[usize]) -> LResult<View> {
        for &a in axes {
            if v.shape()[a] != 1 {
                return Err(Error::invalid_argument(format!(
                    "axis {a} of shape {} has length {} and cannot be squeezed",
                    v.shape(),
                    v.shape()[a]
                ))
                .into());
            }
        }
        let keep: Vec<usize> = (0..v.rank()).filter(|i| !axes.contains(i)).collect();
        Ok(v.with(Layout {
            shape: keep.iter().map(|&i| v.shape()[i]).collect(),
            strides: keep.iter().map(|&i| v.layout.strides[i]).collect(),
            offset: v.layout.offset,
        }))
    }
}
