//! A fully connected layer.

use streampool_core::op::{MatMul, Op};

use super::{Module, Weight, expect, expect_dtype, freeze, uniform};
use crate::device::Arg;
use crate::{Generator, HostTensor, Result, Tensor};

/// `y = x @ weight^T + bias`: (..., in) to (..., out).
#[derive(Clone, Debug)]
pub struct Linear {
    /// (out, in), as PyTorch has it; the product reads it transposed.
    weight: Weight,
    bias: Option<Weight>,
    sizes: (usize, usize),
}

impl Linear {
    /// Random weights, as PyTorch initialises them: uniform within `1 / sqrt(inputs)`.
    pub fn new(inputs: usize, outputs: usize, bias: bool, generator: &Generator) -> Result<Self> {
        let bound = 1.0 / (inputs.max(1) as f32).sqrt();
        let weight = uniform([outputs, inputs], bound, generator)?;
        let bias = bias.then(|| uniform([outputs], bound, generator)).transpose()?;
        Self::from_weights(&weight, bias.as_ref())
    }

    /// From PyTorch's layout: `weight` (out, in), `bias` (out,).
    pub fn from_weights(weight: &HostTensor, bias: Option<&HostTensor>) -> Result<Self> {
        let shape = &weight.ty().shape;
        if shape.rank() != 2 {
            return Err(crate::Error::invalid_argument(format!(
                "Linear: the weight has shape {shape}, needs (out, in)"
            )));
        }
        let (outputs, inputs) = (shape[0], shape[1]);
        expect("Linear weight", weight, &[outputs, inputs])?;
        if let Some(bias) = bias {
            expect("Linear bias", bias, &[outputs])?;
        }
        Ok(Self { weight: freeze(weight), bias: bias.map(freeze), sizes: (inputs, outputs) })
    }

    /// Length of the last axis that goes in and that comes out.
    pub fn sizes(&self) -> (usize, usize) {
        self.sizes
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        expect_dtype("Linear", x, self.weight.ty().dtype)?;
        let row;
        let x2 = if x.rank() == 1 {
            row = x.unsqueeze(0)?;
            &row
        } else {
            x
        };
        let op = Op::MatMul(MatMul { bias: self.bias.is_some(), ..MatMul::default() });
        let mut args = vec![Arg::Tensor(x2), Arg::Transposed(&self.weight)];
        args.extend(self.bias.as_ref().map(Arg::Constant));
        let y = x.device_handle().apply_args1("Linear", op, &args)?;
        if x.rank() == 1 { y.squeeze(0) } else { Ok(y) }
    }
}
