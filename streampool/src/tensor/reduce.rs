//! Reductions, softmax and normalisation.

use streampool_core::op::{
    ArgReduce, Cumulative, CumulativeKind, DType, F32, LayerNorm, Op, Reduce, ReduceKind, Softmax,
};

use super::{Tensor, axis_of};
use crate::{Error, Result};

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident = $kind:ident;)*) => {
        impl Tensor {
            $(
                $(#[$doc])*
                ///
                /// `axes`: which (negative ones count from the end; empty means all). `keep_dims` keeps them with length 1.
                pub fn $name(&self, axes: &[isize], keep_dims: bool) -> Result<Tensor> {
                    self.reduce(ReduceKind::$kind, axes, keep_dims, stringify!($name))
                }
            )*
        }
    };
}

reductions! {
    /// Sum over axes. Integers and bool are summed in int64, as PyTorch does.
    sum = Sum;
    /// Mean over axes, of floats.
    mean = Mean;
    /// Product over axes.
    prod = Prod;
    /// Greatest over axes; NaN wins.
    amax = Max;
    /// Least over axes; NaN wins.
    amin = Min;
    /// Euclidean norm over axes.
    norm = L2;
    /// `log(sum(exp(x)))` over axes, without overflow.
    logsumexp = LogSumExp;
    /// Whether all are true (bool).
    all = All;
    /// Whether any is true (bool).
    any = Any;
}

impl Tensor {
    fn reduce(&self, kind: ReduceKind, axes: &[isize], keep_dims: bool, name: &str) -> Result<Tensor> {
        let mut list = Vec::with_capacity(axes.len());
        for &a in axes {
            let axis = axis_of(a, self.rank(), name)?;
            if list.contains(&axis) {
                return Err(Error::invalid_argument(format!("{name}: axis {a} is given twice")));
            }
            list.push(axis);
        }
        if axes.is_empty() {
            list.extend(0..self.rank());
        }
        list.sort_unstable();
        let widened;
        let x = match kind {
            ReduceKind::Sum | ReduceKind::Prod if !self.dtype().is_float() && self.dtype() != DType::I64 => {
                widened = self.cast(DType::I64)?;
                &widened
            }
            ReduceKind::Mean | ReduceKind::L2 | ReduceKind::LogSumExp if !self.dtype().is_float() => {
                return Err(Error::invalid_argument(format!(
                    "{name}: needs floats, got {}; cast first",
                    self.dtype()
                )));
            }
            ReduceKind::All | ReduceKind::Any if self.dtype() != DType::Bool => {
                widened = self.cast(DType::Bool)?;
                &widened
            }
            _ => self,
        };
        self.device_handle().apply1(name, Op::Reduce(Reduce { kind, axes: list, keep_dims }), &[x])
    }

    /// Index (int64) of the greatest element along `axis`; of equals the first.
    pub fn argmax(&self, axis: isize, keep_dims: bool) -> Result<Tensor> {
        self.arg_reduce(true, axis, keep_dims, "argmax")
    }

    /// Index (int64) of the least element along `axis`; of equals the first.
    pub fn argmin(&self, axis: isize, keep_dims: bool) -> Result<Tensor> {
        self.arg_reduce(false, axis, keep_dims, "argmin")
    }

    fn arg_reduce(&self, max: bool, axis: isize, keep_dims: bool, name: &str) -> Result<Tensor> {
        let axis = axis_of(axis, self.rank(), name)?;
        self.device_handle().apply1(
            name,
            Op::ArgReduce(ArgReduce { max, axis, keep_dims, last: false }),
            &[self],
        )
    }

    /// Running sum along `axis`.
    pub fn cumsum(&self, axis: isize) -> Result<Tensor> {
        let axis = axis_of(axis, self.rank(), "cumsum")?;
        let op = Cumulative { kind: CumulativeKind::Sum, axis, exclusive: false, reverse: false };
        self.device_handle().apply1("cumsum", Op::Cumulative(op), &[self])
    }

    /// Softmax along `axis`.
    pub fn softmax(&self, axis: isize) -> Result<Tensor> {
        let axis = axis_of(axis, self.rank(), "softmax")?;
        self.device_handle().apply1("softmax", Op::Softmax(Softmax { axis, axes: 1, log: false }), &[self])
    }

    /// Logarithm of the softmax along `axis`.
    pub fn log_softmax(&self, axis: isize) -> Result<Tensor> {
        let axis = axis_of(axis, self.rank(), "log_softmax")?;
        self.device_handle().apply1("log_softmax", Op::Softmax(Softmax { axis, axes: 1, log: true }), &[self])
    }

    /// Normalises over the last `axes` axes to mean 0 and variance 1, then scales and shifts.
    ///
    /// `weight` and `bias` have the shape of those axes.
    pub fn layer_norm(
        &self,
        axes: usize,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        epsilon: f32,
    ) -> Result<Tensor> {
        if axes == 0 || axes > self.rank() {
            return Err(Error::invalid_argument(format!(
                "layer_norm: {axes} axes of a tensor of shape {} cannot be normalised; between 1 and {} are possible",
                self.shape(),
                self.rank()
            )));
        }
        let op = LayerNorm {
            axis: self.rank() - axes,
            epsilon: F32::new(epsilon),
            rms: false,
            scale: weight.is_some(),
            bias: bias.is_some(),
            residual: false,
        };
        let inputs: Vec<&Tensor> = std::iter::once(self).chain(weight).chain(bias).collect();
        self.device_handle().apply1("layer_norm", Op::LayerNorm(op), &inputs)
    }
}
