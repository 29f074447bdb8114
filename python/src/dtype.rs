//! Element types, as `streampool.float32` and so on.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString, PyType};
use streampool::DType;

use crate::errors::invalid;

/// The type of a tensor's elements.
#[pyclass(frozen, eq, hash, name = "dtype", module = "streampool", from_py_object)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PyDType(pub(crate) DType);

/// One object a dtype, so that `is` works.
static ALL: PyOnceLock<Vec<Py<PyDType>>> = PyOnceLock::new();

/// The object of a dtype.
pub(crate) fn object(py: Python<'_>, dtype: DType) -> PyResult<Py<PyDType>> {
    let all = ALL.get_or_try_init(py, || {
        DType::ALL.iter().map(|&d| Py::new(py, PyDType(d))).collect::<PyResult<Vec<_>>>()
    })?;
    let at = DType::ALL.iter().position(|&d| d == dtype).unwrap_or_default();
    Ok(all[at].clone_ref(py))
}

/// The dtype of a name, PyTorch's or NumPy's.
pub(crate) fn by_name(name: &str) -> PyResult<DType> {
    let name = name.strip_prefix("torch.").or_else(|| name.strip_prefix("streampool.")).unwrap_or(name);
    let known = match name {
        "float" => Some(DType::F32),
        "double" => Some(DType::F64),
        "half" => Some(DType::F16),
        "int" => Some(DType::I32),
        "long" => Some(DType::I64),
        _ => DType::ALL.into_iter().find(|d| d.name() == name),
    };
    known.ok_or_else(|| {
        let names: Vec<_> = DType::ALL.iter().map(|d| d.name()).collect();
        invalid(format!("there is no dtype '{name}'; there are {}", names.join(", ")))
    })
}

/// What a `dtype=` argument means: a dtype, its name, NumPy's or torch's dtype, or `float`, `int`, `bool`.
pub(crate) fn parse(ob: &Bound<'_, PyAny>) -> PyResult<DType> {
    if let Ok(dtype) = ob.cast::<PyDType>() {
        return Ok(dtype.get().0);
    }
    if let Ok(name) = ob.cast::<PyString>() {
        return by_name(name.to_str()?);
    }
    let py = ob.py();
    if let Ok(class) = ob.cast::<PyType>() {
        if class.is(py.get_type::<PyFloat>()) {
            return Ok(DType::F32);
        }
        if class.is(py.get_type::<PyBool>()) {
            return Ok(DType::Bool);
        }
        if class.is(py.get_type::<PyInt>()) {
            return Ok(DType::I64);
        }
        // A NumPy scalar type.
        return by_name(class.name()?.to_str()?.trim_end_matches('_'));
    }
    if let Ok(name) = ob.getattr("name")
        && let Ok(name) = name.cast::<PyString>()
    {
        return by_name(name.to_str()?);
    }
    by_name(ob.str()?.to_str()?)
}

#[pymethods]
impl PyDType {
    #[new]
    fn new(name: &Bound<'_, PyAny>) -> PyResult<Self> {
        parse(name).map(Self)
    }

    /// PyTorch's and NumPy's name of it.
    #[getter]
    fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Bytes of one element.
    #[getter]
    fn itemsize(&self) -> usize {
        self.0.size()
    }

    /// Whether it has a fraction.
    #[getter]
    fn is_floating_point(&self) -> bool {
        self.0.is_float()
    }

    fn __repr__(&self) -> String {
        format!("streampool.{}", self.0.name())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyType>, (&'static str,)) {
        (slf.get_type(), (slf.get().0.name(),))
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    for dtype in DType::ALL {
        m.add(dtype.name(), object(m.py(), dtype)?)?;
    }
    Ok(())
}
