//! Reductions, products of matrices, softmax, sorting.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use streampool::Tensor;
use streampool_core::op::DType;

use super::PyTensor;
use crate::convert::axes;
use crate::errors::invalid;
use crate::lock::released;

/// A named tuple (values, indices).
fn values_indices<'py>(py: Python<'py>, values: Tensor, indices: Tensor) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = CLASS.import(py, "streampool._types", "ValuesIndices")?;
    class.call1((PyTensor::new(values), PyTensor::new(indices)))
}

type Dim<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        #[pymethods]
        impl PyTensor {
            $(
                $(#[$doc])*
                #[pyo3(signature = (dim=None, keepdim=false))]
                fn $name(&self, py: Python<'_>, dim: Dim<'_, '_>, keepdim: bool) -> PyResult<PyTensor> {
                    let axes = axes(dim)?;
                    self.with(py, |t| t.$name(&axes, keepdim))
                }
            )*
        }
    };
}

reductions! {
    /// Product over axes (all if None).
    prod;
    /// Greatest over axes (all if None); NaN wins.
    amax;
    /// Least over axes (all if None); NaN wins.
    amin;
    /// `log(sum(exp(x)))` over axes, without overflow.
    logsumexp;
    /// Whether all are true.
    all;
    /// Whether any is true.
    any;
}

