//! Reductions over axes.

use super::{DType, Operation, Shape, TensorType, check};
use crate::error::Result;

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

/// The shape after reducing `axes`.
fn reduced(shape: &Shape, axes: &[usize], keep_dims: bool) -> Shape {
    let mut out = Vec::with_capacity(shape.rank());
    for (i, &d) in shape.iter().enumerate() {
        if !axes.contains(&i) {
            out.push(d);
        } else if keep_dims {
            out.push(1);
        }
    }
    out.into()
}

impl Operation for Reduce {
    fn name(&self) -> &'static str {
        "Reduce"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["x"])?;
        let x = &inputs[0];
        match self.kind {
            ReduceKind::All | ReduceKind::Any => {
                check::dtype(op, "x", x, |d| d == DType::Bool, "bool")?;
            }
            ReduceKind::Max | ReduceKind::Min => {}
            _ => check::dtype(op, "x", x, check::is_number, check::NUMBERS)?,
        }
        for &axis in &self.axes {
            check::axis(op, "x", x, axis)?;
        }
        if !self.axes.is_sorted_by(|a, b| a < b) {
            return Err(check::invalid(op, format_args!("axes {:?} must ascend without repeats", self.axes)));
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: reduced(&x.shape, &self.axes, self.keep_dims) }])
    }

    fn takes_strided_input(&self, _i: usize) -> bool {
        true
    }
}

impl Operation for ArgReduce {
    fn name(&self) -> &'static str {
        "ArgReduce"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["x"])?;
        let x = &inputs[0];
        check::dtype(op, "x", x, check::is_number, check::NUMBERS)?;
        check::axis(op, "x", x, self.axis)?;
        if x.shape[self.axis] == 0 {
            return Err(check::invalid(op, format_args!("axis {} of x {x} is empty", self.axis)));
        }
        Ok(vec![TensorType { dtype: DType::I64, shape: reduced(&x.shape, &[self.axis], self.keep_dims) }])
    }
}

impl Operation for Cumulative {
    fn name(&self) -> &'static str {
        "Cumulative"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["x"])?;
        check::dtype(op, "x", &inputs[0], check::is_number, check::NUMBERS)?;
        check::axis(op, "x", &inputs[0], self.axis)?;
        Ok(inputs.to_vec())
    }

    fn in_place(&self, i: usize) -> bool {
        i == 0
    }
}
