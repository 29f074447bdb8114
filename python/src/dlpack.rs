//! DLPack, both ways, of host memory (`dlpack.h` version 1.0, and the older form without a version).

use std::ffi::{CStr, c_void};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};
use smallvec::SmallVec;
use streampool::{DType, HostTensor, Tensor};

use crate::errors::{invalid, unsupported};
use crate::lock::released;
use crate::numpy_array::span;
use crate::tensor::PyTensor;

/// `(kDLCPU, 0)`.
pub(crate) const CPU: (i32, i32) = (1, 0);

const PLAIN: &CStr = c"dltensor";
const PLAIN_USED: &CStr = c"used_dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
const VERSIONED_USED: &CStr = c"used_dltensor_versioned";
const READ_ONLY: u64 = 1;

#[repr(C)]
struct DLDevice {
    kind: i32,
    id: i32,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct DLDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DLTensor {
    data: *mut c_void,
    device: DLDevice,
    ndim: i32,
    dtype: DLDataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct DLManagedTensor {
    tensor: DLTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

#[repr(C)]
struct DLManagedTensorVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    flags: u64,
    tensor: DLTensor,
}

fn code_of(dtype: DType) -> DLDataType {
    let code = match dtype {
        DType::I8 | DType::I32 | DType::I64 => 0,
        DType::U8 => 1,
        DType::F16 | DType::F32 | DType::F64 => 2,
        DType::BF16 => 4,
        DType::Bool => 6,
    };
    DLDataType { code, bits: (dtype.size() * 8) as u8, lanes: 1 }
}

/// What keeps the memory of an exported tensor: itself, or a copy on the host.
enum Memory {
    Tensor(#[allow(dead_code)] Tensor),
    Host(#[allow(dead_code)] HostTensor),
}

/// What an exported tensor's pointers point to. Freed by the deleter, on whatever thread, with or without the interpreter.
struct Export {
    _memory: Memory,
    shape: SmallVec<[i64; 6]>,
    strides: SmallVec<[i64; 6]>,
}

impl Export {
    fn tensor(&mut self, data: usize, dtype: DType) -> DLTensor {
        DLTensor {
            data: std::ptr::with_exposed_provenance_mut(data),
            device: DLDevice { kind: CPU.0, id: CPU.1 },
            ndim: self.shape.len() as i32,
            dtype: code_of(dtype),
            shape: self.shape.as_mut_ptr(),
            strides: self.strides.as_mut_ptr(),
            byte_offset: 0,
        }
    }
}

unsafe extern "C" fn delete_plain(managed: *mut DLManagedTensor) {
    // SAFETY: the consumer calls it once, with what `export` made; both boxes were leaked there.
    unsafe {
        drop(Box::from_raw((*managed).context.cast::<Export>()));
        drop(Box::from_raw(managed));
    }
}

unsafe extern "C" fn delete_versioned(managed: *mut DLManagedTensorVersioned) {
    // SAFETY: as `delete_plain`.
    unsafe {
        drop(Box::from_raw((*managed).context.cast::<Export>()));
        drop(Box::from_raw(managed));
    }
}

/// The capsule's own end: frees what nobody consumed.
unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls it with the capsule that is going; the name tells which of the two structs it holds, and that it was not
    // consumed (a consumer renames it).
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, PLAIN.as_ptr()) == 1 {
            let managed = ffi::PyCapsule_GetPointer(capsule, PLAIN.as_ptr()).cast::<DLManagedTensor>();
            if let Some(deleter) = (*managed).deleter {
                deleter(managed);
            }
        } else if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) == 1 {
            let managed =
                ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast::<DLManagedTensorVersioned>();
            if let Some(deleter) = (*managed).deleter {
                deleter(managed);
            }
        }
    }
}

