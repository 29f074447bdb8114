//! Parameters of layers: tensors that are frozen, so that each device packs them once.

use pyo3::prelude::*;
use streampool::ops::{Operand, Weight};
use streampool::{Device, Tensor};

use crate::device::parse;
use crate::dtype::parse as parse_dtype;
use crate::lock::released;
use crate::tensor::PyTensor;

/// A layer's parameter: a tensor whose elements are frozen. All threads share it, each device packs it once for the operation that
/// reads it. `Parameter(data)` takes a tensor or what `tensor()` takes.
#[pyclass(frozen, extends = PyTensor, name = "Parameter", module = "streampool.nn")]
pub(crate) struct PyParameter {
    pub(crate) weight: Weight,
}

/// The bytes of a weight as the memory of a tensor.
struct Frozen(Weight);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// A tensor of a weight's elements: around them, where the device reads host memory.
fn tensor_of(weight: &Weight, device: &Device) -> streampool::Result<Tensor> {
    let ty = weight.ty();
    Tensor::from_owner(device, ty.dtype, &ty.shape, &ty.shape.strides(), 0, Frozen(weight.clone()))
}

impl PyParameter {
    fn make<'py>(py: Python<'py>, weight: Weight, device: &Device) -> PyResult<Bound<'py, Self>> {
        let tensor = released(py, || tensor_of(&weight, device))?;
        Bound::new(py, PyClassInitializer::from(PyTensor::new(tensor)).add_subclass(Self { weight }))
    }
}

#[pymethods]
impl PyParameter {
    #[new]
    #[pyo3(signature = (data, requires_grad=false, *, device=None, dtype=None))]
    fn new(
        data: &Bound<'_, PyAny>,
        requires_grad: bool,
        device: Option<&Bound<'_, PyAny>>,
        dtype: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let _ = requires_grad; // PyTorch's argument; nothing here is differentiated
        let py = data.py();
        let device = match data.cast::<PyTensor>() {
            Ok(tensor) if device.is_none() => tensor.get().inner.device(),
            _ => parse(device)?,
        };
        let dtype = dtype.map(parse_dtype).transpose()?;
        let tensor = crate::convert::copy_of(data, dtype, &device)?;
        let (tensor, weight) = released(py, || {
            let weight = Weight::new(&tensor.to_host()?);
            Ok((tensor_of(&weight, &device)?, weight))
        })?;
        Ok(PyClassInitializer::from(PyTensor::new(tensor)).add_subclass(Self { weight }))
    }

    /// The same parameter on another device, or of another dtype; itself if it is so already.
    #[pyo3(name = "_moved", signature = (device=None, dtype=None))]
    fn moved<'py>(
        slf: &Bound<'py, Self>,
        device: Option<&Bound<'py, PyAny>>,
        dtype: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let inner = &slf.as_super().get().inner;
        let device = match device.filter(|d| !d.is_none()) {
            Some(device) => parse(Some(device))?,
            None => inner.device(),
        };
        let dtype = dtype.filter(|d| !d.is_none()).map(parse_dtype).transpose()?.unwrap_or(inner.dtype());
        if dtype == inner.dtype() {
            return if inner.is_on(&device) {
                Ok(slf.clone())
            } else {
                Self::make(py, slf.get().weight.clone(), &device)
            };
        }
        let weight = released(py, || Ok(Weight::new(&inner.cast(dtype)?.to_host()?)))?;
        Self::make(py, weight, &device)
    }
}

/// What an operation reads: the frozen form of a parameter.
pub(crate) fn operand<'a>(tensor: &'a Bound<'_, PyTensor>) -> Operand<'a> {
    match tensor.cast::<PyParameter>() {
        Ok(parameter) => Operand::Weight(&parameter.get().weight),
        Err(_) => Operand::Tensor(&tensor.get().inner),
    }
}

/// [`operand`], a matrix read transposed.
pub(crate) fn transposed<'a>(tensor: &'a Bound<'_, PyTensor>) -> Option<Operand<'a>> {
    tensor.cast::<PyParameter>().ok().map(|parameter| Operand::Transposed(&parameter.get().weight))
}
