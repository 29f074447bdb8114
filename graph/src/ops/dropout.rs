//! Dropout: an identity at inference; with `training_mode` only at ratio 0, for which it is one too.

use streampool_core::Error;
use streampool_core::op::{DType, Scalar};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("Dropout", 7, dropout), op("Dropout", 12, dropout)];

fn dropout(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    if let Some(training) = lo.optional(n, 2)?
        && lo.one(&training, "training_mode")?.to_i64() != 0
    {
        let ratio = match lo.optional(n, 1)? {
            Some(r) => lo.one(&r, "ratio")?.to_f64(),
            None => 0.5,
        };
        if ratio != 0.0 {
            return Err(Error::unsupported(
                "Dropout in training mode is not supported; export for inference",
            )
            .into());
        }
    }
    if n.has_output(1) {
        // Before operator set 10 the mask has the data's dtype.
        let dtype = if n.version < 10 { x.dtype } else { DType::Bool };
        let mask = lo.filled(Scalar::from_i64(dtype, 1), x.shape())?;
        lo.set(n, 1, mask)?;
    }
    lo.set(n, 0, x)
}
