//! `tensor[...]`.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyEllipsis, PyInt, PyList, PySlice, PyTuple};
use streampool::{DType, Tensor};

use super::PyTensor;
use crate::errors::{OrRaise, invalid, out_of_range, unsupported};
use crate::lock::released;

/// One element of `dim`, which is gone then.
pub(crate) fn select(t: &Tensor, dim: isize, index: isize) -> PyResult<Tensor> {
    let rank = t.rank() as isize;
    let at = if dim < 0 { dim + rank } else { dim };
    if !(0..rank).contains(&at) {
        return Err(out_of_range(format!("there is no axis {dim} in a tensor of rank {rank}")));
    }
    let length = t.shape()[at as usize] as isize;
    let i = if index < 0 { index + length } else { index };
    if !(0..length).contains(&i) {
        return Err(out_of_range(format!("index {index} is out of range for axis {at} of length {length}")));
    }
    t.narrow(at, i as usize, 1).and_then(|t| t.squeeze(at)).or_raise()
}

/// What one part of an index is.
enum Part {
    Int(isize),
    Slice(isize, isize, isize),
    NewAxis,
    Ellipsis,
    Indices(Tensor),
    /// Indices made of a mask, and how many axes it covers.
    Mask(Tensor, usize),
    Bool,
}

fn part(item: &Bound<'_, PyAny>, t: &Tensor) -> PyResult<Part> {
    let py = item.py();
    if item.is_none() {
        return Ok(Part::NewAxis);
    }
    if item.is_instance_of::<PyEllipsis>() {
        return Ok(Part::Ellipsis);
    }
    if item.is_instance_of::<PyBool>() {
        return Ok(Part::Bool);
    }
    if let Ok(slice) = item.cast::<PySlice>() {
        let get = |name: &str| -> PyResult<Option<isize>> {
            let value = slice.getattr(name)?;
            if value.is_none() { Ok(None) } else { Ok(Some(clipped(&value)?)) }
        };
        let step = get("step")?.unwrap_or(1);
        let (start, stop) = if step >= 0 { (0, isize::MAX) } else { (isize::MAX, isize::MIN) };
        return Ok(Part::Slice(get("start")?.unwrap_or(start), get("stop")?.unwrap_or(stop), step));
    }
    if item.is_instance_of::<PyInt>() {
        return Ok(Part::Int(clipped(item)?));
    }
    let indices = if let Ok(tensor) = item.cast::<PyTensor>() {
        tensor.get().inner.clone()
    } else if item.is_instance_of::<PyList>() || crate::numpy_array::as_array(item).is_some() {
        crate::convert::copy_of(item, None, &t.device())?
    } else if let Ok(i) = item.call_method0("__index__") {
        return Ok(Part::Int(clipped(&i)?));
    } else {
        return Err(pyo3::exceptions::PyTypeError::new_err(format!(
            "an index is made of ints, slices, None, ..., and tensors of ints or bools, not of {}",
            item.get_type().name()?
        )));
    };
    match indices.dtype() {
        DType::Bool => {
            // How many are chosen is known on the host only.
            let (shape, rank) = (indices.shape(), indices.rank());
            let host = released(py, || indices.to_host())?;
            let chosen: Vec<i64> =
                host.bytes().iter().enumerate().filter(|(_, b)| **b != 0).map(|(i, _)| i as i64).collect();
            let device = t.device();
            let indices = released(py, || Tensor::from_slice(&device, &chosen, [chosen.len()]))?;
            if rank == 0 || rank > t.rank() || shape[..] != t.shape()[..rank] {
                return Err(out_of_range(format!(
                    "a mask of shape {shape} does not cover the first axes of a tensor of shape {}",
                    t.shape()
                )));
            }
            Ok(Part::Mask(indices, rank))
        }
        DType::I32 | DType::I64 => Ok(Part::Indices(indices)),
        DType::I8 | DType::U8 => Ok(Part::Indices(released(py, || indices.cast(DType::I64))?)),
        other => Err(out_of_range(format!("a tensor of {other} is no index; convert it to int64 or bool"))),
    }
}

/// An int of Python's, cut to what fits: slices may have any.
fn clipped(ob: &Bound<'_, PyAny>) -> PyResult<isize> {
    match ob.extract::<isize>() {
        Ok(i) => Ok(i),
        Err(_) if ob.is_instance_of::<PyInt>() => Ok(if ob.lt(0)? { isize::MIN } else { isize::MAX }),
        Err(e) => Err(e),
    }
}

#[pymethods]
impl PyTensor {
    /// Ints, slices, None and `...` give views; one tensor, array or list of ints or bools gathers.
    ///
    /// Raises:
    ///     OutOfRange: an index is out of range; also an IndexError.
    ///     Unsupported: several tensors of indices.
    fn __getitem__(slf: &Bound<'_, Self>, index: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        let py = slf.py();
        let inner = &slf.get().inner;
        inner.check().or_raise()?;
        let items: Vec<Bound<'_, PyAny>> = match index.cast::<PyTuple>() {
            Ok(tuple) => tuple.iter().collect(),
            Err(_) => vec![index.clone()],
        };
        let parts = items.iter().map(|item| part(item, inner)).collect::<PyResult<Vec<_>>>()?;
        let covered: usize = parts
            .iter()
            .map(|p| match p {
                Part::Int(_) | Part::Slice(..) | Part::Indices(_) => 1,
                Part::Mask(_, rank) => *rank,
                Part::NewAxis | Part::Ellipsis | Part::Bool => 0,
            })
            .sum();
        if parts.iter().filter(|p| matches!(p, Part::Ellipsis)).count() > 1 {
            return Err(out_of_range("an index has one '...' at most"));
        }
        if parts.iter().any(|p| matches!(p, Part::Bool)) {
            return Err(unsupported("a bool is no index here; use a tensor of bools as a mask, or slice"));
        }
        if parts.iter().filter(|p| matches!(p, Part::Indices(_) | Part::Mask(..))).count() > 1 {
            return Err(unsupported(
                "several tensors of indices in one index; index step by step, or use gather or index_select",
            ));
        }
        if covered > inner.rank() {
            return Err(out_of_range(format!(
                "{covered} indices for a tensor of rank {}, shape {}",
                inner.rank(),
                inner.shape()
            )));
        }
        if parts.iter().any(|p| matches!(p, Part::Mask(..))) && !matches!(parts[0], Part::Mask(..)) {
            return Err(unsupported(
                "a mask comes first in an index; move its axes to the front with permute",
            ));
        }
        let mut out = inner.clone();
        let mut axis: isize = 0;
        for p in parts {
            match p {
                Part::Int(i) => out = select(&out, axis, i)?,
                Part::Slice(start, stop, step) => {
                    out = out.slice(axis, start, stop, step).or_raise()?;
                    axis += 1;
                }
                Part::NewAxis => {
                    out = out.unsqueeze(axis).or_raise()?;
                    axis += 1;
                }
                Part::Ellipsis => axis += (inner.rank() - covered) as isize,
                Part::Indices(indices) => {
                    out = released(py, || out.index_select(axis, &indices))?;
                    axis += indices.rank() as isize;
                }
                Part::Mask(indices, rank) => {
                    out = released(py, || out.flatten(0, rank as isize - 1)?.index_select(0, &indices))?;
                    axis += 1;
                }
                Part::Bool => return Err(invalid("a bool is no index")),
            }
        }
        Ok(PyTensor::new(out))
    }
}
