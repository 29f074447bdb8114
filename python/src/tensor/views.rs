//! Other shapes of the same elements, and joins and splits.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use smallvec::SmallVec;
use streampool::Tensor;
use streampool::ops::{Operand, apply1};
use streampool_core::op::{Op, Pad, PadMode};

use super::PyTensor;
use crate::convert;
use crate::errors::{OrRaise, invalid};
use crate::lock::released;

#[pymethods]
impl PyTensor {
    /// The same elements under another shape; one length may be -1. A copy only if strides cannot express it.
    #[pyo3(signature = (*shape))]
    fn reshape(&self, shape: &Bound<'_, PyTuple>) -> PyResult<PyTensor> {
        let size = convert::size(shape)?;
        self.with(shape.py(), |t| t.reshape(&size))
    }

    /// As `reshape`, but never a copy.
    ///
    /// Raises:
    ///     InvalidArgument: the strides cannot express it.
    #[pyo3(signature = (*shape))]
    fn view(&self, shape: &Bound<'_, PyTuple>) -> PyResult<PyTensor> {
        if let Ok(dtype) = shape.get_item(0)
            && let Ok(dtype) = dtype.cast::<crate::dtype::PyDType>()
        {
            return if dtype.get().0 == self.inner.dtype() {
                Ok(PyTensor::new(self.inner.clone()))
            } else {
                Err(crate::errors::unsupported(
                    "view: elements cannot be seen as another dtype; convert them with to()",
                ))
            };
        }
        let size = convert::size(shape)?;
        self.inner.check().or_raise()?;
        match self.inner.view(&size).or_raise()? {
            Some(view) => Ok(PyTensor::new(view)),
            None => Err(invalid(format!(
                "view: shape {} with strides {:?} cannot be seen as {:?} without a copy; use reshape",
                self.inner.shape(),
                self.inner.strides(),
                &size[..]
            ))),
        }
    }

    /// As `reshape` to another tensor's shape.
    fn view_as(&self, py: Python<'_>, other: &PyTensor) -> PyResult<PyTensor> {
        let size: SmallVec<[isize; 6]> = other.inner.shape().iter().map(|&d| d as isize).collect();
        self.with(py, |t| t.reshape(&size))
    }

    /// Axes in another order: `permute(1, 0)`.
    #[pyo3(signature = (*dims))]
    fn permute(&self, dims: &Bound<'_, PyTuple>) -> PyResult<PyTensor> {
        let dims = convert::size(dims)?;
        self.inner.check().or_raise()?;
        self.inner.permute(&dims).or_raise().map(PyTensor::new)
    }

    /// Two axes exchanged.
    fn transpose(&self, dim0: isize, dim1: isize) -> PyResult<PyTensor> {
        self.inner.check().or_raise()?;
        self.inner.transpose(dim0, dim1).or_raise().map(PyTensor::new)
    }

    /// A matrix transposed.
    fn t(&self) -> PyResult<PyTensor> {
        self.inner.check().or_raise()?;
        self.inner.t().or_raise().map(PyTensor::new)
    }

    /// Axes in the opposite order.
    #[getter(T)]
    fn reversed_axes(&self) -> PyResult<PyTensor> {
        self.inner.check().or_raise()?;
        let dims: Vec<isize> = (0..self.inner.rank() as isize).rev().collect();
        self.inner.permute(&dims).or_raise().map(PyTensor::new)
    }

    /// The last two axes exchanged.
    #[getter(mT)]
    fn matrix_transposed(&self) -> PyResult<PyTensor> {
        self.inner.check().or_raise()?;
        self.inner.transpose(-2, -1).or_raise().map(PyTensor::new)
    }

    /// A new axis of length 1 before `dim`.
    fn unsqueeze(&self, dim: isize) -> PyResult<PyTensor> {
        self.inner.check().or_raise()?;
        self.inner.unsqueeze(dim).or_raise().map(PyTensor::new)
    }

    /// Without axes of length 1: all of them, or those given as far as they have length 1.
    #[pyo3(signature = (dim=None))]
    fn squeeze(&self, dim: Option<&Bound<'_, PyAny>>) -> PyResult<PyTensor> {
        self.inner.check().or_raise()?;
        let rank = self.inner.rank() as isize;
        let mut dims = match dim.filter(|d| !d.is_none()) {
            None => (0..rank).filter(|&d| self.inner.shape()[d as usize] == 1).collect(),
            some => convert::axes(some)?,
        };
        dims.iter_mut().filter(|d| **d < 0).for_each(|d| *d += rank);
        dims.sort_unstable();
        dims.dedup();
        let mut out = self.inner.clone();
        for dim in dims.into_iter().rev() {
            out = out.squeeze(dim).or_raise()?;
        }
        Ok(PyTensor::new(out))
    }

