//! NumPy's arrays: read where they are, and made around tensors.

use std::ffi::c_void;

use numpy::npyffi::{self, NpyTypes, PY_ARRAY_API, npy_intp};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use smallvec::SmallVec;
use streampool::{DType, HostTensor, Tensor};

use crate::errors::{OrRaise, invalid, unsupported};
use crate::tensor::PyTensor;

/// What is known of an array without looking at its elements.
pub(crate) struct ArrayView<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    /// In bytes.
    pub(crate) strides: &'a [isize],
    pub(crate) data: *const u8,
    pub(crate) contiguous: bool,
}

/// `Some` if the object is an array of NumPy, whatever its elements.
#[inline]
pub(crate) fn as_array<'a, 'py>(ob: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyUntypedArray>> {
    ob.cast::<PyUntypedArray>().ok()
}

/// Reads an array's head.
///
/// # Errors
/// `InvalidArgument` if its elements are of no dtype of ours, or in the other byte order.
#[inline]
pub(crate) fn view<'a>(array: &'a Bound<'_, PyUntypedArray>) -> PyResult<ArrayView<'a>> {
    let descr = array.dtype();
    // NumPy's type numbers (`NPY_TYPES`). `long` is 64 bits wide on Unix, 32 on Windows.
    let dtype = match descr.num() {
        0 => DType::Bool,
        1 => DType::I8,
        2 => DType::U8,
        5 => DType::I32,
        7 if size_of::<std::ffi::c_long>() == 8 => DType::I64,
        7 => DType::I32,
        9 => DType::I64,
        11 => DType::F32,
        12 => DType::F64,
        23 => DType::F16,
        _ => other_dtype(&descr)?,
    };
    if !matches!(descr.byteorder(), b'=' | b'|' | b'<') || cfg!(target_endian = "big") {
        return Err(invalid(format!(
            "the array's elements ({}) are in the other byte order; convert it with array.astype(array.dtype.newbyteorder('='))",
            descr.str()?
        )));
    }
    // SAFETY: the pointer is that of a live array, whose head only changes by calls (`resize`, setting `shape`) that NumPy itself
    // forbids while others hold references, unless told not to look.
    let data = unsafe { (*array.as_array_ptr()).fields.data } as *const u8;
    Ok(ArrayView {
        dtype,
        shape: array.shape(),
        strides: array.strides(),
        data,
        contiguous: array.is_c_contiguous(),
    })
}

#[cold]
fn other_dtype(descr: &Bound<'_, PyArrayDescr>) -> PyResult<DType> {
    let name = descr.getattr("name")?.to_string();
    if name == "bfloat16" {
        return Ok(DType::BF16);
    }
    let hint = match name.as_str() {
        "object" => "make it an array of numbers first, as np.asarray(x, dtype=np.float32)",
        "uint16" | "uint32" | "uint64" | "int16" => "convert it with array.astype(np.int64)",
        _ => "convert it with array.astype(np.float32)",
    };
    Err(invalid(format!(
        "the array's dtype is {name}; tensors are {}; {hint}",
        DType::ALL.map(|d| d.name()).join(", ")
    )))
}

/// NumPy's dtype of ours.
///
/// # Errors
/// `Unsupported` for bfloat16 if `ml_dtypes` is not installed.
pub(crate) fn descr(py: Python<'_>, dtype: DType) -> PyResult<Bound<'_, PyArrayDescr>> {
    static ALL: PyOnceLock<Vec<Py<PyArrayDescr>>> = PyOnceLock::new();
    static BF16: PyOnceLock<Py<PyArrayDescr>> = PyOnceLock::new();
    if dtype == DType::BF16 {
        return BF16
            .get_or_try_init(py, || {
                let ml_dtypes = py.import("ml_dtypes").map_err(|_| {
                    unsupported(
                        "NumPy has no bfloat16 of its own; install ml_dtypes, or convert the tensor with .float()",
                    )
                })?;
                PyArrayDescr::new(py, ml_dtypes.getattr("bfloat16")?).map(Bound::unbind)
            })
            .map(|d| d.bind(py).clone());
    }
    let all = ALL.get_or_try_init(py, || {
        DType::ALL
            .iter()
            .map(|d| match d {
                DType::BF16 => PyArrayDescr::new(py, "uint16").map(Bound::unbind),
                d => PyArrayDescr::new(py, d.name()).map(Bound::unbind),
            })
            .collect::<PyResult<Vec<_>>>()
    })?;
    let at = DType::ALL.iter().position(|&d| d == dtype).unwrap_or_default();
    Ok(all[at].bind(py).clone())
}

const WRITEABLE: i32 = 0x0400;
const ALIGNED: i32 = 0x0100;

/// An array of NumPy's own memory, contents undefined, and where its first byte is.
fn new_array<'py>(py: Python<'py>, dtype: DType, shape: &[usize]) -> PyResult<(Bound<'py, PyAny>, *mut u8)> {
    let descr = descr(py, dtype)?;
    let mut dims: SmallVec<[npy_intp; 6]> = shape.iter().map(|&d| d as npy_intp).collect();
    // SAFETY: the type is NumPy's own array type; the descriptor's reference is given away, as the call wants; `dims` has as many
    // entries as said. Without data the array allocates its own memory, row-major.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            npyffi::get_type_object(py, NpyTypes::PyArray_Type),
            descr.into_dtype_ptr(),
            dims.len() as i32,
            dims.as_mut_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?;
        let data = (*array.as_ptr().cast::<npyffi::PyArrayObject>()).fields.data as *mut u8;
        Ok((array, data))
    }
}

