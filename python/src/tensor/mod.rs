//! `streampool.Tensor`.

mod index;
mod operators;
mod reductions;
mod views;

pub(crate) use operators::where_fn;
pub(crate) use views::{broadcast_tensors, cat, pad, stack};

use std::ffi::{CStr, CString, c_int, c_void};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use smallvec::SmallVec;
use streampool::{DType, Tensor};

use crate::device::{PyDevice, parse as parse_device};
use crate::dtype::{self, PyDType};
use crate::errors::{OrRaise, invalid};
use crate::lock::released;
use crate::numpy_array;

/// An immutable array on a device, with PyTorch's names. Views, handing it to other threads and dropping it are cheap and safe at any
/// moment: whoever uses it waits, on the device, for what makes it.
#[pyclass(frozen, subclass, name = "Tensor", module = "streampool", weakref)]
pub(crate) struct PyTensor {
    pub(crate) inner: Tensor,
}

impl PyTensor {
    pub(crate) fn new(inner: Tensor) -> Self {
        Self { inner }
    }

    /// One operation on this tensor, without the interpreter lock.
    pub(crate) fn with(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Tensor) -> streampool::Result<Tensor> + Send,
    ) -> PyResult<PyTensor> {
        released(py, || {
            self.inner.check()?;
            work(&self.inner)
        })
        .map(PyTensor::new)
    }
}

