//! Functions that make tensors.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use streampool::{DType, Device, Number, Tensor};

use crate::convert::{copy_of, number, shape};
use crate::errors::invalid;
use crate::generator::{PyGenerator, parse as parse_generator};
use crate::lock::released;
use crate::numpy_array;
use crate::tensor::PyTensor;
use crate::{device, dtype};

type Any<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

fn dtype_or(dtype: Any<'_, '_>, default: DType) -> PyResult<DType> {
    dtype.filter(|d| !d.is_none()).map_or(Ok(default), dtype::parse)
}

fn filled(
    py: Python<'_>,
    device: &Device,
    shape: &[usize],
    value: Number,
    dtype: DType,
) -> PyResult<PyTensor> {
    released(py, || Tensor::full_number(device, shape, value, dtype)).map(PyTensor::new)
}

/// Normal random numbers, mean 0, standard deviation 1: `randn(2, 3)`. float32 unless told otherwise.
#[pyfunction]
#[pyo3(signature = (*size, dtype=None, device=None, generator=None, requires_grad=false))]
fn randn(
    size: &Bound<'_, PyTuple>,
    dtype: Any<'_, '_>,
    device: Any<'_, '_>,
    generator: Option<&Bound<'_, PyGenerator>>,
    requires_grad: bool,
) -> PyResult<PyTensor> {
    let _ = requires_grad;
    let (shape, dtype, device) = (shape(size)?, dtype_or(dtype, DType::F32)?, device::parse(device)?);
    let generator = parse_generator(generator);
    released(size.py(), || Tensor::randn(&device, &*shape, dtype, &generator)).map(PyTensor::new)
}

/// Uniform random numbers in [0, 1): `rand(2, 3)`. float32 unless told otherwise.
#[pyfunction]
#[pyo3(signature = (*size, dtype=None, device=None, generator=None))]
fn rand(
    size: &Bound<'_, PyTuple>,
    dtype: Any<'_, '_>,
    device: Any<'_, '_>,
    generator: Option<&Bound<'_, PyGenerator>>,
) -> PyResult<PyTensor> {
    let (shape, dtype, device) = (shape(size)?, dtype_or(dtype, DType::F32)?, device::parse(device)?);
    let generator = parse_generator(generator);
    released(size.py(), || Tensor::rand(&device, &*shape, dtype, &generator)).map(PyTensor::new)
}

/// Random integers in [low, high): `randint(low, high, size)` or `randint(high, size)`. int64 unless told otherwise.
#[pyfunction]
#[pyo3(signature = (*args, dtype=None, device=None, generator=None))]
fn randint(
    args: &Bound<'_, PyTuple>,
    dtype: Any<'_, '_>,
    device: Any<'_, '_>,
    generator: Option<&Bound<'_, PyGenerator>>,
) -> PyResult<PyTensor> {
    let py = args.py();
    let (low, high, size) = match args.len() {
        2 => (0, args.get_item(0)?.extract::<i64>()?, args.get_item(1)?),
        3 => (args.get_item(0)?.extract::<i64>()?, args.get_item(1)?.extract::<i64>()?, args.get_item(2)?),
        _ => return Err(invalid("randint: give (high, size) or (low, high, size)")),
    };
    if low >= high {
        return Err(invalid(format!("randint: there is no integer from {low} to below {high}")));
    }
    let shape = shape(&PyTuple::new(py, [size])?)?;
    let (dtype, device) = (dtype_or(dtype, DType::I64)?, device::parse(device)?);
    let generator = parse_generator(generator);
    released(py, || {
        let unit = Tensor::rand(&device, &*shape, DType::F64, &generator)?;
        let span = high as f64 - low as f64;
        unit.mul_scalar(span)?
            .floor()?
            .add_scalar(low as f64)?
            .clamp(low as f64, high as f64 - 1.0)?
            .cast(dtype)
    })
    .map(PyTensor::new)
}