#[pymethods]
impl PyTensor {
    /// Sum over axes (all if None). Integers and bools are summed in int64.
    #[pyo3(signature = (dim=None, keepdim=false, *, dtype=None))]
    fn sum(&self, py: Python<'_>, dim: Dim<'_, '_>, keepdim: bool, dtype: Dim<'_, '_>) -> PyResult<PyTensor> {
        let (axes, dtype) = (axes(dim)?, dtype.map(crate::dtype::parse).transpose()?);
        self.with(py, |t| match dtype {
            Some(dtype) => t.cast(dtype)?.sum(&axes, keepdim)?.cast(dtype),
            None => t.sum(&axes, keepdim),
        })
    }
    /// Mean over axes (all if None), of floats.
    #[pyo3(signature = (dim=None, keepdim=false, *, dtype=None))]
    fn mean(
        &self,
        py: Python<'_>,
        dim: Dim<'_, '_>,
        keepdim: bool,
        dtype: Dim<'_, '_>,
    ) -> PyResult<PyTensor> {
        let (axes, dtype) = (axes(dim)?, dtype.map(crate::dtype::parse).transpose()?);
        self.with(py, |t| match dtype {
            Some(dtype) => t.cast(dtype)?.mean(&axes, keepdim),
            None => t.mean(&axes, keepdim),
        })
    }
    /// Norm over axes (all if None): of order `p` = 2, 1 or infinity.
    #[pyo3(signature = (p=2.0, dim=None, keepdim=false))]
    fn norm(&self, py: Python<'_>, p: f64, dim: Dim<'_, '_>, keepdim: bool) -> PyResult<PyTensor> {
        let axes = axes(dim)?;
        self.with(py, |t| match p {
            2.0 => t.norm(&axes, keepdim),
            1.0 => t.abs()?.sum(&axes, keepdim),
            f64::INFINITY => t.abs()?.amax(&axes, keepdim),
            p => t.abs()?.pow_scalar(p)?.sum(&axes, keepdim)?.pow_scalar(1.0 / p),
        })
    }
    /// Variance over axes (all if None); the divisor is the count less `correction`.
    #[pyo3(signature = (dim=None, *, correction=1, keepdim=false))]
    fn var(&self, py: Python<'_>, dim: Dim<'_, '_>, correction: usize, keepdim: bool) -> PyResult<PyTensor> {
        let axes = axes(dim)?;
        self.with(py, |t| variance(t, &axes, correction, keepdim))
    }
    /// Standard deviation over axes (all if None): the root of `var`.
    #[pyo3(signature = (dim=None, *, correction=1, keepdim=false))]
    fn std(&self, py: Python<'_>, dim: Dim<'_, '_>, correction: usize, keepdim: bool) -> PyResult<PyTensor> {
        let axes = axes(dim)?;
        self.with(py, |t| variance(t, &axes, correction, keepdim)?.sqrt())
    }
    /// The greatest of all; along an axis (values, indices); or of two tensors.
    #[pyo3(signature = (dim=None, keepdim=false))]
    fn max<'py>(&self, py: Python<'py>, dim: Dim<'_, 'py>, keepdim: bool) -> PyResult<Bound<'py, PyAny>> {
        self.extremum(py, dim, keepdim, true)
    }
    /// The least of all; along an axis (values, indices); or of two tensors.
    #[pyo3(signature = (dim=None, keepdim=false))]
    fn min<'py>(&self, py: Python<'py>, dim: Dim<'_, 'py>, keepdim: bool) -> PyResult<Bound<'py, PyAny>> {
        self.extremum(py, dim, keepdim, false)
    }
    /// Index (int64) of the greatest along an axis, or among all elements; of equals the first.
    #[pyo3(signature = (dim=None, keepdim=false))]
    fn argmax(&self, py: Python<'_>, dim: Option<isize>, keepdim: bool) -> PyResult<PyTensor> {
        self.with(py, |t| match dim {
            Some(dim) => t.argmax(dim, keepdim),
            None => t.reshape(&[-1])?.argmax(0, false),
        })
    }
    /// Index (int64) of the least along an axis, or among all elements; of equals the first.
    #[pyo3(signature = (dim=None, keepdim=false))]
    fn argmin(&self, py: Python<'_>, dim: Option<isize>, keepdim: bool) -> PyResult<PyTensor> {
        self.with(py, |t| match dim {
            Some(dim) => t.argmin(dim, keepdim),
            None => t.reshape(&[-1])?.argmin(0, false),
        })
    }
    /// Running sum along an axis.
    fn cumsum(&self, py: Python<'_>, dim: isize) -> PyResult<PyTensor> {
        self.with(py, |t| if t.dtype().is_float() { t.cumsum(dim) } else { t.cast(DType::I64)?.cumsum(dim) })
    }
    /// Softmax along an axis.
    #[pyo3(signature = (dim, *, dtype=None))]
    fn softmax(&self, py: Python<'_>, dim: isize, dtype: Dim<'_, '_>) -> PyResult<PyTensor> {
        let dtype = dtype.map(crate::dtype::parse).transpose()?;
        self.with(py, |t| t.cast(dtype.unwrap_or(t.dtype()))?.softmax(dim))
    }
    /// Logarithm of the softmax along an axis.
    #[pyo3(signature = (dim, *, dtype=None))]
    fn log_softmax(&self, py: Python<'_>, dim: isize, dtype: Dim<'_, '_>) -> PyResult<PyTensor> {
        let dtype = dtype.map(crate::dtype::parse).transpose()?;
        self.with(py, |t| t.cast(dtype.unwrap_or(t.dtype()))?.log_softmax(dim))
    }
    /// The `k` greatest (or least) along an axis, in order: (values, indices).
    #[pyo3(signature = (k, dim=-1, largest=true, sorted=true))]
    fn topk<'py>(
        &self,
        py: Python<'py>,
        k: usize,
        dim: isize,
        largest: bool,
        sorted: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = sorted;
        let (values, indices) = released(py, || self.inner.topk(k, dim, largest))?;
        values_indices(py, values, indices)
    }
    /// In order along an axis: (values, indices). Equal elements keep their order.
    #[pyo3(signature = (dim=-1, descending=false))]
    fn sort<'py>(&self, py: Python<'py>, dim: isize, descending: bool) -> PyResult<Bound<'py, PyAny>> {
        let rank = self.inner.rank() as isize;
        let at = if dim < 0 { dim + rank } else { dim };
        if !(0..rank).contains(&at) {
            return Err(invalid(format!("sort: there is no axis {dim} in a tensor of rank {rank}")));
        }
        let k = self.inner.shape()[at as usize];
        let (values, indices) = released(py, || self.inner.topk(k, at, descending))?;
        values_indices(py, values, indices)
    }
    /// The indices that `sort` gives.
    #[pyo3(signature = (dim=-1, descending=false))]
    fn argsort<'py>(&self, py: Python<'py>, dim: isize, descending: bool) -> PyResult<Bound<'py, PyAny>> {
        self.sort(py, dim, descending)?.getattr("indices")
    }
    /// Matrix product with PyTorch's rules: vectors are rows or columns, leading axes broadcast.
    fn matmul(&self, py: Python<'_>, other: &PyTensor) -> PyResult<PyTensor> {
        self.with(py, |t| t.matmul(&other.inner))
    }
    /// Product of two matrices.
    fn mm(&self, py: Python<'_>, mat2: &PyTensor) -> PyResult<PyTensor> {
        self.with(py, |t| t.mm(&mat2.inner))
    }
    /// Products of two batches of matrices, (b, m, k) with (b, k, n).
    fn bmm(&self, py: Python<'_>, mat2: &PyTensor) -> PyResult<PyTensor> {
        self.with(py, |t| t.bmm(&mat2.inner))
    }
    /// Product of a matrix and a vector.
    fn mv(&self, py: Python<'_>, vec: &PyTensor) -> PyResult<PyTensor> {
        self.with(py, |t| {
            if t.rank() != 2 || vec.inner.rank() != 1 {
                return Err(streampool::Error::invalid_argument(format!(
                    "mv: needs a matrix and a vector, got {} and {}",
                    t.shape(),
                    vec.inner.shape()
                )));
            }
            t.matmul(&vec.inner)
        })
    }
    /// Product of two vectors.
    fn dot(&self, py: Python<'_>, other: &PyTensor) -> PyResult<PyTensor> {
        self.with(py, |t| {
            if t.rank() != 1 || other.inner.rank() != 1 {
                return Err(streampool::Error::invalid_argument(format!(
                    "dot: needs two vectors, got {} and {}",
                    t.shape(),
                    other.inner.shape()
                )));
            }
            t.matmul(&other.inner)
        })
    }
}