#[pymethods]
impl PyTensor {
    /// Axis lengths.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.inner.shape().iter())
    }

    /// All axis lengths, or one.
    #[pyo3(signature = (dim=None))]
    fn size<'py>(&self, py: Python<'py>, dim: Option<isize>) -> PyResult<Bound<'py, PyAny>> {
        let Some(dim) = dim else { return Ok(self.shape(py)?.into_any()) };
        let rank = self.inner.rank() as isize;
        let at = if dim < 0 { dim + rank } else { dim };
        match usize::try_from(at).ok().and_then(|at| self.inner.shape().get(at).copied()) {
            Some(length) => Ok(length.into_pyobject(py)?.into_any()),
            None => {
                Err(crate::errors::out_of_range(format!("there is no axis {dim} in a tensor of rank {rank}")))
            }
        }
    }

    /// Element type.
    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<Py<PyDType>> {
        dtype::object(py, self.inner.dtype())
    }

    /// The device it lives on.
    #[getter]
    fn device(&self) -> PyDevice {
        PyDevice { inner: self.inner.device() }
    }

    /// Number of axes.
    #[getter]
    fn ndim(&self) -> usize {
        self.inner.rank()
    }

    /// Number of axes.
    fn dim(&self) -> usize {
        self.inner.rank()
    }

    /// Number of elements.
    fn numel(&self) -> usize {
        self.inner.numel()
    }

    /// Number of elements.
    fn nelement(&self) -> usize {
        self.inner.numel()
    }

    /// Bytes of one element.
    fn element_size(&self) -> usize {
        self.inner.dtype().size()
    }

    /// Bytes of one element.
    #[getter]
    fn itemsize(&self) -> usize {
        self.inner.dtype().size()
    }

    /// Bytes of all elements.
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.numel() * self.inner.dtype().size()
    }

    /// Step per axis in elements, of all axes or of one.
    #[pyo3(signature = (dim=None))]
    fn stride<'py>(&self, py: Python<'py>, dim: Option<isize>) -> PyResult<Bound<'py, PyAny>> {
        let strides = PyTuple::new(py, self.inner.strides())?;
        match dim {
            None => Ok(strides.into_any()),
            Some(dim) => strides.as_any().get_item(dim),
        }
    }

    /// Whether the elements lie row-major without gaps.
    fn is_contiguous(&self) -> bool {
        self.inner.is_contiguous()
    }

    /// Whether the elements are floats.
    fn is_floating_point(&self) -> bool {
        self.inner.dtype().is_float()
    }

    /// False: nothing here is differentiated.
    #[getter]
    fn requires_grad(&self) -> bool {
        false
    }

    /// Itself.
    #[pyo3(signature = (requires_grad=false))]
    fn requires_grad_(slf: Bound<'_, Self>, requires_grad: bool) -> Bound<'_, Self> {
        let _ = requires_grad;
        slf
    }

    /// Itself: nothing here is differentiated.
    fn detach(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// Waits until the work that makes it is done; an error of that work is an error of this call.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        released(py, || self.inner.wait())
    }

    /// The same elements row-major: itself if it is so already, else a copy.
    fn contiguous(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, Tensor::contiguous)
    }

    /// A copy in memory of its own.
    fn clone(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, Tensor::copy)
    }

    fn __copy__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __deepcopy__<'py>(slf: Bound<'py, Self>, _memo: &Bound<'py, PyAny>) -> Bound<'py, Self> {
        slf
    }

    /// On another device, of another dtype, or both: `to("sim")`, `to(float16)`, `to(device, dtype)`, `to(other)`. Itself if it is
    /// so already.
    #[pyo3(signature = (*args, device=None, dtype=None, non_blocking=false, copy=false))]
    fn to(
        &self,
        args: &Bound<'_, PyTuple>,
        device: Option<&Bound<'_, PyAny>>,
        dtype: Option<&Bound<'_, PyAny>>,
        non_blocking: bool,
        copy: bool,
    ) -> PyResult<PyTensor> {
        let _ = non_blocking; // everything is
        let py = args.py();
        let (mut to_device, mut to_dtype) = (None, None);
        for arg in args.iter().chain(device.cloned()).chain(dtype.cloned()) {
            if let Ok(other) = arg.cast::<PyTensor>() {
                to_device = Some(other.get().inner.device());
                to_dtype = Some(other.get().inner.dtype());
            } else if arg.cast::<PyDevice>().is_ok() {
                to_device = Some(parse_device(Some(&arg))?);
            } else if let Ok(name) = arg.extract::<String>() {
                match dtype::by_name(&name) {
                    Ok(dtype) => to_dtype = Some(dtype),
                    Err(_) => to_device = Some(parse_device(Some(&arg))?),
                }
            } else if !arg.is_none() {
                to_dtype = Some(dtype::parse(&arg)?);
            }
        }
        self.with(py, |t| {
            let mut out = t.clone();
            if let Some(dtype) = to_dtype {
                out = out.cast(dtype)?;
            }
            if let Some(device) = to_device {
                out = out.to_device(&device)?;
            }
            if copy { out.copy() } else { Ok(out) }
        })
    }

    /// Of another dtype.
    fn r#type(&self, dtype: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        let dtype = dtype::parse(dtype)?;
        Python::attach(|py| self.with(py, |t| t.cast(dtype)))
    }

    /// As float32.
    fn float(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::F32))
    }

    /// As float64.
    fn double(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::F64))
    }

    /// As float16.
    fn half(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::F16))
    }

    /// As bfloat16.
    fn bfloat16(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::BF16))
    }

    /// As int32.
    fn int(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::I32))
    }

    /// As int64.
    fn long(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::I64))
    }

    /// As bool: whether not 0.
    fn bool(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::Bool))
    }

    /// On the CPU device that all share.
    fn cpu(&self, py: Python<'_>) -> PyResult<PyTensor> {
        if self.inner.device().info().name == "cpu" {
            return Ok(PyTensor::new(self.inner.clone()));
        }
        let cpu = parse_device(Some(&pyo3::types::PyString::new(py, "cpu")))?;
        self.with(py, |t| t.to_device(&cpu))
    }

    /// As a NumPy array. On the CPU it is the tensor's own memory, read-only; elsewhere, and with `copy`, a copy that may be
    /// written to.
    #[pyo3(signature = (*, copy=false, force=false))]
    fn numpy<'py>(slf: &Bound<'py, Self>, copy: bool, force: bool) -> PyResult<Bound<'py, PyAny>> {
        let _ = force;
        let array = numpy_array::from_tensor(slf)?;
        if copy { array.call_method0("copy") } else { Ok(array) }
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__<'py>(
        slf: &Bound<'py, Self>,
        dtype: Option<&Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let array = numpy_array::from_tensor(slf)?;
        let dtype = dtype.filter(|d| !d.is_none());
        if let Some(dtype) = dtype {
            let dtype = numpy_array::module(slf.py())?.call_method1("dtype", (dtype,))?;
            if !array.getattr("dtype")?.eq(&dtype)? {
                if copy == Some(false) {
                    return Err(pyo3::exceptions::PyValueError::new_err(format!(
                        "a {} tensor cannot be a {dtype} array without a copy",
                        slf.get().inner.dtype()
                    )));
                }
                return array.call_method1("astype", (dtype,));
            }
        }
        if copy == Some(true) { array.call_method0("copy") } else { Ok(array) }
    }

    /// NumPy's operators leave tensors to ours.
    #[classattr]
    fn __array_ufunc__() -> Option<bool> {
        None
    }

    /// The one element of a tensor that has one, as a Python number.
    ///
    /// Raises:
    ///     InvalidArgument: it has another number of elements.
    fn item<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let inner = &slf.get().inner;
        if inner.numel() != 1 {
            return Err(invalid(format!(
                "item: shape {} has {} elements, not one",
                inner.shape(),
                inner.numel()
            )));
        }
        let host = released(slf.py(), || inner.to_host())?;
        let value = host.get(0);
        let py = slf.py();
        Ok(match value.dtype() {
            DType::Bool => (value.to_i64() != 0).into_pyobject(py)?.to_owned().into_any(),
            d if d.is_float() => value.to_f64().into_pyobject(py)?.into_any(),
            _ => value.to_i64().into_pyobject(py)?.into_any(),
        })
    }

    /// The elements as nested lists of Python numbers.
    fn tolist<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        if slf.get().inner.dtype() == DType::BF16 {
            let wide = Bound::new(slf.py(), slf.get().float(slf.py())?)?;
            return numpy_array::from_tensor(&wide)?.call_method0("tolist");
        }
        numpy_array::from_tensor(slf)?.call_method0("tolist")
    }

    fn __float__<'py>(slf: &Bound<'py, Self>) -> PyResult<f64> {
        Self::item(slf)?.extract()
    }

    fn __int__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        py.get_type::<pyo3::types::PyInt>().call1((Self::item(slf)?,))
    }

    fn __index__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        if slf.get().inner.dtype().is_float() {
            return Err(pyo3::exceptions::PyTypeError::new_err(
                "only a tensor of one integer can be an index",
            ));
        }
        Self::item(slf)
    }

    fn __bool__(slf: &Bound<'_, Self>) -> PyResult<bool> {
        if slf.get().inner.numel() != 1 {
            return Err(invalid(format!(
                "the truth of a tensor of shape {} is ambiguous; use all() or any()",
                slf.get().inner.shape()
            )));
        }
        Self::item(slf)?.is_truthy()
    }

    fn __len__(&self) -> PyResult<usize> {
        self.inner
            .shape()
            .first()
            .copied()
            .ok_or_else(|| pyo3::exceptions::PyTypeError::new_err("a tensor of rank 0 has no length"))
    }

    fn __hash__(slf: &Bound<'_, Self>) -> isize {
        slf.as_ptr() as isize >> 4
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let inner = &slf.get().inner;
        let name = inner.device().info().name.clone();
        if inner.check().is_err() {
            return Ok(format!(
                "tensor(..., shape={}, device='{name}', which cannot be used)",
                inner.shape()
            ));
        }
        let shown = match inner.dtype() {
            DType::BF16 => Bound::new(py, slf.get().float(py)?)?,
            _ => slf.clone(),
        };
        let options = [("separator", ", "), ("prefix", "tensor(")];
        let kwargs = pyo3::types::PyDict::new(py);
        for (key, value) in options {
            kwargs.set_item(key, value)?;
        }
        let text = numpy_array::module(py)?
            .getattr("array2string")?
            .call((numpy_array::from_tensor(&shown)?,), Some(&kwargs))?;
        let mut out = format!("tensor({text}");
        if !matches!(inner.dtype(), DType::F32 | DType::I64 | DType::Bool) {
            out += &format!(", dtype=streampool.{}", inner.dtype());
        }
        if name != "cpu" {
            out += &format!(", device='{name}'");
        }
        Ok(out + ")")
    }

    /// Pickles by value; it is loaded to the default device of the process that loads it.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let rebuild = py.import("streampool._pickle")?.getattr("rebuild")?;
        let inner = &slf.get().inner;
        let is_parameter = slf.cast::<crate::parameter::PyParameter>().is_ok();
        let host = released(py, || inner.to_host())?;
        let bytes = pyo3::types::PyBytes::new(py, host.bytes());
        let shape = PyTuple::new(py, inner.shape().iter())?;
        let args = (bytes, inner.dtype().name(), shape, is_parameter).into_pyobject(py)?;
        Ok((rebuild, args))
    }

    /// For the DLPack protocol: device type and number.
    fn __dlpack_device__(&self) -> (i32, i32) {
        crate::dlpack::CPU
    }

    /// For the DLPack protocol. On the CPU the tensor's own memory, marked read-only where the protocol can; elsewhere a copy.
    ///
    /// Raises:
    ///     InvalidArgument: `stream` is not None, or `dl_device` not the CPU: memory of the host has no streams.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        slf: &Bound<'py, Self>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        crate::dlpack::export(slf, stream, max_version, dl_device, copy)
    }

    /// The buffer protocol: `memoryview(tensor)`, read-only, of tensors whose memory the host can read.
    ///
    /// # Safety
    /// Called by Python, with a buffer to fill in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no buffer was given"));
        }
        // SAFETY: Python hands in a buffer of its own. On an error `obj` has to be null.
        unsafe { (*view).obj = std::ptr::null_mut() };
        if flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE {
            return Err(PyBufferError::new_err("tensors are immutable; take a copy with .numpy(copy=True)"));
        }
        let inner = &slf.get().inner;
        let address = released(slf.py(), || inner.host_pointer().map(|p| p.map(|p| p.expose_provenance())))?;
        let Some(address) = address else {
            return Err(PyBufferError::new_err(format!(
                "the memory of device '{}' cannot be read by the host; take a copy with .numpy()",
                inner.device().info().name
            )));
        };
        let format: &CStr = match inner.dtype() {
            DType::F32 => c"f",
            DType::F64 => c"d",
            DType::F16 => c"e",
            DType::I8 => c"b",
            DType::U8 => c"B",
            DType::I32 => c"i",
            DType::I64 => c"q",
            DType::Bool => c"?",
            DType::BF16 => {
                return Err(PyBufferError::new_err(
                    "the buffer protocol has no bfloat16; convert with .float()",
                ));
            }
        };
        let strided = flags & ffi::PyBUF_STRIDES == ffi::PyBUF_STRIDES;
        if !strided && !inner.is_contiguous() {
            return Err(PyBufferError::new_err("the tensor is not contiguous; use .contiguous()"));
        }
        let size = inner.dtype().size();
        let head = Box::new(BufferHead {
            shape: inner.shape().iter().map(|&d| d as isize).collect(),
            strides: inner.strides().iter().map(|s| s * size as isize).collect(),
            format: format.to_owned(),
        });
        let shaped = flags & ffi::PyBUF_ND == ffi::PyBUF_ND;
        // SAFETY: `view` is Python's to be filled in; what it points to lives until `__releasebuffer__`: the head is freed there, and
        // the tensor, whose memory stays in place while it lives, is kept by `obj`.
        unsafe {
            let view = &mut *view;
            view.buf = std::ptr::with_exposed_provenance_mut::<c_void>(address);
            view.len = (inner.numel() * size) as isize;
            view.itemsize = size as isize;
            view.readonly = 1;
            view.ndim = inner.rank() as c_int;
            view.format = if flags & ffi::PyBUF_FORMAT == ffi::PyBUF_FORMAT {
                head.format.as_ptr().cast_mut()
            } else {
                std::ptr::null_mut()
            };
            view.shape = if shaped { head.shape.as_ptr().cast_mut() } else { std::ptr::null_mut() };
            view.strides = if strided { head.strides.as_ptr().cast_mut() } else { std::ptr::null_mut() };
            view.suboffsets = std::ptr::null_mut();
            view.internal = Box::into_raw(head).cast();
            view.obj = slf.into_ptr();
        }
        Ok(())
    }

    /// # Safety
    /// Called by Python, once for each buffer that was filled in.
    unsafe fn __releasebuffer__(&self, view: *mut ffi::Py_buffer) {
        // SAFETY: `internal` is the box that `__getbuffer__` leaked into this buffer.
        unsafe { drop(Box::from_raw((*view).internal.cast::<BufferHead>())) };
    }

    /// Whether both have the same shape and elements.
    fn equal(&self, py: Python<'_>, other: &Bound<'_, PyTensor>) -> PyResult<bool> {
        let other = &other.get().inner;
        released(py, || {
            if self.inner.shape() != other.shape() {
                return Ok(false);
            }
            self.inner.eq(other)?.all(&[], false)?.item::<bool>()
        })
    }

    /// Whether all elements are within `atol + rtol * abs(other)`.
    #[pyo3(signature = (other, rtol=1e-5, atol=1e-8, equal_nan=false))]
    fn allclose(
        slf: &Bound<'_, Self>,
        other: &Bound<'_, PyAny>,
        rtol: f64,
        atol: f64,
        equal_nan: bool,
    ) -> PyResult<bool> {
        let other = crate::convert::need_tensor(other, &slf.get().inner.device(), "allclose")?;
        let other = Bound::new(slf.py(), PyTensor::new(other))?;
        let kwargs = pyo3::types::PyDict::new(slf.py());
        kwargs.set_item("rtol", rtol)?;
        kwargs.set_item("atol", atol)?;
        kwargs.set_item("equal_nan", equal_nan)?;
        let (a, b) = (numpy_array::from_tensor(slf)?, numpy_array::from_tensor(&other)?);
        numpy_array::module(slf.py())?.getattr("allclose")?.call((a, b), Some(&kwargs))?.extract()
    }

    #[classmethod]
    fn __class_getitem__<'py>(cls: &Bound<'py, PyType>, _item: &Bound<'py, PyAny>) -> Bound<'py, PyType> {
        cls.clone()
    }

    fn __setitem__(&self, _index: &Bound<'_, PyAny>, _value: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(crate::errors::unsupported(
            "tensors are immutable, so that threads can share them; use where(), cat() or masked_fill(), or write to .numpy(copy=True)",
        ))
    }

    /// An error of the device it lives on, if that cannot be used.
    #[pyo3(name = "_check")]
    fn check(&self) -> PyResult<()> {
        self.inner.check().or_raise()
    }
}

/// What a buffer's pointers point to.
struct BufferHead {
    shape: SmallVec<[isize; 6]>,
    strides: SmallVec<[isize; 6]>,
    format: CString,
}
