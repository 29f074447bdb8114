//! A lookup table.

use streampool_core::op::{Gather, Op};

use super::{Module, Weight, expect, freeze, uniform};
use crate::device::Arg;
use crate::{Error, Generator, HostTensor, Result, Tensor};

/// Rows of a (vocabulary, width) table: indices (int32 or int64) of any shape to that shape plus (width,).
#[derive(Clone, Debug)]
pub struct Embedding {
    table: Weight,
}

impl Embedding {
    /// A random table, uniform in [-1, 1).
    pub fn new(vocabulary: usize, width: usize, generator: &Generator) -> Result<Self> {
        Self::from_weights(&uniform([vocabulary, width], 1.0, generator)?)
    }

    /// From a (vocabulary, width) table.
    pub fn from_weights(table: &HostTensor) -> Result<Self> {
        let shape = &table.ty().shape;
        if shape.rank() != 2 {
            return Err(Error::invalid_argument(format!(
                "Embedding: the table has shape {shape}, needs (vocabulary, width)"
            )));
        }
        expect("Embedding table", table, shape)?;
        Ok(Self { table: freeze(table) })
    }
}

impl Module for Embedding {
    /// # Errors
    /// `is_invalid_argument` if an index is outside the vocabulary.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let args = [Arg::Constant(&self.table), Arg::Tensor(x)];
        x.device_handle().apply_args1("Embedding", Op::Gather(Gather { axis: 0 }), &args)
    }
}