/// An array around memory that `owner` keeps. `strides` are in bytes.
fn around<'py>(
    dtype: DType,
    shape: &[usize],
    strides: &[isize],
    data: *const u8,
    writeable: bool,
    owner: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = owner.py();
    let descr = descr(py, dtype)?;
    let mut dims: SmallVec<[npy_intp; 6]> = shape.iter().map(|&d| d as npy_intp).collect();
    let mut strides: SmallVec<[npy_intp; 6]> = strides.iter().copied().collect();
    // SAFETY: as in `new_array`. The memory is valid for as long as `owner` lives (the callers say why), of which the array keeps a
    // reference: `SetBaseObject` takes ours over even if it fails.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            npyffi::get_type_object(py, NpyTypes::PyArray_Type),
            descr.into_dtype_ptr(),
            dims.len() as i32,
            dims.as_mut_ptr(),
            strides.as_mut_ptr(),
            data.cast_mut().cast::<c_void>(),
            ALIGNED | if writeable { WRITEABLE } else { 0 },
            std::ptr::null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?;
        if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), owner.into_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(array)
    }
}

/// Results up to this size are copied into an array of NumPy's own: cheaper than an array around a tensor.
const COPIED: usize = 2048;

/// A model's result as an array, which nobody else has: it may be written to. For devices with host memory, whose work is done.
pub(crate) fn from_result<'py>(py: Python<'py>, tensor: Tensor) -> PyResult<Bound<'py, PyAny>> {
    let Some(data) = tensor.host_pointer().or_raise()? else {
        let host = crate::lock::released(py, || tensor.to_host())?;
        return from_host(py, host);
    };
    let (shape, dtype) = (tensor.shape(), tensor.dtype());
    let bytes = shape.len() * dtype.size();
    if bytes <= COPIED {
        let (array, to) = new_array(py, dtype, &shape)?;
        // SAFETY: both are `bytes` long (a result is row-major), and one is new; the tensor is alive and its work done.
        unsafe { std::ptr::copy_nonoverlapping(data, to, bytes) };
        return Ok(array);
    }
    let strides: SmallVec<[isize; 6]> = shape.strides().iter().map(|s| s * dtype.size() as isize).collect();
    let owner = Bound::new(py, PyTensor::new(tensor))?;
    // The bytes of a tensor stay where they are while it lives (its storage is never moved), and the owner is a tensor.
    around(dtype, &shape, &strides, data, true, owner.into_any())
}

/// Host memory that an array was made around.
#[pyclass(frozen, module = "streampool._native")]
struct HostMemory(#[allow(dead_code)] HostTensor);

/// A host tensor as an array around it.
pub(crate) fn from_host<'py>(py: Python<'py>, host: HostTensor) -> PyResult<Bound<'py, PyAny>> {
    let (ty, data) = (host.ty().clone(), host.bytes().as_ptr());
    let strides: SmallVec<[isize; 6]> =
        ty.shape.strides().iter().map(|s| s * ty.dtype.size() as isize).collect();
    // The bytes of a host tensor are on the heap and stay there when it is moved into its owner.
    let owner = Bound::new(py, HostMemory(host))?;
    around(ty.dtype, &ty.shape, &strides, data, true, owner.into_any())
}

