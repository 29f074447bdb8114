//! Matrix products.

use super::F32;

/// What a matrix product or convolution applies to each result before storing it.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    Relu,
    Sigmoid,
    Tanh,
    Gelu,
    GeluTanh,
    Silu,
    LeakyRelu(F32),
    /// Into `[lo, hi]`.
    Clip(F32, F32),
}

/// `act(alpha * a @ b + bias + residual)` over the last two axes, the leading ones broadcast.
///
/// Inputs: `a` (..., m, k), `b` (..., k, n), then if `bias`: a tensor broadcastable to the output (usually (n,) or (m, 1)... any
/// broadcastable shape of rank <= the output's), then if `residual`: a tensor of exactly the output's shape. All of one dtype: f32, f64, f16, bf16
/// (f16 and bf16 accumulate in f32), or i32/i64 without activation. Ranks >= 2 (callers reshape vectors).
/// Output: (..., m, n). Inputs 0 and 1 may be strided (a transpose is a view).
///
/// Where `b` is a constant of rank 2, drivers pack it once at compile time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatMul {
    /// Scales the product.
    pub alpha: F32,
    /// Whether a bias follows the factors.
    pub bias: bool,
    /// Whether a residual (same shape as the output) follows.
    pub residual: bool,
    /// Applied last.
    pub activation: Option<Activation>,
}

impl Default for MatMul {
    fn default() -> Self {
        Self { alpha: F32::new(1.0), bias: false, residual: false, activation: None }
    }
}

/// `(a - a_zero) @ (b - b_zero)` of i8 or u8 matrices in i32.
///
/// Inputs: `a` (..., m, k), `b` (..., k, n), then if `a_zero`: the zero point of `a`, a scalar or one per row (m,) broadcastable to (..., m, 1), then if
/// `b_zero`: scalar or one per column (n,). Output: i32 (..., m, n).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatMulInteger {
    /// Whether a zero point of `a` is given.
    pub a_zero: bool,
    /// Whether a zero point of `b` is given.
    pub b_zero: bool,
}

/// `softmax(scale * q @ k^T + mask) @ v`, without the score matrix in memory.
///
/// Inputs: `q` (b, h, s, d), `k` (b, g, t, d), `v` (b, g, t, e) with `h` a multiple of `g` (grouped queries), then if `mask`: an additive
/// mask of the same dtype broadcastable to (b, h, s, t). f32, f16, bf16. All inputs may be strided; the last axis of `q`, `k`, `v` has stride 1.
/// Output: (b, h, s, e) if not `merge_heads`, else (b, s, h, e) row-major (so that a reshape to (b, s, h * e) is free).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Multiplies the scores.
    pub scale: F32,
    /// Position `i` of the queries sees only keys `0..=i + (t - s)`.
    pub causal: bool,
    /// Whether a mask follows.
    pub mask: bool,
    /// Output axes (b, s, h, e) instead of (b, h, s, e).
    pub merge_heads: bool,
}

impl super::Operation for MatMul {
    fn name(&self) -> &'static str {
        "MatMul"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("MatMul: shape inference is not written yet"))
    }
}

impl super::Operation for MatMulInteger {
    fn name(&self) -> &'static str {
        "MatMulInteger"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("MatMulInteger: shape inference is not written yet"))
    }
}

impl super::Operation for Attention {
    fn name(&self) -> &'static str {
        "Attention"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Attention: shape inference is not written yet"))
    }
}
