//! Sliding windows: convolution, pooling, resizing. Layout is ONNX's: (batch, channels, spatial...), any number of spatial axes.

use super::{Activation, F32};

/// Convolution. Inputs: x (n, c, spatial...), weight (m, c / groups, kernel...), then if `bias`: (m,), then if `residual`: the output's shape. f32, f64, f16,
/// bf16. Output: (n, m, spatial...) after the activation. Zero padding. A constant weight is packed at compile time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Per spatial axis.
    pub strides: Vec<usize>,
    /// Per spatial axis.
    pub dilations: Vec<usize>,
    /// Zeros before each spatial axis.
    pub pads_before: Vec<usize>,
    /// Zeros after each spatial axis.
    pub pads_after: Vec<usize>,
    /// Divides the channels.
    pub groups: usize,
    /// Whether a bias is given.
    pub bias: bool,
    /// Whether a tensor of the output's shape is added before the activation.
    pub residual: bool,
    /// Applied last.
    pub activation: Option<Activation>,
}

/// Transposed convolution. Inputs: x (n, c, spatial...), weight (c, m / groups, kernel...), then if `bias`: (m,). Floats. Output spatial length:
/// `stride * (in - 1) + output_padding + (kernel - 1) * dilation + 1 - before - after`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvTranspose {
    /// Per spatial axis.
    pub strides: Vec<usize>,
    /// Per spatial axis.
    pub dilations: Vec<usize>,
    /// Taken off before (may be negative: adds).
    pub pads_before: Vec<isize>,
    /// Taken off after (may be negative: adds).
    pub pads_after: Vec<isize>,
    /// Extra length after.
    pub output_padding: Vec<usize>,
    /// Divides the channels.
    pub groups: usize,
    /// Whether a bias is given.
    pub bias: bool,
}

/// What a pooling window computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Greatest. With `indices`, a second output (i64): flat index of it into the whole input (row-major, or column-major over the spatial axes).
    Max {
        /// Whether indices are wanted.
        indices: bool,
        /// Column-major spatial order of the indices (ONNX `storage_order` = 1).
        column_major: bool,
    },
    /// Mean; of the window's elements inside the input, or inside the input plus its padding if `count_pad`.
    Average {
        /// Count padding in the divisor.
        count_pad: bool,
    },
    /// `(sum |x|^p)^(1/p)`.
    Lp {
        /// The exponent.
        p: u32,
    },
}

/// Pooling. Input: x (n, c, spatial...); Max takes floats, i8 and u8, the others floats. Output: (n, c, spatial...). Padding never wins and is not summed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// What.
    pub kind: PoolKind,
    /// Window per spatial axis.
    pub kernel: Vec<usize>,
    /// Per spatial axis.
    pub strides: Vec<usize>,
    /// Per spatial axis.
    pub dilations: Vec<usize>,
    /// Before each spatial axis.
    pub pads_before: Vec<usize>,
    /// After each spatial axis.
    pub pads_after: Vec<usize>,
    /// Round the output length up; a window that would start in the right padding is dropped (as PyTorch and ONNX Runtime do).
    pub ceil: bool,
}

/// How a resize samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResizeMode {
    /// One element.
    Nearest(NearestMode),
    /// Multilinear.
    Linear {
        /// Filter wider when shrinking.
        antialias: bool,
    },
    /// Keys' cubic kernel.
    Cubic {
        /// The kernel's coefficient (-0.75 as a rule).
        a: F32,
        /// Samples outside the input weigh nothing.
        exclude_outside: bool,
        /// Filter wider when shrinking.
        antialias: bool,
    },
}

/// ONNX's `nearest_mode`.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NearestMode {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// ONNX's `coordinate_transformation_mode`.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CoordinateMode {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// With the region of interest per axis, and the value for samples outside.
    TfCropAndResize {
        extrapolation: F32,
    },
}

/// ONNX's Resize over all axes. Input: floats, i8, u8, i32. Output: same dtype, shape `sizes`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resize {
    /// Output lengths, one per axis.
    pub sizes: Vec<usize>,
    /// Scale per axis, as given or derived (output / input).
    pub scales: Vec<F32>,
    /// How coordinates map.
    pub coordinates: CoordinateMode,
    /// How samples are taken.
    pub mode: ResizeMode,
    /// Start and end of the region per axis, only for `TfCropAndResize` (else empty).
    pub roi: Vec<(F32, F32)>,
}

impl super::Operation for Conv {
    fn name(&self) -> &'static str {
        "Conv"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Conv: shape inference is not written yet"))
    }
}

impl super::Operation for ConvTranspose {
    fn name(&self) -> &'static str {
        "ConvTranspose"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("ConvTranspose: shape inference is not written yet"))
    }
}

impl super::Operation for Pool {
    fn name(&self) -> &'static str {
        "Pool"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Pool: shape inference is not written yet"))
    }
}

impl super::Operation for Resize {
    fn name(&self) -> &'static str {
        "Resize"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Resize: shape inference is not written yet"))
    }
}