/// A tensor as an array: around its memory, and read-only, where the host can read that; else a copy.
pub(crate) fn from_tensor<'py>(tensor: &Bound<'py, PyTensor>) -> PyResult<Bound<'py, PyAny>> {
    let py = tensor.py();
    let inner = &tensor.get().inner;
    let pointer = crate::lock::released(py, || inner.host_pointer().map(|p| p.map(|p| p.addr())))?;
    let Some(address) = pointer else {
        let host = crate::lock::released(py, || inner.to_host())?;
        return from_host(py, host);
    };
    let size = inner.dtype().size() as isize;
    let strides: SmallVec<[isize; 6]> = inner.strides().iter().map(|s| s * size).collect();
    // The bytes of a tensor stay where they are while it lives, and the owner is the tensor.
    let data = std::ptr::with_exposed_provenance(address);
    around(inner.dtype(), &inner.shape(), &strides, data, false, tensor.clone().into_any())
}

/// An array that keeps its memory for a tensor. The reference is let go of on whatever thread drops the tensor.
struct ArrayOwner {
    _array: Py<PyAny>,
    first: *const u8,
    bytes: usize,
}

// SAFETY: a `Py` may go anywhere; the pointer is into the array's memory, which it keeps.
unsafe impl Send for ArrayOwner {}
// SAFETY: shared references only read.
unsafe impl Sync for ArrayOwner {}

impl AsRef<[u8]> for ArrayOwner {
    fn as_ref(&self) -> &[u8] {
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: `first` and `bytes` are the range that the array's strides reach, in memory that it keeps. That nobody writes to it
        // meanwhile is what `from_numpy` asks of its caller; who does so gets torn elements, as with any other library.
        unsafe { std::slice::from_raw_parts(self.first, self.bytes) }
    }
}

/// Lowest byte, bytes up to the highest, and where the first element is among them.
pub(crate) fn span(shape: &[usize], strides: &[isize], size: usize) -> (isize, usize, usize) {
    if shape.contains(&0) {
        return (0, 0, 0);
    }
    let (mut low, mut high) = (0isize, 0isize);
    for (&d, &s) in shape.iter().zip(strides) {
        let reach = (d as isize - 1) * s;
        if reach < 0 { low += reach } else { high += reach }
    }
    (low, (high - low) as usize + size, (-low) as usize)
}

/// A tensor around an array's memory where the device can read that, else a copy.
pub(crate) fn to_tensor(array: &Bound<'_, PyUntypedArray>, device: &streampool::Device) -> PyResult<Tensor> {
    let py = array.py();
    let head = view(array)?;
    let size = head.dtype.size();
    if head.strides.iter().any(|s| s % size as isize != 0) && !head.shape.contains(&0) {
        // A field of a record, for example.
        let dense = array.call_method0("copy")?;
        return to_tensor(dense.cast::<PyUntypedArray>()?, device);
    }
    let strides: SmallVec<[isize; 6]> = head.strides.iter().map(|s| s / size as isize).collect();
    let (low, bytes, first) = span(head.shape, head.strides, size);
    let owner = ArrayOwner {
        _array: array.clone().into_any().unbind(),
        first: head.data.wrapping_offset(low),
        bytes,
    };
    let (dtype, shape) = (head.dtype, SmallVec::<[usize; 6]>::from_slice(head.shape));
    crate::lock::released(py, || Tensor::from_owner(device, dtype, &shape, &strides, first / size, owner))
}

/// A copy of an array's elements on a device, whatever happens to the array afterwards.
pub(crate) fn copy_to_tensor(
    array: &Bound<'_, PyUntypedArray>,
    device: &streampool::Device,
) -> PyResult<Tensor> {
    let py = array.py();
    let dense = dense(array)?;
    let head = view(&dense)?;
    let ty = streampool::TensorType::new(head.dtype, head.shape);
    let bytes = bytes_of(&head);
    crate::lock::released(py, || {
        let host = HostTensor::from_bytes(ty, bytes)?;
        Tensor::from_host(device, &host)
    })
}

/// The array itself if it is row-major, else a row-major copy.
pub(crate) fn dense<'py>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Bound<'py, PyUntypedArray>> {
    if array.is_c_contiguous() {
        return Ok(array.clone());
    }
    Ok(array.call_method1("copy", ("C",))?.cast_into()?)
}

/// The bytes of a row-major array.
pub(crate) fn bytes_of<'a>(head: &ArrayView<'a>) -> &'a [u8] {
    let bytes = head.shape.iter().product::<usize>() * head.dtype.size();
    if bytes == 0 || !head.contiguous {
        return &[];
    }
    // SAFETY: a row-major array has its elements there, for as long as it lives. As for concurrent writes, see `ArrayOwner`.
    unsafe { std::slice::from_raw_parts(head.data, bytes) }
}

/// NumPy's module.
pub(crate) fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static NUMPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    NUMPY.get_or_try_init(py, || Ok(py.import("numpy")?.into_any().unbind())).map(|m| m.bind(py))
}
