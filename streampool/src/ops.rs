//! Any primitive operation on tensors: what has no method of its own, and what bindings of other languages build on.

use std::sync::Arc;

use streampool_core::op::{Constant, HostTensor, Op, TensorType};

use crate::device::Arg;
use crate::{Error, Result, Tensor};

/// A frozen array: shared by all threads, packed once for each device, never tracked. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Weight(Arc<Constant>);

impl Weight {
    /// Freezes a copy of a host array.
    pub fn new(host: &HostTensor) -> Self {
        Self(crate::nn::freeze(host))
    }

    /// Dtype and shape.
    pub fn ty(&self) -> &TensorType {
        self.0.ty()
    }

    /// The elements, row-major, little endian.
    pub fn bytes(&self) -> &[u8] {
        self.0.data()
    }
}

/// What an operation reads.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// A tensor of the device.
    Tensor(&'a Tensor),
    /// A frozen array.
    Weight(&'a Weight),
    /// A frozen matrix, read transposed.
    Transposed(&'a Weight),
}

/// Applies `op`; `name` leads the text of its errors. Runs on the device of the tensors, of which there has to be one at least.
///
/// # Errors
/// `is_invalid_argument` if the operands do not fit the operation or are of two devices; as for every entry.
pub fn apply(name: &str, op: Op, operands: &[Operand<'_>]) -> Result<Vec<Tensor>> {
    let home = operands.iter().find_map(|operand| match operand {
        Operand::Tensor(t) => Some(t.device_handle()),
        _ => None,
    });
    let Some(home) = home else {
        return Err(Error::invalid_argument(format!(
            "{name}: no operand is a tensor, so there is no device to run on"
        )));
    };
    let args: Vec<Arg<'_>> = operands
        .iter()
        .map(|operand| match operand {
            Operand::Tensor(t) => Arg::Tensor(t),
            Operand::Weight(w) => Arg::Constant(&w.0),
            Operand::Transposed(w) => Arg::Transposed(&w.0),
        })
        .collect();
    home.apply_args(name, op, &args)
}

/// [`apply`] for operations with one result.
///
/// # Errors
/// As [`apply`].
pub fn apply1(name: &str, op: Op, operands: &[Operand<'_>]) -> Result<Tensor> {
    let mut results = apply(name, op, operands)?;
    match (results.pop(), results.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(Error::internal(format!("{name}: the operation has not one result"))),
    }
}
