//! Reading and writing by index. An index out of range (after negative ones were wrapped once) is an error of the launch that
//! `is_invalid_argument` and names the index and the axis; it is never undefined.

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

impl super::Operation for Gather {
    fn name(&self) -> &'static str {
        "Gather"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Gather: shape inference is not written yet"))
    }
}

impl super::Operation for GatherElements {
    fn name(&self) -> &'static str {
        "GatherElements"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("GatherElements: shape inference is not written yet"))
    }
}

impl super::Operation for GatherNd {
    fn name(&self) -> &'static str {
        "GatherNd"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("GatherNd: shape inference is not written yet"))
    }
}

impl super::Operation for ScatterElements {
    fn name(&self) -> &'static str {
        "ScatterElements"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("ScatterElements: shape inference is not written yet"))
    }
}

impl super::Operation for ScatterNd {
    fn name(&self) -> &'static str {
        "ScatterNd"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("ScatterNd: shape inference is not written yet"))
    }
}

impl super::Operation for TopK {
    fn name(&self) -> &'static str {
        "TopK"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("TopK: shape inference is not written yet"))
    }
}

impl super::Operation for Unique {
    fn name(&self) -> &'static str {
        "Unique"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Unique: shape inference is not written yet"))
    }
}
