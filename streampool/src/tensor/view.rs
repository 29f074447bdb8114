//! Views: the same bytes under another shape. Nothing is copied unless a reshape needs it.

use streampool_core::op::{Copy, Layout, Op, Shape};

use super::{Tensor, axis_of};
use crate::{Error, Result};

impl Tensor {
    /// The same elements under another shape; one length may be given as -1. A copy only if strides cannot express it.
    pub fn reshape(&self, shape: &[isize]) -> Result<Tensor> {
        let shape = infer_minus_one(shape, &self.shape())?;
        match self.layout().reshape(&shape) {
            Some(layout) => Ok(self.with_layout(layout)),
            None => {
                let dense = self.contiguous()?;
                Ok(dense.with_layout(Layout { offset: dense.layout().offset, ..Layout::contiguous(shape) }))
            }
        }
    }

    /// [`Tensor::reshape`] if strides can express it without a copy, else `None`.
    pub fn view(&self, shape: &[isize]) -> Result<Option<Tensor>> {
        let shape = infer_minus_one(shape, &self.shape())?;
        Ok(self.layout().reshape(&shape).map(|layout| self.with_layout(layout)))
    }

    /// The same elements, row-major, in memory of their own.
    pub fn copy(&self) -> Result<Tensor> {
        self.device_handle().apply1("copy", Op::Copy(Copy), &[self])
    }

    /// Axes in the order `axes`.
    pub fn permute(&self, axes: &[isize]) -> Result<Tensor> {
        let mut perm = Vec::with_capacity(axes.len());
        for &a in axes {
            let axis = axis_of(a, self.rank(), "permute")?;
            if perm.contains(&axis) {
                return Err(Error::invalid_argument(format!("permute: axis {a} is given twice")));
            }
            perm.push(axis);
        }
        if perm.len() != self.rank() {
            return Err(Error::invalid_argument(format!(
                "permute: {} axes were given for a tensor of shape {}",
                perm.len(),
                self.shape()
            )));
        }
        Ok(self.with_layout(self.layout().permute(&perm)))
    }

    /// Two axes exchanged.
    pub fn transpose(&self, a: isize, b: isize) -> Result<Tensor> {
        let (a, b) = (axis_of(a, self.rank(), "transpose")?, axis_of(b, self.rank(), "transpose")?);
        let mut perm: Vec<usize> = (0..self.rank()).collect();
        perm.swap(a, b);
        Ok(self.with_layout(self.layout().permute(&perm)))
    }

    /// A matrix transposed (rank 2; ranks 0 and 1 stay as they are).
    pub fn t(&self) -> Result<Tensor> {
        match self.rank() {
            0 | 1 => Ok(self.clone()),
            2 => self.transpose(0, 1),
            r => Err(Error::invalid_argument(format!(
                "t: needs a tensor of rank 2 at most, got rank {r}; use transpose(-2, -1)"
            ))),
        }
    }

    /// Repeated without a copy to `shape`, by NumPy's rules.
    pub fn expand(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        shape.checked_len()?;
        Ok(self.with_layout(self.layout().broadcast_to(&shape)?))
    }

    /// A new axis of length 1 before `axis` (which may be the rank).
    pub fn unsqueeze(&self, axis: isize) -> Result<Tensor> {
        let axis = axis_of(axis, self.rank() + 1, "unsqueeze")?;
        let mut shape: Vec<usize> = self.shape().to_vec();
        shape.insert(axis, 1);
        let mut layout = self.layout().clone();
        layout.strides.insert(axis, 1);
        layout.shape = Shape::from(shape);
        Ok(self.with_layout(layout))
    }

    /// Without `axis`, which has length 1.
    pub fn squeeze(&self, axis: isize) -> Result<Tensor> {
        let axis = axis_of(axis, self.rank(), "squeeze")?;
        if self.shape()[axis] != 1 {
            return Ok(self.clone());
        }
        let mut shape: Vec<usize> = self.shape().to_vec();
        shape.remove(axis);
        let mut layout = self.layout().clone();
        layout.strides.remove(axis);
        layout.shape = Shape::from(shape);
        Ok(self.with_layout(layout))
    }

