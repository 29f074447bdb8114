//! Softmax and normalisation.

use super::F32;

/// `softmax` (or its logarithm) over the axes `axis..axis + axes`, taken as one. Input: floats. Output: same type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Softmax {
    /// First axis.
    pub axis: usize,
    /// How many axes are taken together (1 as a rule; old ONNX opsets flatten).
    pub axes: usize,
    /// The logarithm of it.
    pub log: bool,
}

/// Normalises over the axes from `axis` to the last: `(x - mean) / sqrt(var + eps) * scale + bias` (`rms`: `x / sqrt(mean(x^2) + eps) * scale`).
///
/// Inputs: `x` floats, then if `scale`: the scale, then if `bias`: the bias, both broadcastable to the normalised axes' shape. If
/// `residual`, one more last input of `x`'s type is added to `x` first. Statistics are computed in f32 (f64 for f64). Output: `x`'s type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayerNorm {
    /// First normalised axis.
    pub axis: usize,
    /// Added to the variance.
    pub epsilon: F32,
    /// No mean is taken off.
    pub rms: bool,
    /// Whether a scale is given.
    pub scale: bool,
    /// Whether a bias is given.
    pub bias: bool,
    /// Whether a tensor is added to `x` first.
    pub residual: bool,
}

impl super::Operation for Softmax {
    fn name(&self) -> &'static str {
        "Softmax"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Softmax: shape inference is not written yet"))
    }
}

impl super::Operation for LayerNorm {
    fn name(&self) -> &'static str {
        "LayerNorm"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("LayerNorm: shape inference is not written yet"))
    }
}
