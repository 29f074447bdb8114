//! What Python values mean as arguments.

use numpy::PyUntypedArray;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyTuple};
use smallvec::SmallVec;
use streampool::{DType, Device, Number, Tensor};

use crate::errors::{invalid, invalid_because};
use crate::numpy_array;
use crate::tensor::PyTensor;

/// A Python or NumPy number, if it is one.
pub(crate) fn number(ob: &Bound<'_, PyAny>) -> PyResult<Option<Number>> {
    if let Ok(b) = ob.cast::<PyBool>() {
        return Ok(Some(Number::Bool(b.is_true())));
    }
    if let Ok(x) = ob.cast::<PyFloat>() {
        return Ok(Some(Number::Float(x.value())));
    }
    if ob.is_instance_of::<PyInt>() {
        return match ob.extract::<i64>() {
            Ok(i) => Ok(Some(Number::Int(i))),
            Err(_) => Err(invalid(format!("{ob} does not fit int64"))),
        };
    }
    // NumPy's scalars.
    if numpy_array::as_array(ob).is_none()
        && ob.cast::<PyTensor>().is_err()
        && let Ok(dtype) = ob.getattr("dtype")
        && let Ok(item) = ob.call_method0("item")
    {
        let _ = dtype;
        return if item.is_instance_of::<PyFloat>() || item.is_instance_of::<PyInt>() {
            number(&item)
        } else {
            Ok(None)
        };
    }
    Ok(None)
}

/// A size: lengths one by one, or one sequence of them.
pub(crate) fn size(args: &Bound<'_, PyTuple>) -> PyResult<SmallVec<[isize; 6]>> {
    let one = args.len() == 1;
    if one && args.get_item(0)?.extract::<isize>().is_err() {
        return lengths(&args.get_item(0)?);
    }
    lengths(args.as_any())
}

fn lengths(ob: &Bound<'_, PyAny>) -> PyResult<SmallVec<[isize; 6]>> {
    let items = ob.try_iter().map_err(|_| {
        invalid(format!(
            "a size is a sequence of ints, got {}",
            ob.get_type().name().map_or_else(|_| "?".into(), |n| n.to_string())
        ))
    })?;
    items
        .map(|item| {
            let item = item?;
            item.extract::<isize>().map_err(|_| invalid(format!("a length is an int, got {item}")))
        })
        .collect()
}

/// [`size`] without negative lengths.
pub(crate) fn shape(args: &Bound<'_, PyTuple>) -> PyResult<SmallVec<[usize; 6]>> {
    size(args)?
        .into_iter()
        .map(|d| usize::try_from(d).map_err(|_| invalid(format!("a length is 0 or more, got {d}"))))
        .collect()
}

/// Axes: one int, a sequence, or None for all.
pub(crate) fn axes(ob: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<isize>> {
    match ob.filter(|ob| !ob.is_none()) {
        None => Ok(Vec::new()),
        Some(ob) => match ob.extract::<isize>() {
            Ok(axis) => Ok(vec![axis]),
            Err(_) => {
                ob.extract::<Vec<isize>>().map_err(|_| invalid(format!("dim is an int or ints, got {ob}")))
            }
        },
    }
}

/// A tensor, or what can be made one on `device`: an array or a number.
pub(crate) fn tensor_on(ob: &Bound<'_, PyAny>, device: &Device) -> PyResult<Option<Tensor>> {
    if let Ok(tensor) = ob.cast::<PyTensor>() {
        return Ok(Some(tensor.get().inner.clone()));
    }
    if let Some(array) = numpy_array::as_array(ob) {
        return numpy_array::copy_to_tensor(array, device).map(Some);
    }
    match number(ob)? {
        Some(n) => {
            crate::lock::released(ob.py(), || Tensor::full_number(device, [], n, n.default_dtype())).map(Some)
        }
        None => Ok(None),
    }
}

/// [`tensor_on`]; other things are an error.
pub(crate) fn need_tensor(ob: &Bound<'_, PyAny>, device: &Device, name: &str) -> PyResult<Tensor> {
    tensor_on(ob, device)?.ok_or_else(|| {
        let kind = ob.get_type().name().map_or_else(|_| "?".to_owned(), |n| n.to_string());
        pyo3::exceptions::PyTypeError::new_err(format!(
            "{name}: needs a Tensor, an array or a number, got {kind}"
        ))
    })
}

/// Anything that is to become a tensor: nested lists, numbers, arrays, buffers, tensors. Always a copy.
pub(crate) fn copy_of(ob: &Bound<'_, PyAny>, dtype: Option<DType>, device: &Device) -> PyResult<Tensor> {
    let py = ob.py();
    let cast = |t: Tensor| match dtype {
        Some(dtype) if dtype != t.dtype() => crate::lock::released(py, || t.cast(dtype)),
        _ => Ok(t),
    };
    if let Ok(tensor) = ob.cast::<PyTensor>() {
        let inner = &tensor.get().inner;
        return cast(crate::lock::released(py, || inner.to_device(device))?);
    }
    if let Some(array) = numpy_array::as_array(ob) {
        return cast(numpy_array::copy_to_tensor(array, device)?);
    }
    let is_array_like =
        ob.hasattr("__array_interface__")? || ob.hasattr("__array__")? || ob.hasattr("dtype")?;
    let array = numpy_array::module(py)?
        .call_method1("asarray", (ob,))
        .map_err(|e| invalid_because(py, "tensor: these values make no array", e))?;
    let array = array.cast::<PyUntypedArray>()?;
    let tensor = numpy_array::copy_to_tensor(array, device)?;
    // Python's floats become float32, as in PyTorch; arrays keep their dtype.
    if dtype.is_none() && !is_array_like && tensor.dtype() == DType::F64 {
        return crate::lock::released(py, || tensor.cast(DType::F32));
    }
    cast(tensor)
}
