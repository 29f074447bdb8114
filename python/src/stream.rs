//! Streams: a thread's own, and leased ones.

use std::cell::RefCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use streampool::{Device, StreamLease, StreamScope};

use crate::device::{PyDevice, parse, seconds};
use crate::errors::{OrRaise, invalid};
use crate::event::PyEvent;
use crate::lock::released;

/// A stream of a device's pool.
///
/// `Stream()` leases one: it is exclusive, may go to another thread, and goes back to the pool when closed or dropped. Work is given to it
/// inside `with stream(s):`. `current_stream()` tells which stream the calling thread has; that is no lease.
///
/// Raises:
///     PoolExhaustedError: all streams were in use for as long as the pool's policy waits.
#[pyclass(frozen, name = "Stream", module = "streampool")]
pub(crate) struct PyStream {
    device: Device,
    id: u32,
    generation: u64,
    /// None for a thread's own stream, and once closed.
    lease: Mutex<Option<StreamLease>>,
    leased: bool,
}

impl PyStream {
    pub(crate) fn lease(py: Python<'_>, device: &Device) -> PyResult<Self> {
        let lease = released(py, || device.lease())?;
        Ok(Self {
            device: device.clone(),
            id: lease.stream().0,
            generation: lease.generation(),
            lease: Mutex::new(Some(lease)),
            leased: true,
        })
    }

    pub(crate) fn current(py: Python<'_>, device: &Device) -> PyResult<Self> {
        let (id, generation) = released(py, || device.current_stream_generation())?;
        Ok(Self { device: device.clone(), id: id.0, generation, lease: Mutex::new(None), leased: false })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<StreamLease>> {
        self.lease.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes it the calling thread's stream.
    fn enter(&self) -> PyResult<StreamScope> {
        self.device.check().or_raise()?;
        match &*self.lock() {
            Some(lease) => Ok(lease.enter()),
            None if self.leased => Err(invalid("this stream was closed; lease another with Stream()")),
            None => Err(invalid(
                "this is a thread's own stream, which cannot be lent to others; lease one with Stream()",
            )),
        }
    }

    /// Does `work` with this stream as the thread's. A thread's own stream has to be the calling thread's.
    fn on<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Device) -> streampool::Result<T> + Send,
    ) -> PyResult<T> {
        if self.leased {
            let scope = self.enter()?;
            // The scope belongs to this thread, which the work does not leave.
            let done = released(py, || work(&self.device));
            drop(scope);
            return done;
        }
        let (id, generation) = released(py, || self.device.current_stream_generation())?;
        if (id.0, generation) != (self.id, self.generation) {
            return Err(invalid(format!(
                "stream {} (generation {}) is not the calling thread's any more, or another thread's; record an event there",
                self.id, self.generation
            )));
        }
        released(py, || work(&self.device))
    }
}

#[pymethods]
impl PyStream {
    #[new]
    #[pyo3(signature = (device=None))]
    fn new(py: Python<'_>, device: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        Self::lease(py, &parse(device)?)
    }

    /// Which stream of the pool: 0 to its size. The thread that opened the device has stream 0.
    #[getter]
    fn id(&self) -> u32 {
        self.id
    }

    /// The generation of this ownership: no other owner of the stream has the same.
    #[getter]
    fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether it is a lease; else it is a thread's own.
    #[getter]
    fn is_lease(&self) -> bool {
        self.leased
    }

    /// Its device.
    #[getter]
    fn device(&self) -> PyDevice {
        PyDevice { inner: self.device.clone() }
    }

    /// Waits for all that the stream was given.
    #[pyo3(signature = (timeout=None))]
    fn synchronize(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let patience = seconds(timeout, Duration::from_secs(60), "synchronize")?;
        self.on(py, |device| device.synchronize_stream_within(patience))
    }

    /// Whether all that the stream was given is done.
    fn query(&self, py: Python<'_>) -> PyResult<bool> {
        self.on(py, |device| device.record_event()?.is_done())
    }

