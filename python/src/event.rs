//! Events.

use std::sync::Mutex;
use std::time::Duration;

use pyo3::prelude::*;
use streampool::Event;

use crate::device::{default, seconds};
use crate::errors::invalid;
use crate::lock::released;
use crate::stream::PyStream;

/// A point in a stream's work. Tensors need none: they are ordered by themselves, between threads as well.
///
/// An event that was not recorded is done.
#[pyclass(frozen, name = "Event", module = "streampool")]
pub(crate) struct PyEvent {
    event: Mutex<Option<Event>>,
}

impl PyEvent {
    pub(crate) fn recorded(event: Event) -> Self {
        Self { event: Mutex::new(Some(event)) }
    }

    pub(crate) fn get(&self) -> Option<Event> {
        self.event.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

#[pymethods]
impl PyEvent {
    #[new]
    #[pyo3(signature = (enable_timing=true))]
    fn new(enable_timing: bool) -> Self {
        let _ = enable_timing; // PyTorch's argument; the time is always kept
        Self { event: Mutex::new(None) }
    }

    /// Records what a stream (the calling thread's, if None) was given so far.
    #[pyo3(signature = (stream=None))]
    fn record(&self, py: Python<'_>, stream: Option<&Bound<'_, PyStream>>) -> PyResult<()> {
        let event = match stream {
            Some(stream) => stream.call_method0("record_event")?.cast::<PyEvent>()?.get().get(),
            None => {
                let device = default()?;
                Some(released(py, || device.record_event())?)
            }
        };
        *self.event.lock().unwrap_or_else(|e| e.into_inner()) = event;
        Ok(())
    }

    /// Makes what a stream (the calling thread's, if None) is given from now on wait for it on the device.
    #[pyo3(signature = (stream=None))]
    fn wait(slf: &Bound<'_, Self>, stream: Option<&Bound<'_, PyStream>>) -> PyResult<()> {
        let Some(event) = slf.get().get() else { return Ok(()) };
        match stream {
            Some(stream) => stream.call_method1("wait_event", (slf,)).map(drop),
            None => released(slf.py(), || event.device().wait_event(&event)),
        }
    }

    /// Whether all that it marks is done.
    fn query(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(event) = self.get() else { return Ok(true) };
        released(py, || event.is_done())
    }

    /// Waits until all that it marks is done, at most `timeout` seconds (60 if None).
    #[pyo3(signature = (timeout=None))]
    fn synchronize(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let patience = seconds(timeout, Duration::from_secs(60), "synchronize")?;
        let Some(event) = self.get() else { return Ok(()) };
        released(py, || event.wait(patience))
    }

    /// Milliseconds between the recording of this event and that of another, by the host's clock. Where submissions are done when
    /// they return, as on the CPU, that is the time of the work between them.
    fn elapsed_time(&self, end: &PyEvent) -> PyResult<f64> {
        let (Some(a), Some(b)) = (self.get(), end.get()) else {
            return Err(invalid("elapsed_time: both events have to be recorded first"));
        };
        let (a, b) = (a.recorded(), b.recorded());
        Ok(if b >= a { (b - a).as_secs_f64() * 1e3 } else { -(a - b).as_secs_f64() * 1e3 })
    }

    fn __repr__(&self) -> String {
        self.get().map_or_else(|| "Event(not recorded)".to_owned(), |event| format!("{event:?}"))
    }
}
