//! Cast, CastLike, BitCast.

use streampool_core::Error;
use streampool_core::op::{Constant, DType, TensorType};

use super::{Operator, op};
use crate::ir::{Node, dtype_of};
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[
    op("Cast", 6, |lo, n| {
        let to = target(n)?;
        let x = lo.input(n, 0)?;
        let y = lo.cast(&x, to)?;
        lo.set(n, 0, y)
    }),
    op("CastLike", 15, |lo, n| {
        let (x, like) = (lo.input(n, 0)?, lo.input(n, 1)?);
        let y = lo.cast(&x, like.dtype)?;
        lo.set(n, 0, y)
    }),
    op("BitCast", 26, bit_cast),
];

fn target(n: &Node) -> LResult<DType> {
    let code = n.attrs.required_int("to")?;
    Ok(dtype_of(
        i32::try_from(code).map_err(|_| Error::invalid_model(format!("there is no element type {code}")))?,
    )?)
}

/// The same bytes under another dtype of the same size.
fn bit_cast(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let to = target(n)?;
    let x = lo.input(n, 0)?;
    if x.dtype == to || (x.dtype == DType::Bool && matches!(to, DType::U8 | DType::I8)) {
        let y = lo.cast(&x, to)?;
        return lo.set(n, 0, y);
    }
    if x.dtype.size() != to.size() || to == DType::Bool || x.dtype == DType::Bool {
        return Err(Error::unsupported(format!("BitCast from {} to {to} is not supported", x.dtype)).into());
    }
    // A view cannot change its dtype in a program whose buffers have one; the bytes are known or the value is asked for.
    let host = lo.host(&x)?;
    let y = lo.constant(Constant::new(TensorType::new(to, host.ty.shape.clone()), host.data), false);
    lo.set(n, 0, y)
}
