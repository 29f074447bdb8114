//! Reading by index, joining.

use streampool_core::op::{Gather, GatherElements, Op, TopK, Trilu};

use super::{Tensor, axis_of, promote_types};
use crate::{Error, Result};

impl Tensor {
    /// Slices of `axis` at `indices` (int32 or int64, rank 1). An index out of range is an error of this call.
    pub fn index_select(&self, axis: isize, indices: &Tensor) -> Result<Tensor> {
        let axis = axis_of(axis, self.rank(), "index_select")?;
        self.device_handle().apply1("index_select", Op::Gather(Gather { axis }), &[self, indices])
    }

    /// One element of `axis` per index: `out[i][j] = self[indices[i][j]][j]` for axis 0.
    pub fn gather(&self, axis: isize, indices: &Tensor) -> Result<Tensor> {
        let axis = axis_of(axis, self.rank(), "gather")?;
        self.device_handle().apply1("gather", Op::GatherElements(GatherElements { axis }), &[self, indices])
    }

    /// Rows of this (vocabulary, width) table at `indices` of any shape.
    pub fn embedding(&self, indices: &Tensor) -> Result<Tensor> {
        if self.rank() != 2 {
            return Err(Error::invalid_argument(format!(
                "embedding: the table has shape {}, needs rank 2",
                self.shape()
            )));
        }
        self.device_handle().apply1("embedding", Op::Gather(Gather { axis: 0 }), &[self, indices])
    }

    /// The `k` greatest (or least) elements along `axis` in order, and their indices (int64).
    pub fn topk(&self, k: usize, axis: isize, largest: bool) -> Result<(Tensor, Tensor)> {
        let axis = axis_of(axis, self.rank(), "topk")?;
        let mut out = self
            .device_handle()
            .apply("topk", Op::TopK(TopK { k, axis, largest, sorted: true }), &[self])?
            .into_iter();
        match (out.next(), out.next()) {
            (Some(values), Some(indices)) => Ok((values, indices)),
            _ => Err(Error::internal("topk: the operation gave fewer than two results")),
        }
    }

    /// The lower triangle of the last two axes, up to the `diagonal`-th diagonal; zero elsewhere.
    pub fn tril(&self, diagonal: i64) -> Result<Tensor> {
        self.device_handle().apply1("tril", Op::Trilu(Trilu { upper: false, k: diagonal }), &[self])
    }

    /// The upper triangle of the last two axes, from the `diagonal`-th diagonal; zero elsewhere.
    pub fn triu(&self, diagonal: i64) -> Result<Tensor> {
        self.device_handle().apply1("triu", Op::Trilu(Trilu { upper: true, k: diagonal }), &[self])
    }

    /// Tensors joined along `axis`; their other axes agree. Dtypes are promoted.
    pub fn concat(tensors: &[&Tensor], axis: isize) -> Result<Tensor> {
        let Some(first) = tensors.first() else {
            return Err(Error::invalid_argument("concat: no tensor was given; at least one is needed"));
        };
        let axis = axis_of(axis, first.rank(), "concat")?;
        let mut total: usize = 0;
        let mut dtype = first.dtype();
        for t in tensors {
            let fits = t.rank() == first.rank()
                && (0..t.rank()).all(|i| i == axis || t.shape()[i] == first.shape()[i]);
            if !fits {
                return Err(Error::invalid_argument(format!(
                    "concat: shapes {} and {} differ outside axis {axis}",
                    first.shape(),
                    t.shape()
                )));
            }
            total = total
                .checked_add(t.shape()[axis])
                .ok_or_else(|| Error::invalid_argument("concat: the joined axis is too long"))?;
            dtype = promote_types(dtype, t.dtype());
        }
        let cast: Vec<Tensor> = tensors.iter().map(|t| t.cast(dtype)).collect::<Result<_>>()?;
        first.device_handle().concat(&cast, axis, total)
    }

    /// Tensors of one shape joined along a new axis.
    pub fn stack(tensors: &[&Tensor], axis: isize) -> Result<Tensor> {
        let raised: Vec<Tensor> = tensors.iter().map(|t| t.unsqueeze(axis)).collect::<Result<_>>()?;
        Tensor::concat(&raised.iter().collect::<Vec<_>>(), axis)
    }
}
