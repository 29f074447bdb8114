//! The sequential oracle: what each operation gives, computed on the host one element after the other.
//!
//! All values are vectors of whole numbers in float32, kept below 2^24 by clamping, so that sums of products are exact in whatever order
//! and every comparison is bit for bit.

#[path = "../../../cli/src/message.rs"]
mod message;

use std::sync::Arc;

use message::Message;
use streampool::nn::{Linear, Module};
use streampool::{Device, HostTensor, Model, Result, Tensor};

use crate::blame::Deps;

/// Lengths of vectors: nothing, a scalar, one and several small classes of memory, and a segment of its own.
pub(crate) const LENGTHS: [usize; 6] = [0, 1, 12, 13, 600, 40_000];

/// Rows of [`Frozen`]'s matrix.
const WIDTH: usize = 4;
const WEIGHTS: [[f32; WIDTH]; WIDTH] =
    [[1.0, -2.0, 0.0, 3.0], [0.0, 1.0, 1.0, -1.0], [2.0, 2.0, -1.0, 0.0], [-3.0, 0.0, 1.0, 1.0]];
const BIAS: [f32; WIDTH] = [5.0, -5.0, 0.0, 1.0];
/// What [`Frozen`] and products clamp to.
const BOUND: f32 = 1000.0;
const LIMIT: f64 = 1000.0;

/// A tensor and what must be in it.
#[derive(Clone)]
pub(crate) struct Value {
    pub(crate) tensor: Tensor,
    pub(crate) data: Arc<Vec<f32>>,
    pub(crate) deps: Deps,
}

/// An operation on one vector.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unary {
    Neg,
    Relu,
    /// Times two, clamped.
    Twice,
    /// The sum with its own negative: zeros, by an operation that reads one buffer twice through two tensors.
    Cancel,
}

/// An operation on two vectors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Binary {
    /// Clamped sum.
    Add,
    Sub,
    Max,
    /// Clamped product.
    Mul,
    Concat,
}

/// A view of a vector.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View {
    Half,
    EverySecond,
    /// Five times the one element of a vector that has one.
    Expand,
    Dense,
}

impl Unary {
    pub(crate) fn on_device(self, a: &Tensor) -> Result<Tensor> {
        match self {
            Self::Neg => a.neg(),
            Self::Relu => a.relu(),
            Self::Twice => a.mul_scalar(2.0)?.clamp(-LIMIT, LIMIT),
            Self::Cancel => a.add(&a.neg()?),
        }
    }

    pub(crate) fn on_host(self, a: &[f32]) -> Vec<f32> {
        a.iter()
            .map(|&x| match self {
                Self::Neg => -x,
                Self::Relu => x.max(0.0),
                Self::Twice => (x * 2.0).clamp(-BOUND, BOUND),
                Self::Cancel => x + -x,
            })
            .collect()
    }
}

impl Binary {
    pub(crate) fn on_device(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self {
            Self::Add => a.add(b)?.clamp(-LIMIT, LIMIT),
            Self::Sub => a.sub(b)?.clamp(-LIMIT, LIMIT),
            Self::Max => a.maximum(b),
            Self::Mul => a.mul(b)?.clamp(-LIMIT, LIMIT),
            Self::Concat => Tensor::concat(&[a, b], 0),
        }
    }

    /// `None` if the shapes do not broadcast.
    pub(crate) fn on_host(self, a: &[f32], b: &[f32]) -> Option<Vec<f32>> {
        if let Self::Concat = self {
            return Some([a, b].concat());
        }
        let len = match (a.len(), b.len()) {
            (1, n) | (n, 1) => n,
            (n, m) if n == m => n,
            _ => return None,
        };
        let at = |v: &[f32], i: usize| if v.len() == 1 { v[0] } else { v[i] };
        Some(
            (0..len)
                .map(|i| match (self, at(a, i), at(b, i)) {
                    (Self::Add, x, y) => (x + y).clamp(-BOUND, BOUND),
                    (Self::Sub, x, y) => (x - y).clamp(-BOUND, BOUND),
                    (Self::Max, x, y) => x.max(y),
                    (Self::Mul | Self::Concat, x, y) => (x * y).clamp(-BOUND, BOUND),
                })
                .collect(),
        )
    }
}

impl View {
    pub(crate) fn on_device(self, a: &Tensor) -> Result<Tensor> {
        let len = a.numel();
        match self {
            Self::Half => a.narrow(0, len / 2, len - len / 2),
            Self::EverySecond => a.slice(0, 0, len as isize, 2),
            Self::Expand => a.expand([5]),
            Self::Dense => a.contiguous(),
        }
    }

