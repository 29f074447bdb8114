//! Dense linear algebra over the last two axes, batched over the rest. f32 and f64, contiguous.

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

impl super::Operation for Linalg {
    fn name(&self) -> &'static str {
        "Linalg"
    }

    fn infer(&self, _inputs: &[super::TensorType]) -> crate::error::Result<Vec<super::TensorType>> {
        Err(crate::error::Error::unsupported("Linalg: shape inference is not written yet"))
    }
}