    /// Repeated without a copy to a shape; -1 keeps a length.
    #[pyo3(signature = (*sizes))]
    fn expand(&self, sizes: &Bound<'_, PyTuple>) -> PyResult<PyTensor> {
        let sizes = convert::size(sizes)?;
        self.inner.check().or_raise()?;
        let (rank, old) = (sizes.len(), self.inner.shape());
        let mut shape: SmallVec<[usize; 6]> = SmallVec::new();
        for (i, &d) in sizes.iter().enumerate() {
            shape.push(match (usize::try_from(d), (i + old.rank()).checked_sub(rank)) {
                (Ok(d), _) => d,
                (Err(_), Some(at)) if d == -1 => old[at],
                _ => {
                    return Err(invalid(format!(
                        "expand: length {d} of axis {i} has no meaning for shape {old}"
                    )));
                }
            });
        }
        self.inner.expand(&*shape).or_raise().map(PyTensor::new)
    }

    /// Repeated without a copy to another tensor's shape.
    fn expand_as(&self, other: &PyTensor) -> PyResult<PyTensor> {
        self.inner.check().or_raise()?;
        self.inner.expand(other.inner.shape()).or_raise().map(PyTensor::new)
    }

    /// Repeated to the given shape, which NumPy's rules allow.
    #[pyo3(signature = (*size))]
    fn broadcast_to(&self, size: &Bound<'_, PyTuple>) -> PyResult<PyTensor> {
        self.expand(size)
    }

    /// Copies one after another along each axis: `repeat(2, 1)`.
    #[pyo3(signature = (*repeats))]
    fn repeat(&self, repeats: &Bound<'_, PyTuple>) -> PyResult<PyTensor> {
        let py = repeats.py();
        let repeats = convert::shape(repeats)?;
        let rank = self.inner.rank();
        if repeats.len() < rank {
            return Err(invalid(format!("repeat: {} numbers for a tensor of rank {rank}", repeats.len())));
        }
        self.with(py, |t| {
            // (a, b) repeated (m, n) is (m, a, n, b) expanded, read as (m * a, n * b).
            let lead = repeats.len() - rank;
            let (mut split, mut wide, mut flat) = (Vec::new(), Vec::new(), Vec::new());
            for (i, &n) in repeats.iter().enumerate() {
                let d = if i < lead { 1 } else { t.shape()[i - lead] };
                split.extend([1, d as isize]);
                wide.extend([n, d]);
                let joined = n.checked_mul(d).and_then(|d| isize::try_from(d).ok());
                flat.push(
                    joined.ok_or_else(|| streampool::Error::invalid_argument("repeat: too many elements"))?,
                );
            }
            t.reshape(&split)?.expand(wide)?.reshape(&flat)
        })
    }

    /// The axes from `start_dim` to `end_dim` (inclusive) as one.
    #[pyo3(signature = (start_dim=0, end_dim=-1))]
    fn flatten(&self, py: Python<'_>, start_dim: isize, end_dim: isize) -> PyResult<PyTensor> {
        self.with(py, |t| t.flatten(start_dim, end_dim))
    }

