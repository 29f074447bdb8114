//! Moving and making elements.

use super::{Scalar, Shape};

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

impl super::Operation for Copy {
    fn name(&self) -> &'static str {
        "Copy"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Copy: shape inference is not written yet"))
    }
}

impl super::Operation for Fill {
    fn name(&self) -> &'static str {
        "Fill"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Fill: shape inference is not written yet"))
    }
}

impl super::Operation for Range {
    fn name(&self) -> &'static str {
        "Range"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Range: shape inference is not written yet"))
    }
}

impl super::Operation for Pad {
    fn name(&self) -> &'static str {
        "Pad"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Pad: shape inference is not written yet"))
    }
}

impl super::Operation for Trilu {
    fn name(&self) -> &'static str {
        "Trilu"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Trilu: shape inference is not written yet"))
    }
}
