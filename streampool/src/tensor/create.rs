//! Making tensors.

use std::sync::atomic::{AtomicU64, Ordering};

use streampool_core::op::{
    DType, Distribution, Element, F32, Fill, HostTensor, Op, Random, Range, Scalar, Shape, TensorType,
};

use super::Tensor;
use crate::{Device, Error, Result};

/// A source of random numbers. The n-th call on a generator with a given seed gives the same numbers on every device and
/// whatever other threads do; threads that share a generator get distinct numbers in the order of their calls.
#[derive(Debug)]
pub struct Generator {
    seed: u64,
    calls: AtomicU64,
}

impl Generator {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, calls: AtomicU64::new(0) }
    }

    /// From a seed, as if `calls` calls were made already.
    pub fn at(seed: u64, calls: u64) -> Self {
        Self { seed, calls: AtomicU64::new(calls) }
    }

    /// The seed, and how many calls were made.
    pub fn state(&self) -> (u64, u64) {
        (self.seed, self.calls.load(Ordering::Relaxed))
    }

    /// A state for a host-side generator, distinct for each call.
    pub(crate) fn next_state(&self) -> u64 {
        let [seed, call] = self.next_key();
        (seed as u64).wrapping_mul(0xd134_2543_de82_ef95) ^ (call as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Seed and number of the next call, as the operation wants them.
    fn next_key(&self) -> [i64; 2] {
        [self.seed as i64, self.calls.fetch_add(1, Ordering::Relaxed) as i64]
    }
}

impl Tensor {
    /// Copies a host array to the device.
    pub fn from_host(device: &Device, host: &HostTensor) -> Result<Tensor> {
        device.handle().upload(host.ty(), host.bytes())
    }

    /// Copies elements, row-major, to the device.
    pub fn from_slice<T: Element>(device: &Device, data: &[T], shape: impl Into<Shape>) -> Result<Tensor> {
        Self::from_host(device, &HostTensor::from_vec(shape, data.to_vec())?)
    }

    /// `value` everywhere.
    pub fn full(device: &Device, shape: impl Into<Shape>, value: f64, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        shape.checked_len()?;
        device.handle().apply1("full", Op::Fill(Fill { value: Scalar::from_f64(dtype, value), shape }), &[])
    }

    /// 0 everywhere.
    pub fn zeros(device: &Device, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        Self::full(device, shape, 0.0, dtype)
    }

    /// 1 everywhere.
    pub fn ones(device: &Device, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        Self::full(device, shape, 1.0, dtype)
    }

    /// `start`, `start + step`, ... below (above, for a negative step) `end`.
    pub fn arange(device: &Device, start: f64, end: f64, step: f64, dtype: DType) -> Result<Tensor> {
        let len = ((end - start) / step).ceil();
        if step == 0.0 || !len.is_finite() {
            return Err(Error::invalid_argument(format!(
                "arange: from {start} to {end} by {step} has no length; bounds must be finite and the step not 0"
            )));
        }
        if len > 2f64.powi(48) {
            return Err(Error::out_of_memory(format!("arange: {len} elements do not fit in memory")));
        }
        let op = Range {
            start: Scalar::from_f64(dtype, start),
            step: Scalar::from_f64(dtype, step),
            len: len.max(0.0) as usize,
        };
        device.handle().apply1("arange", Op::Range(op), &[])
    }

    /// Normal random numbers (mean 0, standard deviation 1) of a float dtype.
    pub fn randn(
        device: &Device,
        shape: impl Into<Shape>,
        dtype: DType,
        generator: &Generator,
    ) -> Result<Tensor> {
        let normal = Distribution::Normal { mean: F32::new(0.0), std: F32::new(1.0) };
        Self::random(device, shape.into(), dtype, normal, generator, "randn")
    }

    /// Uniform random numbers in [0, 1) of a float dtype.
    pub fn rand(
        device: &Device,
        shape: impl Into<Shape>,
        dtype: DType,
        generator: &Generator,
    ) -> Result<Tensor> {
        let uniform = Distribution::Uniform { low: F32::new(0.0), high: F32::new(1.0) };
        Self::random(device, shape.into(), dtype, uniform, generator, "rand")
    }

    fn random(
        device: &Device,
        shape: Shape,
        dtype: DType,
        distribution: Distribution,
        generator: &Generator,
        name: &str,
    ) -> Result<Tensor> {
        if !dtype.is_float() {
            return Err(Error::invalid_argument(format!("{name}: needs a float dtype, got {dtype}")));
        }
        shape.checked_len()?;
        let key = HostTensor::from_vec([2], generator.next_key().to_vec())?;
        let key = device.handle().upload(key.ty(), key.bytes())?;
        device.handle().apply1(name, Op::Random(Random { distribution, dtype, shape }), &[&key])
    }

    /// Ones on the main diagonal of an (n, n) matrix.
    pub fn eye(device: &Device, n: usize, dtype: DType) -> Result<Tensor> {
        let ty = TensorType::new(dtype, [n, n]);
        ty.shape.checked_len()?;
        let i = Self::arange(device, 0.0, n as f64, 1.0, DType::I64)?;
        i.unsqueeze(1)?.eq(&i.unsqueeze(0)?)?.cast(dtype)
    }
}