    /// Records an event: what the stream was given so far.
    fn record_event(&self, py: Python<'_>) -> PyResult<PyEvent> {
        Ok(PyEvent::recorded(self.on(py, |device| device.record_event())?))
    }

    /// Makes what the stream is given from now on wait, on the device, for an event.
    fn wait_event(&self, py: Python<'_>, event: &PyEvent) -> PyResult<()> {
        let Some(event) = event.get() else { return Ok(()) };
        self.on(py, |device| device.wait_event(&event))
    }

    /// Makes what the stream is given from now on wait, on the device, for what another one was given so far.
    fn wait_stream(&self, py: Python<'_>, stream: &PyStream) -> PyResult<()> {
        let event = stream.on(py, |device| device.record_event())?;
        self.on(py, |device| device.wait_event(&event))
    }

    /// Gives a leased stream back to the pool: the oldest waiter gets it. Once more does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if !self.leased {
            return Err(invalid("a thread's own stream is not leased and cannot be closed"));
        }
        let lease = self.lock().take();
        py.detach(|| drop(lease));
        Ok(())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<PyStream>().is_ok_and(|other| {
            let other = other.get();
            (self.id, self.generation) == (other.id, other.generation) && self.device.is_same(&other.device)
        })
    }

    fn __hash__(&self) -> u64 {
        (u64::from(self.id) << 40) ^ self.generation
    }

    fn __repr__(&self) -> String {
        format!(
            "Stream(id={}, generation={}, device='{}'{})",
            self.id,
            self.generation,
            self.device.info().name,
            if self.leased { ", leased" } else { "" }
        )
    }
}

thread_local! {
    /// The contexts that this thread is in, innermost last.
    static OPEN: RefCell<Vec<(u64, StreamScope)>> = const { RefCell::new(Vec::new()) };
}

/// What `stream(s)` returns: inside `with`, the calling thread's work goes to `s`.
#[pyclass(frozen, name = "StreamContext", module = "streampool")]
pub(crate) struct PyStreamContext {
    stream: Py<PyStream>,
    id: u64,
}

#[pymethods]
impl PyStreamContext {
    fn __enter__(&self, py: Python<'_>) -> PyResult<Py<PyStream>> {
        let scope = self.stream.get().enter()?;
        OPEN.with_borrow_mut(|open| open.push((self.id, scope)));
        Ok(self.stream.clone_ref(py))
    }

    fn __exit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let ended = OPEN.with_borrow_mut(|open| open.pop_if(|(id, _)| *id == self.id));
        match ended {
            Some(_) => Ok(()),
            None => Err(invalid(
                "a stream's context ends on the thread where it began, and contexts of one thread in the opposite order",
            )),
        }
    }
}

/// A context in which the calling thread's work goes to a leased stream: `with stream(s): ...`.
#[pyfunction]
fn stream(stream: &Bound<'_, PyStream>) -> PyStreamContext {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    PyStreamContext { stream: stream.clone().unbind(), id: NEXT.fetch_add(1, Ordering::Relaxed) }
}

/// The calling thread's stream: bound now if the thread had none, and kept until the thread ends or, while it runs nothing, a waiting
/// thread takes it over.
#[pyfunction]
#[pyo3(signature = (device=None))]
fn current_stream(py: Python<'_>, device: Option<&Bound<'_, PyAny>>) -> PyResult<PyStream> {
    PyStream::current(py, &parse(device)?)
}

/// Waits for all that the calling thread's stream was given; for other threads' work see `Device.synchronize`.
#[pyfunction]
#[pyo3(signature = (device=None, timeout=None))]
fn synchronize(py: Python<'_>, device: Option<&Bound<'_, PyAny>>, timeout: Option<f64>) -> PyResult<()> {
    let patience = seconds(timeout, Duration::from_secs(60), "synchronize")?;
    let device = parse(device)?;
    released(py, || device.synchronize_stream_within(patience))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(stream, m)?)?;
    m.add_function(wrap_pyfunction!(current_stream, m)?)?;
    m.add_function(wrap_pyfunction!(synchronize, m)?)
}
