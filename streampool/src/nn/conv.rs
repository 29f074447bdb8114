//! Convolution layers.

use streampool_core::op::Op;

use super::{Module, Weight, expect, expect_dtype, freeze, uniform};
use crate::device::Arg;
use crate::tensor::{ConvOptions, conv_op};
use crate::{Error, Generator, HostTensor, Result, Tensor};

/// What both have in common.
#[derive(Clone, Debug)]
struct Conv {
    weight: Weight,
    bias: Option<Weight>,
    options: ConvOptions,
    spatial: usize,
}

impl Conv {
    fn random(
        channels: (usize, usize),
        kernel: usize,
        bias: bool,
        options: ConvOptions,
        generator: &Generator,
        spatial: usize,
    ) -> Result<Self> {
        let (inputs, outputs) = channels;
        if options.groups == 0 || inputs % options.groups != 0 || outputs % options.groups != 0 {
            return Err(Error::invalid_argument(format!(
                "Conv: {} groups do not divide {inputs} input and {outputs} output channels",
                options.groups
            )));
        }
        let mut shape = vec![outputs, inputs / options.groups];
        shape.extend(std::iter::repeat_n(kernel, spatial));
        let fan_in: usize = shape[1..].iter().product();
        let bound = 1.0 / (fan_in.max(1) as f32).sqrt();
        let weight = uniform(shape, bound, generator)?;
        let bias = bias.then(|| uniform([outputs], bound, generator)).transpose()?;
        Self::from_weights(&weight, bias.as_ref(), options, spatial)
    }

    fn from_weights(
        weight: &HostTensor,
        bias: Option<&HostTensor>,
        options: ConvOptions,
        spatial: usize,
    ) -> Result<Self> {
        let shape = &weight.ty().shape;
        if shape.rank() != spatial + 2 {
            return Err(Error::invalid_argument(format!(
                "Conv{spatial}d: the weight has shape {shape}, needs (out, in / groups, kernel...) of rank {}",
                spatial + 2
            )));
        }
        expect("Conv weight", weight, shape)?;
        if let Some(bias) = bias {
            expect("Conv bias", bias, &shape[..1])?;
        }
        Ok(Self { weight: freeze(weight), bias: bias.map(freeze), options, spatial })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        expect_dtype("Conv", x, self.weight.ty().dtype)?;
        let op = Op::Conv(conv_op(self.options, self.spatial, self.bias.is_some()));
        let mut args = vec![Arg::Tensor(x), Arg::Constant(&self.weight)];
        args.extend(self.bias.as_ref().map(Arg::Constant));
        x.device_handle().apply_args1("Conv", op, &args)
    }
}

macro_rules! layer {
    ($(#[$doc:meta])* $name:ident, $spatial:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(Conv);

        impl $name {
            /// Random weights, as PyTorch initialises them; the kernel has the same length on every spatial axis.
            pub fn new(
                inputs: usize,
                outputs: usize,
                kernel: usize,
                bias: bool,
                options: ConvOptions,
                generator: &Generator,
            ) -> Result<Self> {
                Conv::random((inputs, outputs), kernel, bias, options, generator, $spatial).map(Self)
            }

            /// From PyTorch's layout: `weight` (out, in / groups, kernel...), `bias` (out,).
            pub fn from_weights(weight: &HostTensor, bias: Option<&HostTensor>, options: ConvOptions) -> Result<Self> {
                Conv::from_weights(weight, bias, options, $spatial).map(Self)
            }
        }

        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                self.0.forward(x)
            }
        }
    };
}

layer! {
    /// Convolution of (n, in, length).
    Conv1d, 1
}
layer! {
    /// Convolution of (n, in, height, width).
    Conv2d, 2
}
