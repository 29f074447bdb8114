//! Reductions over axes.

/// What a reduction computes. Sums of f16 and bf16 accumulate in f32; `Sum`, `Prod`, `SumSquare` and `L1` of integers wrap in their dtype.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    Sum,
    Mean,
    Prod,
    /// NaN wins. Of nothing: the lowest value (`-inf`, `MIN`, false).
    Max,
    /// NaN wins. Of nothing: the highest value.
    Min,
    /// Sum of absolute values.
    L1,
    /// Root of the sum of squares.
    L2,
    SumSquare,
    LogSum,
    /// `log(sum(exp(x)))` without overflow.
    LogSumExp,
    /// Bool: whether all are true.
    All,
    /// Bool: whether any is true.
    Any,
}

/// Reduces `axes`. Input: one, any strides. Output: the same dtype; reduced axes have length 1 if `keep_dims`, else are gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reduce {
    /// What.
    pub kind: ReduceKind,
    /// Which axes, ascending, without repeats. Empty: the identity for each element (L2 of x is |x|).
    pub axes: Vec<usize>,
    /// Keep reduced axes with length 1.
    pub keep_dims: bool,
}

/// Index of the greatest or least element along `axis`. Input: any numeric dtype. Output: i64.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArgReduce {
    /// Greatest instead of least.
    pub max: bool,
    /// Along which axis; its length is not 0.
    pub axis: usize,
    /// Keep the axis with length 1.
    pub keep_dims: bool,
    /// Of equals take the last instead of the first.
    pub last: bool,
}

/// What a running total computes.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CumulativeKind {
    Sum,
    Prod,
}

/// Running sum or product along `axis`. Input: numeric. Output: same type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cumulative {
    /// Which.
    pub kind: CumulativeKind,
    /// Along which axis.
    pub axis: usize,
    /// Element `i` excludes itself.
    pub exclusive: bool,
    /// From the end.
    pub reverse: bool,
}

impl super::Operation for Reduce {
    fn name(&self) -> &'static str {
        "Reduce"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Reduce: shape inference is not written yet"))
    }
}

impl super::Operation for ArgReduce {
    fn name(&self) -> &'static str {
        "ArgReduce"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("ArgReduce: shape inference is not written yet"))
    }
}

impl super::Operation for Cumulative {
    fn name(&self) -> &'static str {
        "Cumulative"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Cumulative: shape inference is not written yet"))
    }
}