    /// All elements along one axis.
    fn ravel(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, |t| t.reshape(&[-1]))
    }

    /// An axis as several: `unflatten(1, (2, 3))`.
    fn unflatten(&self, py: Python<'_>, dim: isize, sizes: Vec<isize>) -> PyResult<PyTensor> {
        let rank = self.inner.rank() as isize;
        let at = if dim < 0 { dim + rank } else { dim };
        if !(0..rank).contains(&at) {
            return Err(invalid(format!("unflatten: there is no axis {dim} in a tensor of rank {rank}")));
        }
        let mut shape: Vec<isize> = self.inner.shape().iter().map(|&d| d as isize).collect();
        shape.splice(at as usize..at as usize + 1, sizes);
        self.with(py, |t| t.reshape(&shape))
    }

    /// `length` elements of an axis from `start`.
    fn narrow(&self, dim: isize, start: usize, length: usize) -> PyResult<PyTensor> {
        self.inner.check().or_raise()?;
        self.inner.narrow(dim, start, length).or_raise().map(PyTensor::new)
    }

    /// One element of an axis, which is gone then.
    fn select(&self, dim: isize, index: isize) -> PyResult<PyTensor> {
        self.inner.check().or_raise()?;
        super::index::select(&self.inner, dim, index).map(PyTensor::new)
    }

    /// Slices of `dim` at the int32 or int64 indices `index` (rank 1).
    fn index_select(&self, py: Python<'_>, dim: isize, index: &PyTensor) -> PyResult<PyTensor> {
        self.with(py, |t| t.index_select(dim, &index.inner))
    }

    /// One element of an axis per index: `out[i][j] = self[index[i][j]][j]` for axis 0.
    fn gather(&self, py: Python<'_>, dim: isize, index: &PyTensor) -> PyResult<PyTensor> {
        self.with(py, |t| t.gather(dim, &index.inner))
    }

    /// The lower triangle of the last two axes, zero elsewhere.
    #[pyo3(signature = (diagonal=0))]
    fn tril(&self, py: Python<'_>, diagonal: i64) -> PyResult<PyTensor> {
        self.with(py, |t| t.tril(diagonal))
    }

    /// The upper triangle of the last two axes, zero elsewhere.
    #[pyo3(signature = (diagonal=0))]
    fn triu(&self, py: Python<'_>, diagonal: i64) -> PyResult<PyTensor> {
        self.with(py, |t| t.triu(diagonal))
    }

    /// Axes read backwards.
    #[pyo3(signature = (*dims))]
    fn flip(&self, dims: &Bound<'_, PyTuple>) -> PyResult<PyTensor> {
        let dims = convert::size(dims)?;
        self.inner.check().or_raise()?;
        let mut out = self.inner.clone();
        for dim in dims {
            out = out.slice(dim, isize::MAX, isize::MIN, -1).or_raise()?;
        }
        Ok(PyTensor::new(out))
    }

    /// Parts of `split_size` (or of the given sizes) along an axis.
    #[pyo3(signature = (split_size, dim=0))]
    fn split<'py>(
        &self,
        py: Python<'py>,
        split_size: &Bound<'py, PyAny>,
        dim: isize,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let length = self.length(dim, "split")?;
        let sizes = match split_size.extract::<usize>() {
            Ok(0) => return Err(invalid("split: the size of the parts is 0; give 1 or more")),
            Ok(n) => (0..length.max(1)).step_by(n).map(|at| n.min(length - at)).collect(),
            Err(_) => split_size.extract::<Vec<usize>>()?,
        };
        if sizes.iter().sum::<usize>() != length {
            return Err(invalid(format!("split: the sizes {sizes:?} do not add up to {length}")));
        }
        self.parts(py, &sizes, dim)
    }

    /// As many equal parts along an axis, the last one shorter if need be.
    #[pyo3(signature = (chunks, dim=0))]
    fn chunk<'py>(&self, py: Python<'py>, chunks: usize, dim: isize) -> PyResult<Bound<'py, PyTuple>> {
        let length = self.length(dim, "chunk")?;
        if chunks == 0 {
            return Err(invalid("chunk: 0 parts; give 1 or more"));
        }
        let n = length.div_ceil(chunks).max(1);
        let sizes: Vec<usize> = (0..length.max(1)).step_by(n).map(|at| n.min(length - at)).collect();
        self.parts(py, &sizes, dim)
    }

    /// The elements of an axis, one by one.
    #[pyo3(signature = (dim=0))]
    fn unbind<'py>(&self, py: Python<'py>, dim: isize) -> PyResult<Bound<'py, PyTuple>> {
        let length = self.length(dim, "unbind")?;
        let parts = (0..length as isize)
            .map(|i| super::index::select(&self.inner, dim, i).map(PyTensor::new)?.into_pyobject(py))
            .collect::<PyResult<Vec<_>>>()?;
        PyTuple::new(py, parts)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.inner.rank() == 0 {
            return Err(pyo3::exceptions::PyTypeError::new_err(
                "a tensor of rank 0 has nothing to go through",
            ));
        }
        Ok(self.unbind(py, 0)?.into_any().try_iter()?.into_any())
    }
}