fn variance(t: &Tensor, axes: &[isize], correction: usize, keepdim: bool) -> streampool::Result<Tensor> {
    let mean = t.mean(axes, true)?;
    let count = t.numel().checked_div(mean.numel()).unwrap_or(0);
    let square = t.sub(&mean)?;
    let sum = square.mul(&square)?.sum(axes, keepdim)?;
    sum.div_scalar(count as f64 - correction.min(count) as f64)
}

impl PyTensor {
    fn extremum<'py>(
        &self,
        py: Python<'py>,
        dim: Dim<'_, 'py>,
        keepdim: bool,
        max: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let name = if max { "max" } else { "min" };
        let Some(dim) = dim.filter(|d| !d.is_none()) else {
            let all = self.with(py, |t| if max { t.amax(&[], false) } else { t.amin(&[], false) })?;
            return Ok(Bound::new(py, all)?.into_any());
        };
        if let Ok(other) = dim.cast::<PyTensor>() {
            let other = &other.get().inner;
            let both = self.with(py, |t| if max { t.maximum(other) } else { t.minimum(other) })?;
            return Ok(Bound::new(py, both)?.into_any());
        }
        let dim = dim
            .extract::<isize>()
            .map_err(|_| invalid(format!("{name}: dim is an int or a Tensor, got {dim}")))?;
        let (values, indices) = released(py, || {
            let indices = if max { self.inner.argmax(dim, true)? } else { self.inner.argmin(dim, true)? };
            let values = self.inner.gather(dim, &indices)?;
            if keepdim { Ok((values, indices)) } else { Ok((values.squeeze(dim)?, indices.squeeze(dim)?)) }
        })?;
        values_indices(py, values, indices)
    }
}
