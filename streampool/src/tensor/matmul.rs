//! Matrix products, convolutions and pooling.

use streampool_core::op::{Conv, MatMul, Op, Pool, PoolKind};

use super::Tensor;
use crate::{Error, Result};

/// Window attributes of [`Tensor::conv1d`] and [`Tensor::conv2d`]: one number for every spatial axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions {
    /// Step between windows.
    pub stride: usize,
    /// Zeros on both sides.
    pub padding: usize,
    /// Step inside a window.
    pub dilation: usize,
    /// Divides the channels.
    pub groups: usize,
}

impl Default for ConvOptions {
    fn default() -> Self {
        Self { stride: 1, padding: 0, dilation: 1, groups: 1 }
    }
}

impl Tensor {
    /// Matrix product with PyTorch's rules: vectors are rows or columns, leading axes broadcast.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        if self.rank() == 0 || other.rank() == 0 {
            return Err(Error::invalid_argument(format!(
                "matmul: needs tensors of rank 1 or more, got {} and {}; use mul for scalars",
                self.shape(),
                other.shape()
            )));
        }
        let a = if self.rank() == 1 { &self.unsqueeze(0)? } else { self };
        let b = if other.rank() == 1 { &other.unsqueeze(1)? } else { other };
        let mut out = self.device_handle().apply1("matmul", Op::MatMul(MatMul::default()), &[a, b])?;
        if other.rank() == 1 {
            out = out.squeeze(-1)?;
        }
        if self.rank() == 1 {
            out = out.squeeze(if other.rank() == 1 { -1 } else { -2 })?;
        }
        Ok(out)
    }

    /// Product of two matrices.
    pub fn mm(&self, other: &Tensor) -> Result<Tensor> {
        self.need_ranks("mm", other, 2)?;
        self.matmul(other)
    }

    /// Products of two batches of matrices, (b, m, k) with (b, k, n); the batch is not broadcast.
    pub fn bmm(&self, other: &Tensor) -> Result<Tensor> {
        self.need_ranks("bmm", other, 3)?;
        if self.shape()[0] != other.shape()[0] {
            return Err(Error::invalid_argument(format!(
                "bmm: batches differ: {} against {}; use matmul to broadcast",
                self.shape(),
                other.shape()
            )));
        }
        self.matmul(other)
    }

    fn need_ranks(&self, name: &str, other: &Tensor, rank: usize) -> Result<()> {
        if self.rank() != rank || other.rank() != rank {
            return Err(Error::invalid_argument(format!(
                "{name}: needs two tensors of rank {rank}, got {} and {}",
                self.shape(),
                other.shape()
            )));
        }
        Ok(())
    }

    /// Convolution of (n, c, length) with (m, c / groups, kernel).
    pub fn conv1d(&self, weight: &Tensor, bias: Option<&Tensor>, options: ConvOptions) -> Result<Tensor> {
        self.conv("conv1d", weight, bias, options, 1)
    }

    /// Convolution of (n, c, height, width) with (m, c / groups, kernel height, kernel width).
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, options: ConvOptions) -> Result<Tensor> {
        self.conv("conv2d", weight, bias, options, 2)
    }

    fn conv(
        &self,
        name: &str,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: ConvOptions,
        spatial: usize,
    ) -> Result<Tensor> {
        self.need_ranks(name, weight, spatial + 2)?;
        let op = conv_op(options, spatial, bias.is_some());
        let inputs: Vec<&Tensor> = [self, weight].into_iter().chain(bias).collect();
        self.device_handle().apply1(name, Op::Conv(op), &inputs)
    }

    /// Greatest element of each window of (n, c, spatial...); `kernel`, `stride` and `padding` hold for every spatial axis.
    pub fn max_pool(&self, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
        self.pool("max_pool", PoolKind::Max { indices: false, column_major: false }, kernel, stride, padding)
    }

    /// Mean of each window of (n, c, spatial...), padding counted as PyTorch does by default.
    pub fn avg_pool(&self, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
        self.pool("avg_pool", PoolKind::Average { count_pad: true }, kernel, stride, padding)
    }

    fn pool(
        &self,
        name: &str,
        kind: PoolKind,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Tensor> {
        let spatial = self.rank().checked_sub(2).filter(|&s| s > 0).ok_or_else(|| {
            Error::invalid_argument(format!(
                "{name}: needs (batch, channels, spatial...), got {}",
                self.shape()
            ))
        })?;
        let op = Pool {
            kind,
            kernel: vec![kernel; spatial],
            strides: vec![stride; spatial],
            dilations: vec![1; spatial],
            pads_before: vec![padding; spatial],
            pads_after: vec![padding; spatial],
            ceil: false,
        };
        self.device_handle().apply1(name, Op::Pool(op), &[self])
    }
}

/// The primitive of a convolution with the same numbers on every spatial axis.
pub(crate) fn conv_op(options: ConvOptions, spatial: usize, bias: bool) -> Conv {
    Conv {
        strides: vec![options.stride; spatial],
        dilations: vec![options.dilation; spatial],
        pads_before: vec![options.padding; spatial],
        pads_after: vec![options.padding; spatial],
        groups: options.groups,
        bias,
        residual: false,
        activation: None,
    }
}
