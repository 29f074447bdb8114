//! Reading and writing by index. An index out of range (after negative ones were wrapped once) is an error of the launch that
//! `is_invalid_argument` and names the index and the axis; it is never undefined.

use super::{DType, Operation, TensorType, check};
use crate::error::Result;

/// Takes slices of `axis`: NumPy's `take`. Inputs: data (any dtype), indices (i32 or i64, any shape; negative count from the end). Output:
/// `data[..axis] + indices.shape + data[axis+1..]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gather {
    /// Along which axis of data.
    pub axis: usize,
}

/// NumPy's `take_along_axis`. Inputs: data, indices (i32/i64, same rank; other axes no longer than data's). Output: indices' shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatherElements {
    /// Along which axis.
    pub axis: usize,
}

/// ONNX's GatherND. Inputs: data, indices (i64/i32) whose last axis holds index tuples. Output: as ONNX says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatherNd {
    /// Leading axes shared by data and indices.
    pub batch_dims: usize,
}

/// What a scatter does where it writes.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnScatter {
    /// The last update in index order wins.
    Replace,
    Add,
    Mul,
    Min,
    Max,
}

/// ONNX's ScatterElements. Inputs: data, indices (i32/i64), updates (indices' shape, data's dtype). Output: data's type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScatterElements {
    /// Along which axis.
    pub axis: usize,
    /// How updates combine.
    pub reduction: OnScatter,
}

/// ONNX's ScatterND. Inputs: data, indices (i32/i64), updates. Output: data's type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScatterNd {
    /// How updates combine.
    pub reduction: OnScatter,
}

/// The `k` greatest or least elements along `axis`. Input: numeric. Outputs: values (same dtype), indices (i64). Of equals the lower index comes
/// first; NaN counts as greatest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopK {
    /// How many.
    pub k: usize,
    /// Along which axis.
    pub axis: usize,
    /// Greatest instead of least.
    pub largest: bool,
    /// In order; otherwise in any order (ours is sorted too).
    pub sorted: bool,
}

/// Elements that occur, once each: kept for the moment that data-dependent shapes are folded at plan time. Input: flattened numeric tensor with
/// as many distinct values as `count` says. Outputs: values, first index, inverse, counts (i64).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unique {
    /// Distinct values in the input.
    pub count: usize,
    /// Ascending; else in order of first occurrence.
    pub sorted: bool,
}

impl Operation for Gather {
    fn name(&self) -> &'static str {
        "Gather"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["data", "indices"])?;
        let (data, indices) = (&inputs[0], &inputs[1]);
        check::dtype(op, "indices", indices, check::is_index, check::INDICES)?;
        check::axis(op, "data", data, self.axis)?;
        let lead = check::concat(&data.shape[..self.axis], &indices.shape);
        Ok(vec![TensorType::new(data.dtype, check::concat(&lead, &data.shape[self.axis + 1..]))])
    }
}

/// Checks what gathering and scattering along an axis share: `indices` as long as `data` at most on all other axes.
fn along(op: &str, data: &TensorType, indices: &TensorType, axis: usize) -> Result<()> {
    check::dtype(op, "indices", indices, check::is_index, check::INDICES)?;
    check::axis(op, "data", data, axis)?;
    check::rank_is(op, "indices", indices, data.shape.rank())?;
    for (i, (&n, &limit)) in indices.shape.iter().zip(data.shape.iter()).enumerate() {
        if i != axis && n > limit {
            return Err(check::invalid(
                op,
                format_args!("axis {i} of indices {indices} is longer than that of data {data}"),
            ));
        }
    }
    Ok(())
}

/// Checks that a reduction has a meaning for the dtype.
fn combines(op: &str, reduction: OnScatter, data: &TensorType) -> Result<()> {
    if reduction != OnScatter::Replace {
        check::dtype(op, "data", data, check::is_number, check::NUMBERS)?;
    }
    Ok(())
}

impl Operation for GatherElements {
    fn name(&self) -> &'static str {
        "GatherElements"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        check::operands(self.name(), inputs, &["data", "indices"])?;
        along(self.name(), &inputs[0], &inputs[1], self.axis)?;
        Ok(vec![TensorType::new(inputs[0].dtype, inputs[1].shape.clone())])
    }
}

