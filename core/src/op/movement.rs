//! Moving and making elements.

use super::{DType, Operation, Scalar, Shape, TensorType, check};
use crate::error::Result;

/// Copies a view to a view of the same shape: transpose, slice, expand, concatenation (one copy a part).
///
/// Input: any dtype, any strides. Output: same dtype and shape; in a program, its strides may describe a region of a
/// larger tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Copy;

/// Writes one value everywhere. No input. In a program the output may be strided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fill {
    /// The value; its dtype is the output's.
    pub value: Scalar,
    /// The output's shape.
    pub shape: Shape,
}

/// `start + i * step` for `i` in `0..len`. No input. Output: (len,) of the scalars' dtype.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// First value.
    pub start: Scalar,
    /// Difference; same dtype as `start`.
    pub step: Scalar,
    /// How many.
    pub len: usize,
}

/// How [`Pad`] fills the border. Constant borders too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PadMode {
    /// One value.
    Constant(Scalar),
    /// The nearest element.
    Edge,
    /// Mirrored without the edge.
    Reflect,
    /// Periodic.
    Wrap,
}

/// Adds (or with negative numbers takes off) a border. Input: any dtype, any strides. Output: same dtype.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pad {
    /// How the border is filled.
    pub mode: PadMode,
    /// Elements before each axis.
    pub before: Vec<isize>,
    /// Elements after each axis.
    pub after: Vec<isize>,
}

/// Keeps a triangle of the last two axes, zero elsewhere. Input: any dtype, contiguous, rank >= 2. Output: same type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trilu {
    /// Keep on and above the `k`-th diagonal instead of on and below.
    pub upper: bool,
    /// Which diagonal: 0 the main one, positive ones above it.
    pub k: i64,
}

impl Operation for Copy {
    fn name(&self) -> &'static str {
        "Copy"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        check::operands(self.name(), inputs, &["x"])?;
        Ok(inputs.to_vec())
    }

    fn takes_strided_input(&self, _i: usize) -> bool {
        true
    }
}

impl Operation for Fill {
    fn name(&self) -> &'static str {
        "Fill"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        check::operands(self.name(), inputs, &[])?;
        Ok(vec![TensorType { dtype: self.value.dtype(), shape: self.shape.clone() }])
    }
}

impl Operation for Range {
    fn name(&self) -> &'static str {
        "Range"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        check::operands(self.name(), inputs, &[])?;
        let (start, step) = (self.start.dtype(), self.step.dtype());
        if start != step || start == DType::Bool {
            return Err(check::invalid(
                self.name(),
                format_args!("start is {start} and step is {step}: both need one float or integer dtype"),
            ));
        }
        Ok(vec![TensorType::new(start, [self.len])])
    }
}

impl Pad {
    /// Length of an axis of `len` elements, after what negative borders take off is gone, and after the border was added.
    fn axis_lengths(len: usize, before: isize, after: isize) -> Option<(usize, usize)> {
        let taken = |b: isize| if b < 0 { b.unsigned_abs() } else { 0 };
        let added = |b: isize| if b > 0 { b.unsigned_abs() } else { 0 };
        let kept = len.checked_sub(taken(before))?.checked_sub(taken(after))?;
        Some((kept, kept.checked_add(added(before))?.checked_add(added(after))?))
    }
}

impl Operation for Pad {
    fn name(&self) -> &'static str {
        "Pad"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["x"])?;
        let x = &inputs[0];
        let rank = x.shape.rank();
        if self.before.len() != rank || self.after.len() != rank {
            return Err(check::invalid(
                op,
                format_args!(
                    "x is {x} of rank {rank}, but {} and {} border lengths are given",
                    self.before.len(),
                    self.after.len()
                ),
            ));
        }
        if let PadMode::Constant(value) = self.mode
            && value.dtype() != x.dtype
        {
            return Err(check::invalid(
                op,
                format_args!("x is {x} but the border value is {}", value.dtype()),
            ));
        }
        let mut shape = Vec::with_capacity(rank);
        for (i, &len) in x.shape.iter().enumerate() {
            let (before, after) = (self.before[i], self.after[i]);
            let (kept, out) = Self::axis_lengths(len, before, after).ok_or_else(|| {
                check::invalid(
                    op,
                    format_args!("axis {i} of x {x} cannot be extended by {before} before and {after} after"),
                )
            })?;
            if kept == 0 && out > 0 && !matches!(self.mode, PadMode::Constant(_)) {
                return Err(check::invalid(
                    op,
                    format_args!("axis {i} of x {x} is empty, so {:?} has no element to repeat", self.mode),
                ));
            }
            shape.push(out);
        }
        Ok(vec![TensorType::new(x.dtype, shape)])
    }

    fn takes_strided_input(&self, _i: usize) -> bool {
        true
    }
}

impl Operation for Trilu {
    fn name(&self) -> &'static str {
        "Trilu"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        check::operands(self.name(), inputs, &["x"])?;
        check::rank_at_least(self.name(), "x", &inputs[0], 2)?;
        Ok(inputs.to_vec())
    }

    fn in_place(&self, i: usize) -> bool {
        i == 0
    }
}
