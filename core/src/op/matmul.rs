//! Matrix products.

use super::{DType, F32, Operation, Shape, TensorType, check};
use crate::error::Result;

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
/// A query that sees no key (all hidden by -inf in the mask or by `causal`, or none there) gives 0, as ONNX's Attention does.
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

/// The operands' names: the fixed ones, then those whose flag is set.
pub(super) fn names<'a>(fixed: &[&'a str], flagged: &[(&'a str, bool)]) -> Vec<&'a str> {
    fixed.iter().copied().chain(flagged.iter().filter(|f| f.1).map(|f| f.0)).collect()
}

/// The shape of `a @ b`.
fn product(op: &str, a: &TensorType, b: &TensorType) -> Result<Shape> {
    check::rank_at_least(op, "a", a, 2)?;
    check::rank_at_least(op, "b", b, 2)?;
    let (ra, rb) = (a.shape.rank(), b.shape.rank());
    if a.shape[ra - 1] != b.shape[rb - 2] {
        return Err(check::invalid(
            op,
            format_args!(
                "a is {a} and b is {b}: a's last axis ({}) must equal b's last but one ({})",
                a.shape[ra - 1],
                b.shape[rb - 2]
            ),
        ));
    }
    let batch = Shape::new(&a.shape[..ra - 2])
        .broadcast(&Shape::new(&b.shape[..rb - 2]))
        .map_err(|e| e.context(format_args!("{op}: leading axes of a {a} and b {b}")))?;
    Ok(check::concat(&batch, &[a.shape[ra - 2], b.shape[rb - 1]]))
}

impl Operation for MatMul {
    fn name(&self) -> &'static str {
        "MatMul"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        let names = names(&["a", "b"], &[("bias", self.bias), ("residual", self.residual)]);
        check::operands(op, inputs, &names)?;
        let a = &inputs[0];
        check::dtype(
            op,
            "a",
            a,
            |d| d.is_float() || check::is_index(d),
            "float32, float64, float16, bfloat16, int32 or int64",
        )?;
        for (name, ty) in names.iter().zip(inputs).skip(1) {
            check::same_dtype(op, name, ty, "a", a)?;
        }
        if !a.dtype.is_float() && (self.activation.is_some() || self.alpha != F32::new(1.0)) {
            return Err(check::invalid(
                op,
                format_args!("a is {a}: integer products take neither activation nor scale; cast to float"),
            ));
        }
        let shape = product(op, a, &inputs[1])?;
        if self.bias {
            check::broadcasts_to(op, "bias", &inputs[2], &shape)?;
        }
        if self.residual {
            check::shape_is(op, "residual", &inputs[inputs.len() - 1], &shape)?;
        }
        Ok(vec![TensorType { dtype: a.dtype, shape }])
    }

    fn takes_strided_input(&self, i: usize) -> bool {
        i < 2
    }
}

impl Operation for MatMulInteger {
    fn name(&self) -> &'static str {
        "MatMulInteger"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(
            op,
            inputs,
            &names(&["a", "b"], &[("a_zero", self.a_zero), ("b_zero", self.b_zero)]),
        )?;
        let (a, b) = (&inputs[0], &inputs[1]);
        for (what, ty) in [("a", a), ("b", b)] {
            check::dtype(op, what, ty, |d| matches!(d, DType::I8 | DType::U8), "int8 or uint8")?;
        }
        let shape = product(op, a, b)?;
        let rank = shape.rank();
        if self.a_zero {
            let zero = &inputs[2];
            check::same_dtype(op, "a_zero", zero, "a", a)?;
            let mut rows: Vec<usize> = shape.to_vec();
            rows[rank - 1] = 1;
            if zero.shape.len() != 1 && zero.shape[..] != [shape[rank - 2]] {
                check::broadcasts_to(op, "a_zero", zero, &rows.into())?;
            }
        }
        if self.b_zero {
            let zero = &inputs[inputs.len() - 1];
            check::same_dtype(op, "b_zero", zero, "b", b)?;
            let mut columns: Vec<usize> = shape.to_vec();
            columns[rank - 2] = 1;
            if zero.shape.len() != 1 {
                check::broadcasts_to(op, "b_zero", zero, &columns.into())?;
            }
        }
        Ok(vec![TensorType { dtype: DType::I32, shape }])
    }
}

impl Operation for Attention {
    fn name(&self) -> &'static str {
        "Attention"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        let names = names(&["q", "k", "v"], &[("mask", self.mask)]);
        check::operands(op, inputs, &names)?;
        let [q, k, v] = [&inputs[0], &inputs[1], &inputs[2]];
        check::dtype(op, "q", q, |d| d.is_float() && d != DType::F64, "float32, float16 or bfloat16")?;
        for (name, ty) in names.iter().zip(inputs).skip(1) {
            check::same_dtype(op, name, ty, "q", q)?;
        }
        for (name, ty) in names.iter().zip(inputs).take(3) {
            check::rank_is(op, name, ty, 4)?;
        }
        let [b, h, s, d] = [q.shape[0], q.shape[1], q.shape[2], q.shape[3]];
        let [g, t] = [k.shape[1], k.shape[2]];
        check::shape_is(op, "k", k, &[b, g, t, d])?;
        check::shape_is(op, "v", v, &[b, g, t, v.shape[3]])?;
        let e = v.shape[3];
        if h != 0 && (g == 0 || h % g != 0) {
            return Err(check::invalid(
                op,
                format_args!("q {q} has {h} heads and k {k} has {g}: q's must be a multiple of k's"),
            ));
        }
        if self.mask {
            check::broadcasts_to(op, "mask", &inputs[3], &[b, h, s, t].into())?;
        }
        let shape = if self.merge_heads { [b, s, h, e] } else { [b, h, s, e] };
        Ok(vec![TensorType::new(q.dtype, shape)])
    }

    fn takes_strided_input(&self, _i: usize) -> bool {
        true
    }
}