/// A random order of 0 to n - 1. int64.
#[pyfunction]
#[pyo3(signature = (n, *, device=None, generator=None))]
fn randperm(
    py: Python<'_>,
    n: usize,
    device: Any<'_, '_>,
    generator: Option<&Bound<'_, PyGenerator>>,
) -> PyResult<PyTensor> {
    let (device, generator) = (device::parse(device)?, parse_generator(generator));
    released(py, || {
        let keys = Tensor::rand(&device, [n], DType::F64, &generator)?;
        Ok(keys.topk(n, 0, false)?.1)
    })
    .map(PyTensor::new)
}

/// 0 everywhere: `zeros(2, 3)`. float32 unless told otherwise.
#[pyfunction]
#[pyo3(signature = (*size, dtype=None, device=None))]
fn zeros(size: &Bound<'_, PyTuple>, dtype: Any<'_, '_>, device: Any<'_, '_>) -> PyResult<PyTensor> {
    let dtype = dtype_or(dtype, DType::F32)?;
    filled(size.py(), &device::parse(device)?, &shape(size)?, Number::Int(0), dtype)
}

/// 1 everywhere: `ones(2, 3)`. float32 unless told otherwise.
#[pyfunction]
#[pyo3(signature = (*size, dtype=None, device=None))]
fn ones(size: &Bound<'_, PyTuple>, dtype: Any<'_, '_>, device: Any<'_, '_>) -> PyResult<PyTensor> {
    let dtype = dtype_or(dtype, DType::F32)?;
    filled(size.py(), &device::parse(device)?, &shape(size)?, Number::Int(1), dtype)
}

/// Tensors are immutable, so an empty one is of no use but for its shape: its elements are 0.
#[pyfunction]
#[pyo3(signature = (*size, dtype=None, device=None))]
fn empty(size: &Bound<'_, PyTuple>, dtype: Any<'_, '_>, device: Any<'_, '_>) -> PyResult<PyTensor> {
    zeros(size, dtype, device)
}

/// One value everywhere: `full((2, 3), 7)`. The dtype is the value's unless told otherwise.
#[pyfunction]
#[pyo3(signature = (size, fill_value, *, dtype=None, device=None))]
fn full(
    size: &Bound<'_, PyAny>,
    fill_value: &Bound<'_, PyAny>,
    dtype: Any<'_, '_>,
    device: Any<'_, '_>,
) -> PyResult<PyTensor> {
    let py = size.py();
    let value = number(fill_value)?
        .ok_or_else(|| invalid(format!("full: the value is a number, got {fill_value}")))?;
    let dtype = dtype_or(dtype, value.default_dtype())?;
    filled(py, &device::parse(device)?, &shape(&PyTuple::new(py, [size])?)?, value, dtype)
}

fn like(
    tensor: &Bound<'_, PyTensor>,
    value: Number,
    dtype: Any<'_, '_>,
    device: Any<'_, '_>,
) -> PyResult<PyTensor> {
    let inner = &tensor.get().inner;
    let device = match device.filter(|d| !d.is_none()) {
        Some(device) => device::parse(Some(device))?,
        None => inner.device(),
    };
    filled(tensor.py(), &device, &inner.shape(), value, dtype_or(dtype, inner.dtype())?)
}

/// 0 everywhere, of another tensor's shape, dtype and device.
#[pyfunction]
#[pyo3(signature = (input, *, dtype=None, device=None))]
fn zeros_like(input: &Bound<'_, PyTensor>, dtype: Any<'_, '_>, device: Any<'_, '_>) -> PyResult<PyTensor> {
    like(input, Number::Int(0), dtype, device)
}

/// 1 everywhere, of another tensor's shape, dtype and device.
#[pyfunction]
#[pyo3(signature = (input, *, dtype=None, device=None))]
fn ones_like(input: &Bound<'_, PyTensor>, dtype: Any<'_, '_>, device: Any<'_, '_>) -> PyResult<PyTensor> {
    like(input, Number::Int(1), dtype, device)
}