    /// Elements `start..end` of `axis`, every `step`-th, with Python's rules: negative positions count from the end, and positions beyond the
    /// ends are cut. `step` may be negative but not 0.
    pub fn slice(&self, axis: isize, start: isize, end: isize, step: isize) -> Result<Tensor> {
        let axis = axis_of(axis, self.rank(), "slice")?;
        if step == 0 {
            return Err(Error::invalid_argument(
                "slice: the step is 0; use 1 for every element or -1 to reverse",
            ));
        }
        let len = self.shape()[axis] as isize;
        let wrap = |p: isize| if p < 0 { p.saturating_add(len) } else { p };
        let (start, count) = if step > 0 {
            let (s, e) = (wrap(start).clamp(0, len), wrap(end).clamp(0, len));
            (s, if e > s { (e - s - 1) / step + 1 } else { 0 })
        } else {
            // `end` below -len means "through the first element", as in Python's x[::-1].
            let (s, e) = (wrap(start).clamp(-1, len - 1), wrap(end).clamp(-1, len - 1));
            (s, if s > e { (s - e - 1) / step.saturating_neg() + 1 } else { 0 })
        };
        Ok(self.with_layout(self.layout().slice(axis, start.max(0) as usize, count as usize, step)))
    }

    /// `len` elements of `axis` from `start`: out of range is an error.
    pub fn narrow(&self, axis: isize, start: usize, len: usize) -> Result<Tensor> {
        let axis = axis_of(axis, self.rank(), "narrow")?;
        if start.checked_add(len).is_none_or(|end| end > self.shape()[axis]) {
            return Err(Error::invalid_argument(format!(
                "narrow: {len} elements from {start} do not lie in axis {axis} of shape {}",
                self.shape()
            )));
        }
        Ok(self.with_layout(self.layout().slice(axis, start, len, 1)))
    }

    /// The axes from `start` to `end` (inclusive) as one.
    pub fn flatten(&self, start: isize, end: isize) -> Result<Tensor> {
        if self.rank() == 0 {
            return self.reshape(&[1]);
        }
        let (s, e) = (axis_of(start, self.rank(), "flatten")?, axis_of(end, self.rank(), "flatten")?);
        if s > e {
            return Err(Error::invalid_argument(format!("flatten: axis {start} lies after axis {end}")));
        }
        let old = self.shape();
        let mut shape: Vec<isize> = old[..s].iter().map(|&d| d as isize).collect();
        shape.push(old[s..=e].iter().product::<usize>() as isize);
        shape.extend(old[e + 1..].iter().map(|&d| d as isize));
        self.reshape(&shape)
    }

    /// The same elements row-major: itself if it is so already, else a copy.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.layout().is_contiguous() {
            return Ok(self.clone());
        }
        self.device_handle().apply1("contiguous", Op::Copy(Copy), &[self])
    }
}

/// `shape` with its one -1 (if any) computed from `old`'s number of elements.
fn infer_minus_one(shape: &[isize], old: &Shape) -> Result<Shape> {
    let bad = |why: &str| {
        let asked: Vec<String> = shape.iter().map(|d| d.to_string()).collect();
        Error::invalid_argument(format!(
            "reshape: {} elements of shape {old} do not fit shape ({}){why}",
            old.len(),
            asked.join(", ")
        ))
    };
    if shape.iter().any(|&d| d < -1) {
        return Err(bad(": a length is negative"));
    }
    let unknown = shape.iter().filter(|&&d| d == -1).count();
    if unknown > 1 {
        return Err(bad(": more than one -1"));
    }
    let mut known: usize = 1;
    for &d in shape.iter().filter(|&&d| d >= 0) {
        known = known.checked_mul(d as usize).ok_or_else(|| bad(": too many elements"))?;
    }
    let rest = match old.len().checked_div(known) {
        _ if unknown == 0 => 0,
        Some(rest) => rest,
        None => return Err(bad(": -1 beside a 0 can be anything; give every length")),
    };
    let full: Shape = shape.iter().map(|&d| if d == -1 { rest } else { d as usize }).collect();
    if full.checked_len()? != old.len() {
        return Err(bad(""));
    }
    Ok(full)
}
