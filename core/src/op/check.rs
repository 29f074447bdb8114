//! The checks that operations share, and the wording of their errors: what was asked, what was got, what is needed.

use std::fmt::Display;

use super::{DType, Shape, TensorType};
use crate::error::{Error, Result};

/// An `is_invalid_argument` error led by the operation's name.
pub(super) fn invalid(op: &str, message: impl Display) -> Error {
    Error::invalid_argument(format!("{op}: {message}"))
}

/// Checks the number of operands; `names` says what they are.
pub(super) fn operands(op: &str, inputs: &[TensorType], names: &[&str]) -> Result<()> {
    if inputs.len() == names.len() {
        return Ok(());
    }
    Err(invalid(
        op,
        format_args!("takes {} operand(s) ({}), got {}", names.len(), names.join(", "), inputs.len()),
    ))
}

/// Checks a dtype; `needed` says which ones fit.
pub(super) fn dtype(
    op: &str,
    what: &str,
    ty: &TensorType,
    fits: impl Fn(DType) -> bool,
    needed: &str,
) -> Result<()> {
    if fits(ty.dtype) {
        return Ok(());
    }
    Err(invalid(op, format_args!("{what} is {ty}, needs {needed}; cast it first")))
}

/// A float of any width.
pub(super) const FLOATS: &str = "float32, float64, float16 or bfloat16";
/// A float or an integer.
pub(super) const NUMBERS: &str = "a float or an integer dtype";
/// An index.
pub(super) const INDICES: &str = "int32 or int64";

/// Whether it is a float or an integer.
pub(super) fn is_number(d: DType) -> bool {
    d != DType::Bool
}

/// Whether it may index.
pub(super) fn is_index(d: DType) -> bool {
    matches!(d, DType::I32 | DType::I64)
}

/// Checks that `ty` has the dtype of the operand named `like_what`.
pub(super) fn same_dtype(
    op: &str,
    what: &str,
    ty: &TensorType,
    like_what: &str,
    like: &TensorType,
) -> Result<()> {
    if ty.dtype == like.dtype {
        return Ok(());
    }
    Err(invalid(
        op,
        format_args!("{what} is {ty} but {like_what} is {like}: both need one dtype; cast one of them"),
    ))
}

/// Checks the exact shape.
pub(super) fn shape_is(op: &str, what: &str, ty: &TensorType, needed: &[usize]) -> Result<()> {
    if ty.shape[..] == *needed {
        return Ok(());
    }
    Err(invalid(op, format_args!("{what} is {ty}, needs shape {}", Shape::new(needed))))
}

/// Checks the rank.
pub(super) fn rank_at_least(op: &str, what: &str, ty: &TensorType, rank: usize) -> Result<()> {
    if ty.shape.rank() >= rank {
        return Ok(());
    }
    Err(invalid(op, format_args!("{what} is {ty} of rank {}, needs at least {rank}", ty.shape.rank())))
}

/// Checks the rank.
pub(super) fn rank_is(op: &str, what: &str, ty: &TensorType, rank: usize) -> Result<()> {
    if ty.shape.rank() == rank {
        return Ok(());
    }
    Err(invalid(op, format_args!("{what} is {ty} of rank {}, needs rank {rank}", ty.shape.rank())))
}

/// Checks that `axis` is one of `ty`'s.
pub(super) fn axis(op: &str, what: &str, ty: &TensorType, axis: usize) -> Result<()> {
    if axis < ty.shape.rank() {
        return Ok(());
    }
    Err(invalid(
        op,
        format_args!("axis {axis} is not one of {what}, which is {ty} of rank {}", ty.shape.rank()),
    ))
}

/// Checks that `ty` can be broadcast to `target` without changing it.
pub(super) fn broadcasts_to(op: &str, what: &str, ty: &TensorType, target: &Shape) -> Result<()> {
    if ty.shape.rank() <= target.rank() && ty.shape.broadcast(target).is_ok_and(|s| s == *target) {
        return Ok(());
    }
    Err(invalid(op, format_args!("{what} is {ty}, which cannot be broadcast to {target}")))
}

/// The shape `a` followed by `b`.
pub(super) fn concat(a: &[usize], b: &[usize]) -> Shape {
    a.iter().chain(b).copied().collect()
}