/// One value everywhere, of another tensor's shape, dtype and device.
#[pyfunction]
#[pyo3(signature = (input, fill_value, *, dtype=None, device=None))]
fn full_like(
    input: &Bound<'_, PyTensor>,
    fill_value: &Bound<'_, PyAny>,
    dtype: Any<'_, '_>,
    device: Any<'_, '_>,
) -> PyResult<PyTensor> {
    let value = number(fill_value)?
        .ok_or_else(|| invalid(format!("full_like: the value is a number, got {fill_value}")))?;
    like(input, value, dtype, device)
}

/// Normal random numbers of another tensor's shape, dtype and device.
#[pyfunction]
#[pyo3(signature = (input, *, generator=None))]
fn randn_like(input: &Bound<'_, PyTensor>, generator: Option<&Bound<'_, PyGenerator>>) -> PyResult<PyTensor> {
    let inner = &input.get().inner;
    let generator = parse_generator(generator);
    released(input.py(), || Tensor::randn(&inner.device(), inner.shape(), inner.dtype(), &generator))
        .map(PyTensor::new)
}

/// `start`, `start + step`, ... below `end`: `arange(end)`, `arange(start, end)`, `arange(start, end, step)`. int64 if all are ints, else
/// float32.
#[pyfunction]
#[pyo3(signature = (*args, dtype=None, device=None))]
fn arange(args: &Bound<'_, PyTuple>, dtype: Any<'_, '_>, device: Any<'_, '_>) -> PyResult<PyTensor> {
    let mut n = Vec::with_capacity(3);
    for arg in args {
        n.push(
            number(&arg)?
                .ok_or_else(|| invalid(format!("arange: bounds and step are numbers, got {arg}")))?,
        );
    }
    let float = |n: Number| match n {
        Number::Bool(b) => f64::from(u8::from(b)),
        Number::Int(i) => i as f64,
        Number::Float(x) => x,
    };
    let ints = n.iter().all(|n| !matches!(n, Number::Float(_)));
    let (start, end, step) = match n[..] {
        [end] => (0.0, float(end), 1.0),
        [start, end] => (float(start), float(end), 1.0),
        [start, end, step] => (float(start), float(end), float(step)),
        _ => return Err(invalid("arange: give (end), (start, end) or (start, end, step)")),
    };
    let dtype = dtype_or(dtype, if ints { DType::I64 } else { DType::F32 })?;
    let device = device::parse(device)?;
    released(args.py(), || Tensor::arange(&device, start, end, step, dtype)).map(PyTensor::new)
}

/// `steps` numbers from `start` to `end`, both included. float32 unless told otherwise.
#[pyfunction]
#[pyo3(signature = (start, end, steps, *, dtype=None, device=None))]
fn linspace(
    py: Python<'_>,
    start: f64,
    end: f64,
    steps: usize,
    dtype: Any<'_, '_>,
    device: Any<'_, '_>,
) -> PyResult<PyTensor> {
    let (dtype, device) = (dtype_or(dtype, DType::F32)?, device::parse(device)?);
    let step = if steps > 1 { (end - start) / (steps - 1) as f64 } else { 0.0 };
    released(py, || {
        let i = Tensor::arange(&device, 0.0, steps as f64, 1.0, DType::F64)?;
        i.mul_scalar(step)?.add_scalar(start)?.cast(dtype)
    })
    .map(PyTensor::new)
}

/// Ones on the main diagonal of an (n, n) or (n, m) matrix. float32 unless told otherwise.
#[pyfunction]
#[pyo3(signature = (n, m=None, *, dtype=None, device=None))]
fn eye(
    py: Python<'_>,
    n: usize,
    m: Option<usize>,
    dtype: Any<'_, '_>,
    device: Any<'_, '_>,
) -> PyResult<PyTensor> {
    let (dtype, device) = (dtype_or(dtype, DType::F32)?, device::parse(device)?);
    released(py, || {
        let Some(m) = m else { return Tensor::eye(&device, n, dtype) };
        streampool::Shape::from([n, m]).checked_len()?;
        let i = Tensor::arange(&device, 0.0, n as f64, 1.0, DType::I64)?.unsqueeze(1)?;
        let j = Tensor::arange(&device, 0.0, m as f64, 1.0, DType::I64)?.unsqueeze(0)?;
        i.eq(&j)?.cast(dtype)
    })
    .map(PyTensor::new)
}