/// `Tensor.__dlpack__`.
pub(crate) fn export<'py>(
    tensor: &Bound<'py, PyTensor>,
    stream: Option<&Bound<'py, PyAny>>,
    max_version: Option<(u32, u32)>,
    dl_device: Option<(i32, i32)>,
    copy: Option<bool>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = tensor.py();
    if let Some(stream) = stream.filter(|s| !s.is_none())
        && stream.extract::<i64>().ok() != Some(-1)
    {
        return Err(invalid(format!(
            "__dlpack__: memory of the host has no streams, stream has to be None, got {stream}"
        )));
    }
    if dl_device.is_some_and(|d| d != CPU) {
        return Err(PyBufferError::new_err(format!(
            "__dlpack__: the tensor is given as memory of the host, {CPU:?}, not of device {dl_device:?}"
        )));
    }
    let inner = tensor.get().inner.clone();
    let (memory, data, shape, strides) = released(py, || {
        let pointer = inner.host_pointer()?;
        let lengths = |shape: &[usize]| shape.iter().map(|&d| d as i64).collect::<SmallVec<[i64; 6]>>();
        match pointer {
            Some(data) if copy != Some(true) => {
                let strides = inner.strides().iter().map(|&s| s as i64).collect::<SmallVec<[i64; 6]>>();
                let (shape, data) = (lengths(&inner.shape()), data.expose_provenance());
                Ok((Memory::Tensor(inner), data, shape, strides))
            }
            None if copy == Some(false) => Err(streampool::Error::invalid_argument(format!(
                "__dlpack__: the memory of device '{}' cannot be read by the host without a copy",
                inner.device().info().name
            ))),
            _ => {
                let host = inner.to_host()?;
                let strides =
                    host.ty().shape.strides().iter().map(|&s| s as i64).collect::<SmallVec<[i64; 6]>>();
                let (shape, data) = (lengths(&host.ty().shape), host.bytes().as_ptr().expose_provenance());
                Ok((Memory::Host(host), data, shape, strides))
            }
        }
    })?;
    let dtype = tensor.get().inner.dtype();
    let read_only = matches!(memory, Memory::Tensor(_));
    let mut export = Box::new(Export { _memory: memory, shape, strides });
    let dl = export.tensor(data, dtype);
    let context = Box::into_raw(export).cast();
    // SAFETY: the capsule takes over the struct, which its consumer or its own end frees by the deleter. The pointers in it are into the boxed
    // `Export` and into memory that this keeps.
    unsafe {
        let capsule = if max_version.is_some_and(|(major, _)| major >= 1) {
            let managed = DLManagedTensorVersioned {
                major: 1,
                minor: 0,
                context,
                deleter: Some(delete_versioned),
                flags: if read_only { READ_ONLY } else { 0 },
                tensor: dl,
            };
            ffi::PyCapsule_New(
                Box::into_raw(Box::new(managed)).cast(),
                VERSIONED.as_ptr(),
                Some(drop_capsule),
            )
        } else {
            let managed = DLManagedTensor { tensor: dl, context, deleter: Some(delete_plain) };
            ffi::PyCapsule_New(Box::into_raw(Box::new(managed)).cast(), PLAIN.as_ptr(), Some(drop_capsule))
        };
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

/// A consumed struct of another library, which keeps the memory of a tensor of ours.
enum Foreign {
    Plain(*mut DLManagedTensor),
    Versioned(*mut DLManagedTensorVersioned),
}

struct Owner {
    managed: Foreign,
    first: *const u8,
    bytes: usize,
}

// SAFETY: the protocol lets a consumer keep the struct and call its deleter on any thread; the memory is only read.
unsafe impl Send for Owner {}
// SAFETY: shared references only read.
unsafe impl Sync for Owner {}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: the range that the struct's strides reach, in memory that the producer keeps until its deleter is called.
        unsafe { std::slice::from_raw_parts(self.first, self.bytes) }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Producers may use the interpreter in their deleters.
        Python::attach(|_| {
            // SAFETY: we consumed the struct (its capsule was renamed), so its deleter is ours to call, once.
            unsafe {
                match self.managed {
                    Foreign::Plain(m) => {
                        if let Some(deleter) = (*m).deleter {
                            deleter(m);
                        }
                    }
                    Foreign::Versioned(m) => {
                        if let Some(deleter) = (*m).deleter {
                            deleter(m);
                        }
                    }
                }
            }
        });
    }
}