impl Operation for GatherNd {
    fn name(&self) -> &'static str {
        "GatherNd"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["data", "indices"])?;
        let (data, indices) = (&inputs[0], &inputs[1]);
        check::dtype(op, "indices", indices, check::is_index, check::INDICES)?;
        check::rank_at_least(op, "indices", indices, 1)?;
        let (rank, last, batch) = (data.shape.rank(), indices.shape.rank() - 1, self.batch_dims);
        if batch > last || batch > rank || data.shape[..batch] != indices.shape[..batch] {
            return Err(check::invalid(
                op,
                format_args!("data {data} and indices {indices} do not share {batch} leading axes"),
            ));
        }
        let tuple = indices.shape[last];
        if tuple > rank - batch {
            return Err(check::invalid(
                op,
                format_args!(
                    "indices {indices} have tuples of {tuple}, data {data} leaves {} axes",
                    rank - batch
                ),
            ));
        }
        let shape = check::concat(&indices.shape[..last], &data.shape[batch + tuple..]);
        Ok(vec![TensorType { dtype: data.dtype, shape }])
    }
}

impl Operation for ScatterElements {
    fn name(&self) -> &'static str {
        "ScatterElements"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["data", "indices", "updates"])?;
        let [data, indices, updates] = [&inputs[0], &inputs[1], &inputs[2]];
        along(op, data, indices, self.axis)?;
        check::same_dtype(op, "updates", updates, "data", data)?;
        check::shape_is(op, "updates", updates, &indices.shape)?;
        combines(op, self.reduction, data)?;
        Ok(vec![data.clone()])
    }

    fn in_place(&self, i: usize) -> bool {
        i == 0
    }
}

impl Operation for ScatterNd {
    fn name(&self) -> &'static str {
        "ScatterNd"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["data", "indices", "updates"])?;
        let [data, indices, updates] = [&inputs[0], &inputs[1], &inputs[2]];
        check::dtype(op, "indices", indices, check::is_index, check::INDICES)?;
        check::rank_at_least(op, "indices", indices, 1)?;
        check::same_dtype(op, "updates", updates, "data", data)?;
        combines(op, self.reduction, data)?;
        let last = indices.shape.rank() - 1;
        let tuple = indices.shape[last];
        if tuple > data.shape.rank() {
            return Err(check::invalid(
                op,
                format_args!("indices {indices} have tuples of {tuple}, data {data} has fewer axes"),
            ));
        }
        check::shape_is(
            op,
            "updates",
            updates,
            &check::concat(&indices.shape[..last], &data.shape[tuple..]),
        )?;
        Ok(vec![data.clone()])
    }

    fn in_place(&self, i: usize) -> bool {
        i == 0
    }
}

impl Operation for TopK {
    fn name(&self) -> &'static str {
        "TopK"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["x"])?;
        let x = &inputs[0];
        check::dtype(op, "x", x, check::is_number, check::NUMBERS)?;
        check::axis(op, "x", x, self.axis)?;
        if self.k > x.shape[self.axis] {
            return Err(check::invalid(
                op,
                format_args!("k is {}, axis {} of x {x} has only {}", self.k, self.axis, x.shape[self.axis]),
            ));
        }
        let mut shape = x.shape.to_vec();
        shape[self.axis] = self.k;
        Ok(vec![TensorType::new(x.dtype, shape.clone()), TensorType::new(DType::I64, shape)])
    }
}

impl Operation for Unique {
    fn name(&self) -> &'static str {
        "Unique"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["x"])?;
        let x = &inputs[0];
        check::rank_is(op, "x", x, 1)?;
        if self.count > x.shape[0] || (self.count == 0 && x.shape[0] > 0) {
            return Err(check::invalid(op, format_args!("x {x} cannot have {} distinct values", self.count)));
        }
        let indices = TensorType::new(DType::I64, [self.count]);
        Ok(vec![
            TensorType::new(x.dtype, [self.count]),
            indices.clone(),
            TensorType::new(DType::I64, x.shape.clone()),
            indices,
        ])
    }
}
