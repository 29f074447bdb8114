//! Dense linear algebra, with PyTorch's names. float32 and float64, over the last two axes, batched over the rest.
//!
//! A singular or indefinite matrix is an error of the call that `is_invalid_argument` and names the batch entry.

use streampool_core::op::{Linalg, Op};

use crate::{Error, Result, Tensor};

fn apply<const N: usize>(name: &str, op: Linalg, inputs: &[&Tensor]) -> Result<[Tensor; N]> {
    let dense: Vec<Tensor> = inputs.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    let out = inputs[0].device_handle().apply(name, Op::Linalg(op), &dense.iter().collect::<Vec<_>>())?;
    out.try_into()
        .map_err(|_| Error::internal(format!("{name}: the operation gave another number of results")))
}

/// Lower triangular `l` with `a = l l^T`, for symmetric positive definite `a` (..., n, n).
pub fn cholesky(a: &Tensor) -> Result<Tensor> {
    apply("linalg.cholesky", Linalg::Cholesky, &[a]).map(|[l]| l)
}

/// `(q, r)` with `a = q r`: (..., m, n) gives (..., m, k) and (..., k, n), k = min(m, n).
pub fn qr(a: &Tensor) -> Result<(Tensor, Tensor)> {
    apply("linalg.qr", Linalg::Qr, &[a]).map(|[q, r]| (q, r))
}

/// `(u, s, vt)` with `a = u diag(s) vt`: the reduced form, `s` descending.
pub fn svd(a: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    apply("linalg.svd", Linalg::Svd, &[a]).map(|[u, s, vt]| (u, s, vt))
}

/// `(values, vectors)` of a symmetric matrix: values ascending, vectors as columns.
pub fn eigh(a: &Tensor) -> Result<(Tensor, Tensor)> {
    apply("linalg.eigh", Linalg::Eigh, &[a]).map(|[w, v]| (w, v))
}

/// `x` with `a x = b`; `b` is (..., n, r), or (n,) for one right-hand side.
pub fn solve(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if b.rank() == 1 {
        return apply("linalg.solve", Linalg::Solve, &[a, &b.unsqueeze(1)?]).and_then(|[x]| x.squeeze(1));
    }
    apply("linalg.solve", Linalg::Solve, &[a, b]).map(|[x]| x)
}

/// The inverse of (..., n, n).
pub fn inv(a: &Tensor) -> Result<Tensor> {
    apply("linalg.inv", Linalg::Inv, &[a]).map(|[x]| x)
}

/// The determinant of (..., n, n): shape (...).
pub fn det(a: &Tensor) -> Result<Tensor> {
    apply("linalg.det", Linalg::Det, &[a]).map(|[x]| x)
}