/// A tensor around the memory of any object that speaks DLPack (torch, NumPy, JAX, ...), where the device reads host memory; else a copy.
///
/// Raises:
///     Unsupported: its memory is not the host's, or its dtype is not one of ours.
#[pyfunction]
#[pyo3(signature = (ext_tensor, *, device=None))]
fn from_dlpack(ext_tensor: &Bound<'_, PyAny>, device: Option<&Bound<'_, PyAny>>) -> PyResult<PyTensor> {
    let py = ext_tensor.py();
    let device = crate::device::parse(device)?;
    if ext_tensor.hasattr("__dlpack_device__")? {
        let (kind, id): (i32, i32) = ext_tensor.call_method0("__dlpack_device__")?.extract()?;
        // kDLCPU, kDLCUDAHost, kDLROCMHost.
        if ![1, 3, 11].contains(&kind) {
            return Err(unsupported(format!(
                "from_dlpack: the memory is of DLPack device ({kind}, {id}), not the host's; copy it to the CPU first"
            )));
        }
    }
    let capsule = if ext_tensor.is_instance_of::<PyCapsule>() {
        ext_tensor.clone()
    } else {
        let kwargs = PyDict::new(py);
        kwargs.set_item("max_version", (1, 0))?;
        match ext_tensor.call_method("__dlpack__", (), Some(&kwargs)) {
            Ok(capsule) => capsule,
            Err(e) if e.is_instance_of::<pyo3::exceptions::PyTypeError>(py) => {
                ext_tensor.call_method0("__dlpack__")?
            }
            Err(e) => return Err(e),
        }
    };
    // SAFETY: `IsValid` says that the object is a capsule of that name, whose pointer is of the struct that the protocol says. Renaming it
    // makes us its only consumer.
    let (managed, dl) = unsafe {
        let ptr = capsule.as_ptr();
        if ffi::PyCapsule_IsValid(ptr, VERSIONED.as_ptr()) == 1 {
            let m = ffi::PyCapsule_GetPointer(ptr, VERSIONED.as_ptr()).cast::<DLManagedTensorVersioned>();
            if (*m).major != 1 {
                return Err(unsupported(format!(
                    "from_dlpack: version {}.{} of the protocol",
                    (*m).major,
                    (*m).minor
                )));
            }
            ffi::PyCapsule_SetName(ptr, VERSIONED_USED.as_ptr());
            (Foreign::Versioned(m), &raw const (*m).tensor)
        } else if ffi::PyCapsule_IsValid(ptr, PLAIN.as_ptr()) == 1 {
            let m = ffi::PyCapsule_GetPointer(ptr, PLAIN.as_ptr()).cast::<DLManagedTensor>();
            ffi::PyCapsule_SetName(ptr, PLAIN_USED.as_ptr());
            (Foreign::Plain(m), &raw const (*m).tensor)
        } else {
            return Err(invalid(format!(
                "from_dlpack: needs an object with __dlpack__, or a capsule that was not used yet, got {ext_tensor}"
            )));
        }
    };
    let mut owner = Owner { managed, first: std::ptr::null(), bytes: 0 };
    // SAFETY: the struct is valid until `owner` calls its deleter.
    let dl = unsafe { &*dl };
    if ![1, 3, 11].contains(&dl.device.kind) {
        return Err(unsupported(format!(
            "from_dlpack: the memory is of DLPack device {}, not the host's",
            dl.device.kind
        )));
    }
    let dtype = DType::ALL.into_iter().find(|&d| code_of(d) == dl.dtype).ok_or_else(|| {
        unsupported(format!(
            "from_dlpack: elements of DLPack type code {} with {} bits and {} lanes; tensors are {}",
            dl.dtype.code,
            dl.dtype.bits,
            dl.dtype.lanes,
            DType::ALL.map(|d| d.name()).join(", ")
        ))
    })?;
    let rank = usize::try_from(dl.ndim).map_err(|_| invalid("from_dlpack: the rank is negative"))?;
    let read = |p: *const i64| -> SmallVec<[i64; 6]> {
        if rank == 0 || p.is_null() {
            return SmallVec::new();
        }
        // SAFETY: the protocol says that they have as many entries as the tensor has axes.
        SmallVec::from_slice(unsafe { std::slice::from_raw_parts(p, rank) })
    };
    let shape = read(dl.shape)
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| invalid("from_dlpack: a length is negative")))
        .collect::<PyResult<SmallVec<[usize; 6]>>>()?;
    let strides: SmallVec<[isize; 6]> = match read(dl.strides) {
        s if s.len() == rank && rank > 0 => s.iter().map(|&s| s as isize).collect(),
        _ => streampool::Shape::new(&shape).strides(),
    };
    let size = dtype.size();
    let in_bytes: SmallVec<[isize; 6]> = strides.iter().map(|s| s * size as isize).collect();
    let (low, bytes, first) = span(&shape, &in_bytes, size);
    let data = dl.data.cast_const().cast::<u8>().wrapping_add(dl.byte_offset as usize);
    (owner.first, owner.bytes) = (data.wrapping_offset(low), bytes);
    released(py, || Tensor::from_owner(&device, dtype, &shape, &strides, first / size, owner))
        .map(PyTensor::new)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(from_dlpack, m)?)
}