/// A tensor of numbers, nested lists of them, an array or a tensor; always a copy. Python's floats become float32, its ints int64; arrays
/// keep their dtype.
///
/// Raises:
///     InvalidArgument: the values make no array of numbers.
#[pyfunction]
#[pyo3(signature = (data, *, dtype=None, device=None, requires_grad=false))]
fn tensor(
    data: &Bound<'_, PyAny>,
    dtype: Any<'_, '_>,
    device: Any<'_, '_>,
    requires_grad: bool,
) -> PyResult<PyTensor> {
    let _ = requires_grad;
    let dtype = dtype.filter(|d| !d.is_none()).map(dtype::parse).transpose()?;
    copy_of(data, dtype, &device::parse(device)?).map(PyTensor::new)
}

/// A tensor of an array, or the tensor itself; copied only if the dtype or device asks for it.
#[pyfunction]
#[pyo3(signature = (data, *, dtype=None, device=None))]
fn as_tensor(data: &Bound<'_, PyAny>, dtype: Any<'_, '_>, device: Any<'_, '_>) -> PyResult<PyTensor> {
    let dtype = dtype.filter(|d| !d.is_none()).map(dtype::parse).transpose()?;
    let device = match data.cast::<PyTensor>() {
        Ok(tensor) if device.is_none() => tensor.get().inner.device(),
        _ => device::parse(device)?,
    };
    if let Some(array) = numpy_array::as_array(data) {
        let shared = numpy_array::to_tensor(array, &device)?;
        return released(data.py(), || dtype.map_or(Ok(shared.clone()), |d| shared.cast(d)))
            .map(PyTensor::new);
    }
    copy_of(data, dtype, &device).map(PyTensor::new)
}

/// A tensor around the memory of an array where the device reads host memory (the CPU does), else a copy. Any strides. The array is not to
/// be written to while the tensor lives; what is written shows in the tensor.
///
/// Raises:
///     InvalidArgument: the elements' dtype is not one of tensors.
#[pyfunction]
#[pyo3(signature = (array, *, device=None))]
fn from_numpy(array: &Bound<'_, PyAny>, device: Any<'_, '_>) -> PyResult<PyTensor> {
    match numpy_array::as_array(array) {
        Some(array) => numpy_array::to_tensor(array, &device::parse(device)?).map(PyTensor::new),
        None => Err(pyo3::exceptions::PyTypeError::new_err(format!(
            "from_numpy: needs a numpy.ndarray, got {}; use tensor() for lists and numbers",
            array.get_type().name()?
        ))),
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(randn, m)?)?;
    m.add_function(wrap_pyfunction!(rand, m)?)?;
    m.add_function(wrap_pyfunction!(randint, m)?)?;
    m.add_function(wrap_pyfunction!(randperm, m)?)?;
    m.add_function(wrap_pyfunction!(zeros, m)?)?;
    m.add_function(wrap_pyfunction!(ones, m)?)?;
    m.add_function(wrap_pyfunction!(empty, m)?)?;
    m.add_function(wrap_pyfunction!(full, m)?)?;
    m.add_function(wrap_pyfunction!(zeros_like, m)?)?;
    m.add_function(wrap_pyfunction!(ones_like, m)?)?;
    m.add_function(wrap_pyfunction!(full_like, m)?)?;
    m.add_function(wrap_pyfunction!(randn_like, m)?)?;
    m.add_function(wrap_pyfunction!(arange, m)?)?;
    m.add_function(wrap_pyfunction!(linspace, m)?)?;
    m.add_function(wrap_pyfunction!(eye, m)?)?;
    m.add_function(wrap_pyfunction!(tensor, m)?)?;
    m.add_function(wrap_pyfunction!(as_tensor, m)?)?;
    m.add_function(wrap_pyfunction!(from_numpy, m)?)
}
