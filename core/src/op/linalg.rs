//! Dense linear algebra over the last two axes, batched over the rest. f32 and f64, contiguous.

use super::{DType, Operation, TensorType, check};
use crate::error::Result;

/// Which decomposition or solution. A singular or indefinite matrix is an error of the launch that `is_invalid_argument` and names the batch entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Linalg {
    /// a (..., n, n) symmetric positive definite -> lower triangular l with a = l l^T.
    Cholesky,
    /// a (..., m, n) -> q (..., m, k), r (..., k, n), k = min(m, n).
    Qr,
    /// a (..., m, n) -> u (..., m, k), s (..., k) descending, vt (..., k, n).
    Svd,
    /// a (..., n, n) symmetric -> eigenvalues (..., n) ascending, eigenvectors as columns (..., n, n).
    Eigh,
    /// a (..., n, n), b (..., n, r) -> x with a x = b.
    Solve,
    /// a (..., n, n) -> its inverse.
    Inv,
    /// a (..., n, n) -> its determinant (...).
    Det,
}

impl Operation for Linalg {
    fn name(&self) -> &'static str {
        match self {
            Linalg::Cholesky => "Cholesky",
            Linalg::Qr => "Qr",
            Linalg::Svd => "Svd",
            Linalg::Eigh => "Eigh",
            Linalg::Solve => "Solve",
            Linalg::Inv => "Inv",
            Linalg::Det => "Det",
        }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, if *self == Linalg::Solve { &["a", "b"] } else { &["a"] })?;
        let a = &inputs[0];
        check::dtype(op, "a", a, |d| matches!(d, DType::F32 | DType::F64), "float32 or float64")?;
        check::rank_at_least(op, "a", a, 2)?;
        let (batch, m, n) = {
            let rank = a.shape.rank();
            (&a.shape[..rank - 2], a.shape[rank - 2], a.shape[rank - 1])
        };
        if m != n && !matches!(self, Linalg::Qr | Linalg::Svd) {
            return Err(check::invalid(op, format_args!("a is {a}, needs square matrices")));
        }
        let k = m.min(n);
        let ty = |tail: &[usize]| TensorType::new(a.dtype, check::concat(batch, tail));
        Ok(match self {
            Linalg::Cholesky | Linalg::Inv => vec![a.clone()],
            Linalg::Qr => vec![ty(&[m, k]), ty(&[k, n])],
            Linalg::Svd => vec![ty(&[m, k]), ty(&[k]), ty(&[k, n])],
            Linalg::Eigh => vec![ty(&[n]), a.clone()],
            Linalg::Det => vec![ty(&[])],
            Linalg::Solve => {
                let b = &inputs[1];
                check::same_dtype(op, "b", b, "a", a)?;
                check::rank_is(op, "b", b, a.shape.rank())?;
                check::shape_is(op, "b", b, &check::concat(batch, &[n, b.shape[b.shape.rank() - 1]]))?;
                vec![b.clone()]
            }
        })
    }
}