impl PyTensor {
    fn length(&self, dim: isize, name: &str) -> PyResult<usize> {
        self.inner.check().or_raise()?;
        let rank = self.inner.rank() as isize;
        let at = if dim < 0 { dim + rank } else { dim };
        usize::try_from(at).ok().and_then(|at| self.inner.shape().get(at).copied()).ok_or_else(|| {
            crate::errors::out_of_range(format!("{name}: there is no axis {dim} in a tensor of rank {rank}"))
        })
    }

    fn parts<'py>(&self, py: Python<'py>, sizes: &[usize], dim: isize) -> PyResult<Bound<'py, PyTuple>> {
        let mut at = 0;
        let parts = sizes
            .iter()
            .map(|&n| {
                let part = self.inner.narrow(dim, at, n).or_raise()?;
                at += n;
                PyTensor::new(part).into_pyobject(py)
            })
            .collect::<PyResult<Vec<_>>>()?;
        PyTuple::new(py, parts)
    }
}

/// The tensors of a list or tuple.
fn several<'py>(tensors: &Bound<'py, PyAny>, name: &str) -> PyResult<Vec<Bound<'py, PyTensor>>> {
    tensors
        .try_iter()?
        .map(|item| {
            let item = item?;
            item.cast_into::<PyTensor>()
                .map_err(|e| pyo3::exceptions::PyTypeError::new_err(format!("{name}: needs Tensors: {e}")))
        })
        .collect()
}

/// Tensors joined along an axis; their other axes agree.
#[pyfunction]
#[pyo3(signature = (tensors, dim=0))]
pub(crate) fn cat(tensors: &Bound<'_, PyAny>, dim: isize) -> PyResult<PyTensor> {
    let list = several(tensors, "cat")?;
    let refs: Vec<&Tensor> = list.iter().map(|t| &t.get().inner).collect();
    released(tensors.py(), || Tensor::concat(&refs, dim)).map(PyTensor::new)
}

/// Tensors of one shape joined along a new axis.
#[pyfunction]
#[pyo3(signature = (tensors, dim=0))]
pub(crate) fn stack(tensors: &Bound<'_, PyAny>, dim: isize) -> PyResult<PyTensor> {
    let list = several(tensors, "stack")?;
    let refs: Vec<&Tensor> = list.iter().map(|t| &t.get().inner).collect();
    released(tensors.py(), || Tensor::stack(&refs, dim)).map(PyTensor::new)
}

/// A border added to (or, with negative numbers, taken off) the last axes: `pad(x, (left, right, top, bottom))`. `mode` is "constant",
/// "reflect", "replicate" or "circular".
#[pyfunction]
#[pyo3(signature = (input, pad, mode="constant", value=0.0))]
pub(crate) fn pad(
    input: &Bound<'_, PyTensor>,
    pad: Vec<isize>,
    mode: &str,
    value: f64,
) -> PyResult<PyTensor> {
    let inner = &input.get().inner;
    let rank = inner.rank();
    if !pad.len().is_multiple_of(2) || pad.len() / 2 > rank {
        return Err(invalid(format!(
            "pad: {} numbers for a tensor of rank {rank}; give two an axis",
            pad.len()
        )));
    }
    let mode = match mode {
        "constant" => PadMode::Constant(streampool::Scalar::from_f64(inner.dtype(), value)),
        "reflect" => PadMode::Reflect,
        "replicate" => PadMode::Edge,
        "circular" => PadMode::Wrap,
        other => {
            return Err(invalid(format!(
                "pad: there is no mode '{other}'; there are constant, reflect, replicate, circular"
            )));
        }
    };
    let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
    for (i, pair) in pad.chunks_exact(2).enumerate() {
        (before[rank - 1 - i], after[rank - 1 - i]) = (pair[0], pair[1]);
    }
    let op = Op::Pad(Pad { mode, before, after });
    released(input.py(), || apply1("pad", op, &[Operand::Tensor(inner)])).map(PyTensor::new)
}

/// Tensors repeated without a copy to one shape.
#[pyfunction]
#[pyo3(signature = (*tensors))]
pub(crate) fn broadcast_tensors<'py>(tensors: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyList>> {
    let list = several(tensors.as_any(), "broadcast_tensors")?;
    let mut shape = streampool::Shape::default();
    for t in &list {
        shape = shape.broadcast(&t.get().inner.shape()).or_raise()?;
    }
    let wide = list
        .iter()
        .map(|t| PyTensor::new(t.get().inner.expand(shape.clone()).or_raise()?).into_pyobject(tensors.py()))
        .collect::<PyResult<Vec<_>>>()?;
    PyList::new(tensors.py(), wide)
}