    /// `None` if there is no such view.
    pub(crate) fn on_host(self, a: &[f32]) -> Option<Vec<f32>> {
        match self {
            Self::Half => Some(a[a.len() / 2..].to_vec()),
            Self::EverySecond => Some(a.iter().step_by(2).copied().collect()),
            Self::Expand => match a.len() {
                1 => Some(vec![a[0]; 5]),
                5 => Some(a.to_vec()),
                _ => None,
            },
            Self::Dense => Some(a.to_vec()),
        }
    }
}

/// A layer and a model of the same frozen weights.
pub(crate) struct Frozen {
    layer: Linear,
    pub(crate) model: Model,
}

impl Frozen {
    pub(crate) fn new(device: &Device) -> Result<Self> {
        let weight = HostTensor::from_vec([WIDTH, WIDTH], WEIGHTS.concat())?;
        let bias = HostTensor::from_vec([WIDTH], BIAS.to_vec())?;
        Ok(Self {
            layer: Linear::from_weights(&weight, Some(&bias))?,
            model: Model::from_bytes(device, onnx())?,
        })
    }

    /// As many rows of four as `a` has, through the layer.
    pub(crate) fn layer(&self, a: &Tensor) -> Result<Tensor> {
        self.layer.forward(&rows(a)?)?.clamp(-LIMIT, LIMIT)?.flatten(0, -1)
    }

    /// The same through the model, from a tensor.
    pub(crate) fn run(&self, a: &Tensor) -> Result<Tensor> {
        let x = rows(a)?;
        let y = self.model.run(&[("x", (&x).into())])?.into_vec().remove(0);
        y.clamp(-LIMIT, LIMIT)?.flatten(0, -1)
    }

    /// The same through the model, from the host.
    pub(crate) fn run_host(&self, a: &[f32]) -> Result<Tensor> {
        let rows = a.len() / WIDTH;
        let x = HostTensor::from_vec([rows, WIDTH], a[..rows * WIDTH].to_vec())?;
        let y = self.model.run(&[("x", (&x).into())])?.into_vec().remove(0);
        y.clamp(-LIMIT, LIMIT)?.flatten(0, -1)
    }

    pub(crate) fn on_host(a: &[f32]) -> Vec<f32> {
        let row = |x: &[f32]| -> Vec<f32> {
            (0..WIDTH)
                .map(|o| {
                    let sum: f32 = (0..WIDTH).map(|i| WEIGHTS[o][i] * x[i]).sum();
                    (sum + BIAS[o]).clamp(-BOUND, BOUND)
                })
                .collect()
        };
        a.chunks_exact(WIDTH).flat_map(row).collect()
    }
}

/// A vector as rows of four, without what is left over.
fn rows(a: &Tensor) -> Result<Tensor> {
    let rows = a.numel() / WIDTH;
    a.narrow(0, 0, rows * WIDTH)?.reshape(&[rows as isize, WIDTH as isize])
}

/// `y = x W^T + b` as ONNX: input "x" (n, 4), output "y". Field numbers are those of onnx.proto.
fn onnx() -> Vec<u8> {
    let new = Message::default;
    let matrix = |name: &str, dims: &[usize], values: &[f32]| {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shaped = dims.iter().fold(new(), |m, &d| m.int(1, d as i64));
        shaped.int(2, 1).str(8, name).bytes(9, &raw)
    };
    let value = |name: &str| {
        let shape = new().message(1, &new().str(2, "n")).message(1, &new().int(1, WIDTH as i64));
        new().str(1, name).message(2, &new().message(1, &new().int(1, 1).message(2, &shape)))
    };
    let transposed = new().str(1, "transB").int(3, 1).int(20, 2);
    let inputs = new().str(1, "x").str(1, "w").str(1, "b");
    let node = inputs.str(2, "y").str(4, "Gemm").message(5, &transposed);
    let graph = new()
        .message(1, &node)
        .str(2, "affine")
        .message(5, &matrix("w", &[WIDTH, WIDTH], &WEIGHTS.concat()))
        .message(5, &matrix("b", &[WIDTH], &BIAS))
        .message(11, &value("x"))
        .message(12, &value("y"));
    new().int(1, 8).message(7, &graph).message(8, &new().str(1, "").int(2, 17)).0
}
