//! Layers, with PyTorch's names. Weights are frozen constants: shared by all threads, packed once for the device, never tracked.
//!
//! Layers are `Send + Sync` and run from any thread by `&self`.

mod activation;
mod conv;
mod embedding;
mod linear;
mod norm;
mod sequential;

pub use activation::{Gelu, Relu, Sigmoid, Softmax, Tanh};
pub use conv::{Conv1d, Conv2d};
pub use embedding::Embedding;
pub use linear::Linear;
pub use norm::LayerNorm;
pub use sequential::Sequential;

use std::sync::Arc;

use streampool_core::op::{Constant, DType, HostTensor, Shape};

use crate::{Error, Generator, Result, Tensor};

/// A layer.
pub trait Module: Send + Sync {
    /// Applies it.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;
}

/// A frozen weight on the host, from which the device's packed form is made.
pub(crate) type Weight = Arc<Constant>;

/// Freezes a host array.
pub(crate) fn freeze(host: &HostTensor) -> Weight {
    Constant::new(host.ty().clone(), bytes::Bytes::copy_from_slice(host.bytes()))
}

/// Uniform float32 numbers in [-bound, bound), PyTorch's default for layers with `bound = 1 / sqrt(fan in)`. The same generator gives the same
/// numbers on every machine.
pub(crate) fn uniform(shape: impl Into<Shape>, bound: f32, generator: &Generator) -> Result<HostTensor> {
    let shape = shape.into();
    let len = shape.checked_len()?;
    let mut state = generator.next_state();
    let data: Vec<f32> = (0..len).map(|_| (unit(&mut state) * 2.0 - 1.0) * bound).collect();
    HostTensor::from_vec(shape, data)
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), upper 24 bits as a float in [0, 1).
fn unit(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

/// Checks a parameter's shape and dtype.
pub(crate) fn expect(name: &str, host: &HostTensor, shape: &[usize]) -> Result<()> {
    if *host.ty().shape != *shape {
        return Err(Error::invalid_argument(format!(
            "{name}: has shape {}, the layer needs {}",
            host.ty().shape,
            Shape::new(shape)
        )));
    }
    if !host.ty().dtype.is_float() {
        return Err(Error::invalid_argument(format!("{name}: is {}, a layer needs floats", host.ty().dtype)));
    }
    Ok(())
}

/// Checks that an input has the weights' dtype.
pub(crate) fn expect_dtype(name: &str, x: &Tensor, dtype: DType) -> Result<()> {
    if x.dtype() == dtype {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "{name}: the input is {}, the weights are {dtype}; cast the input",
        x.dtype()
    )))
}
