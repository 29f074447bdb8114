//! The native half of the Python package `streampool`.
//!
//! Every class is frozen, and no call that may wait or compute holds the interpreter lock, with one exception that is measured: see
//! `model`. Errors are those of the facade, as the Python exceptions of `streampool._errors`.

mod asyncio;
mod convert;
mod create;
mod device;
mod dlpack;
mod dtype;
mod errors;
mod event;
mod functional;
mod generator;
mod inspect;
mod linalg;
mod lock;
mod model;
mod numpy_array;
mod parameter;
mod sim;
mod stream;
mod tensor;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<dtype::PyDType>()?;
    m.add_class::<device::PyDevice>()?;
    m.add_class::<sim::PySimControl>()?;
    m.add_class::<stream::PyStream>()?;
    m.add_class::<stream::PyStreamContext>()?;
    m.add_class::<event::PyEvent>()?;
    m.add_class::<generator::PyGenerator>()?;
    m.add_class::<tensor::PyTensor>()?;
    m.add_class::<parameter::PyParameter>()?;
    m.add_class::<model::PyModel>()?;
    m.add_class::<asyncio::PyCancel>()?;
    lock::register(m)?;
    dtype::register(m)?;
    device::register(m)?;
    stream::register(m)?;
    generator::register(m)?;
    inspect::register(m)?;
    create::register(m)?;
    dlpack::register(m)?;
    functional::register(m)?;
    linalg::register(m)?;
    Ok(())
}
