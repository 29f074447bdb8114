//! Normalisation layers.

use streampool_core::op::{F32, Op};

use super::{Module, Weight, expect, freeze};
use crate::device::Arg;
use crate::{Error, HostTensor, Result, Tensor};

/// Normalises over the last axes, whose lengths are `shape`, then scales and shifts.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Weight,
    bias: Weight,
    epsilon: f32,
}

impl LayerNorm {
    /// Scale 1 and shift 0, as PyTorch starts.
    pub fn new(shape: &[usize], epsilon: f32) -> Result<Self> {
        let len = crate::Shape::new(shape).checked_len()?;
        let one = HostTensor::from_vec(shape, vec![1f32; len])?;
        let zero = HostTensor::from_vec(shape, vec![0f32; len])?;
        Self::from_weights(&one, &zero, epsilon)
    }

    /// From a scale and a shift of one shape.
    pub fn from_weights(weight: &HostTensor, bias: &HostTensor, epsilon: f32) -> Result<Self> {
        expect("LayerNorm bias", bias, &weight.ty().shape)?;
        Ok(Self { weight: freeze(weight), bias: freeze(bias), epsilon })
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let shape = &self.weight.ty().shape;
        if x.rank() < shape.rank() || x.shape()[x.rank() - shape.rank()..] != shape[..] {
            return Err(Error::invalid_argument(format!(
                "LayerNorm: the input has shape {}, its last axes must be {shape}",
                x.shape()
            )));
        }
        let op = Op::LayerNorm(streampool_core::op::LayerNorm {
            axis: x.rank() - shape.rank(),
            epsilon: F32::new(self.epsilon),
            rms: false,
            scale: true,
            bias: true,
            residual: false,
        });
        let args = [Arg::Tensor(x), Arg::Constant(&self.weight), Arg::Constant(&self.bias)];
        x.device_handle().apply_args1("LayerNorm", op, &args)
    }
}
