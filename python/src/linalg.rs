//! Dense linear algebra.

use pyo3::prelude::*;
use streampool::linalg;

use crate::lock::released;
use crate::tensor::PyTensor;

macro_rules! one {
    ($($(#[$doc:meta])* $name:ident, $native:ident;)*) => {
        $(
            $(#[$doc])*
            #[pyfunction]
            fn $native(a: &Bound<'_, PyTensor>) -> PyResult<PyTensor> {
                let inner = &a.get().inner;
                released(a.py(), || linalg::$name(inner)).map(PyTensor::new)
            }
        )*
    };
}

one! {
    /// Lower triangular `l` with `a = l @ l.mT`, for symmetric positive definite `a` (..., n, n).
    cholesky, linalg_cholesky;
    /// The inverse of (..., n, n).
    inv, linalg_inv;
    /// The determinant of (..., n, n): shape (...).
    det, linalg_det;
}

/// `(q, r)` with `a = q @ r`: (..., m, n) gives (..., m, k) and (..., k, n), k = min(m, n).
#[pyfunction]
fn linalg_qr(a: &Bound<'_, PyTensor>) -> PyResult<(PyTensor, PyTensor)> {
    let inner = &a.get().inner;
    let (q, r) = released(a.py(), || linalg::qr(inner))?;
    Ok((PyTensor::new(q), PyTensor::new(r)))
}

/// `(u, s, vh)` with `a = u @ diag(s) @ vh`: the reduced form, `s` descending.
#[pyfunction]
fn linalg_svd(a: &Bound<'_, PyTensor>) -> PyResult<(PyTensor, PyTensor, PyTensor)> {
    let inner = &a.get().inner;
    let (u, s, vh) = released(a.py(), || linalg::svd(inner))?;
    Ok((PyTensor::new(u), PyTensor::new(s), PyTensor::new(vh)))
}

/// `(values, vectors)` of a symmetric matrix: values ascending, vectors as columns.
#[pyfunction]
fn linalg_eigh(a: &Bound<'_, PyTensor>) -> PyResult<(PyTensor, PyTensor)> {
    let inner = &a.get().inner;
    let (w, v) = released(a.py(), || linalg::eigh(inner))?;
    Ok((PyTensor::new(w), PyTensor::new(v)))
}

/// `x` with `a @ x = b`; `b` is (..., n, r), or (n,) for one right-hand side.
#[pyfunction]
fn linalg_solve(a: &Bound<'_, PyTensor>, b: &Bound<'_, PyTensor>) -> PyResult<PyTensor> {
    let (x, y) = (&a.get().inner, &b.get().inner);
    released(a.py(), || linalg::solve(x, y)).map(PyTensor::new)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(linalg_cholesky, m)?)?;
    m.add_function(wrap_pyfunction!(linalg_inv, m)?)?;
    m.add_function(wrap_pyfunction!(linalg_det, m)?)?;
    m.add_function(wrap_pyfunction!(linalg_qr, m)?)?;
    m.add_function(wrap_pyfunction!(linalg_svd, m)?)?;
    m.add_function(wrap_pyfunction!(linalg_eigh, m)?)?;
    m.add_function(wrap_pyfunction!(linalg_solve, m)?)
}
