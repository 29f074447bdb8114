//! Softmax and normalisation.

use super::{F32, Operation, Shape, TensorType, check, matmul::names};
use crate::error::Result;

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

impl Operation for Softmax {
    fn name(&self) -> &'static str {
        "Softmax"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["x"])?;
        let x = &inputs[0];
        check::dtype(op, "x", x, |d| d.is_float(), check::FLOATS)?;
        check::axis(op, "x", x, self.axis)?;
        if self.axes == 0 || self.axes > x.shape.rank() - self.axis {
            return Err(check::invalid(
                op,
                format_args!(
                    "x {x} does not have {} axes from axis {}, needs 1 or more",
                    self.axes, self.axis
                ),
            ));
        }
        Ok(inputs.to_vec())
    }

    fn in_place(&self, i: usize) -> bool {
        i == 0
    }
}

impl Operation for LayerNorm {
    fn name(&self) -> &'static str {
        "LayerNorm"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        let names = names(&["x"], &[("scale", self.scale), ("bias", self.bias), ("residual", self.residual)]);
        check::operands(op, inputs, &names)?;
        let x = &inputs[0];
        check::dtype(op, "x", x, |d| d.is_float(), check::FLOATS)?;
        check::axis(op, "x", x, self.axis)?;
        let normalised = Shape::new(&x.shape[self.axis..]);
        for (&name, ty) in names.iter().zip(inputs).skip(1) {
            check::same_dtype(op, name, ty, "x", x)?;
            if name == "residual" {
                check::shape_is(op, name, ty, &x.shape)?;
            } else {
                check::broadcasts_to(op, name, ty, &normalised)?;
            }
        }
        Ok(vec![x.clone()])
    }

    fn in_place(&self, i: usize) -> bool {
        i == 0 || (self.residual && i == 1 + usize::from(self.scale) + usize::from(self.bias))
    }
}
