//! The facade's errors as Python exceptions.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};
use streampool::Error;

/// A class of `streampool._errors` by the error's code.
fn class<'py>(py: Python<'py>, code: &str) -> PyResult<Bound<'py, PyType>> {
    static CLASSES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let classes = CLASSES.get_or_try_init(py, || {
        Ok::<_, PyErr>(py.import("streampool._errors")?.getattr("BY_CODE")?.cast_into::<PyDict>()?.unbind())
    })?;
    match classes.bind(py).get_item(code)? {
        Some(class) => Ok(class.cast_into()?),
        None => Err(PyRuntimeError::new_err(format!("streampool._errors has no class for '{code}'"))),
    }
}

fn raise(code: &str, message: String) -> PyErr {
    Python::attach(|py| match class(py, code) {
        Ok(class) => PyErr::from_type(class, message),
        Err(e) => e,
    })
}

/// An error of the facade as the exception of its kind.
#[cold]
pub(crate) fn to_py(error: Error) -> PyErr {
    raise(error.code(), error.to_string())
}

/// `streampool.InvalidArgument`.
#[cold]
pub(crate) fn invalid(message: impl Into<String>) -> PyErr {
    raise("invalid_argument", message.into())
}

/// As [`invalid`] where the caller's own code raised: with that as its cause. What is no `Exception` (Ctrl-C, `SystemExit`) stays what it is.
#[cold]
pub(crate) fn invalid_because(py: Python<'_>, what: &str, cause: PyErr) -> PyErr {
    if !cause.is_instance_of::<pyo3::exceptions::PyException>(py) {
        return cause;
    }
    let error = invalid(format!("{what}: {cause}"));
    error.set_cause(py, Some(cause));
    error
}

/// `streampool.OutOfRange`: an index that is not there, which also is an `IndexError`, so that Python's own protocols stop at it.
#[cold]
pub(crate) fn out_of_range(message: impl Into<String>) -> PyErr {
    raise("out_of_range", message.into())
}

/// `streampool.Unsupported`.
#[cold]
pub(crate) fn unsupported(message: impl Into<String>) -> PyErr {
    raise("unsupported", message.into())
}

/// Shorter than `map_err(to_py)`, and at every call.
pub(crate) trait OrRaise<T> {
    fn or_raise(self) -> PyResult<T>;
}

impl<T> OrRaise<T> for streampool::Result<T> {
    #[inline]
    fn or_raise(self) -> PyResult<T> {
        self.map_err(to_py)
    }
}
