//! Devices, and which one is meant when none is named.

use std::sync::Mutex;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use streampool::sim::{Mode, SimConfig};
use streampool::{Device, MemoryStats, Policy};

use crate::errors::{OrRaise, invalid};
use crate::lock::released;
use crate::sim::PySimControl;
use crate::stream::PyStream;

/// A device that any number of threads may use at once.
///
/// `Device("cpu")` opens a device of its own, with a pool of streams of its own; `streampool.device("cpu")` is the one that all who
/// name it share.
///
/// Args:
///     name: "cpu" or "sim" (a simulated device with an adversarial schedule, for tests).
///     streams: size of the pool, 1 to 1024.
///     policy: what a thread does when all streams run: "wait", "share" or "refuse".
///     wait_timeout: seconds that "wait" waits before `PoolExhaustedError`.
///     memory_limit: most bytes taken from the device; 90 % of what it reports if None.
///     cores: CPU cores that may work; all if None. Of "cpu" only.
///     seed, mode, device_memory, queue_depth: of "sim" only. `mode` is "random", "eager", "lazy" or "manual".
///
/// Raises:
///     Unsupported: there is no such device here.
///     InvalidArgument: a setting is out of range or of another device.
#[pyclass(frozen, name = "Device", module = "streampool")]
pub(crate) struct PyDevice {
    pub(crate) inner: Device,
}

/// The device that is meant when none is named.
static DEFAULT: Mutex<Option<Device>> = Mutex::new(None);
/// Devices that were named by a string: everybody who uses the name shares one.
static NAMED: Mutex<Vec<(String, Device)>> = Mutex::new(Vec::new());

/// The device of a name, opened by the first who asks, and anew once it was closed.
fn named(name: &str) -> PyResult<Device> {
    let name = name.strip_suffix(":0").unwrap_or(name);
    let mut all = NAMED.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((_, device)) = all.iter().find(|(n, _)| n == name)
        && !device.check().is_err_and(|e| e.is_shut_down())
    {
        return Ok(device.clone());
    }
    all.retain(|(n, _)| n != name);
    let device = Device::open(name).or_raise()?;
    all.push((name.to_owned(), device.clone()));
    Ok(device)
}

/// The default device.
pub(crate) fn default() -> PyResult<Device> {
    let mut default = DEFAULT.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(device) = &*default
        && !device.check().is_err_and(|e| e.is_shut_down())
    {
        return Ok(device.clone());
    }
    let device = named("cpu")?;
    *default = Some(device.clone());
    Ok(device)
}

/// What a `device=` argument means.
pub(crate) fn parse(ob: Option<&Bound<'_, PyAny>>) -> PyResult<Device> {
    let Some(ob) = ob.filter(|ob| !ob.is_none()) else { return default() };
    if let Ok(device) = ob.cast::<PyDevice>() {
        return Ok(device.get().inner.clone());
    }
    if let Ok(name) = ob.cast::<PyString>() {
        return named(name.to_str()?);
    }
    Err(invalid(format!("a device is a Device or a name such as 'cpu', got {}", ob.get_type().name()?)))
}

pub(crate) fn seconds(timeout: Option<f64>, default: Duration, what: &str) -> PyResult<Duration> {
    let Some(timeout) = timeout else { return Ok(default) };
    if timeout.is_nan() || timeout < 0.0 {
        return Err(invalid(format!("{what}: the timeout is {timeout} s; give seconds from 0 on, or None")));
    }
    Ok(Duration::try_from_secs_f64(timeout).unwrap_or(Duration::MAX))
}

const PATIENCE: Duration = Duration::from_secs(60);

#[pymethods]
impl PyDevice {
    #[new]
    #[pyo3(signature = (name="cpu", *, streams=32, policy="wait", wait_timeout=30.0, memory_limit=None, cores=None, seed=None, mode=None, device_memory=None, queue_depth=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        name: &str,
        streams: usize,
        policy: &str,
        wait_timeout: f64,
        memory_limit: Option<usize>,
        cores: Option<usize>,
        seed: Option<u64>,
        mode: Option<&str>,
        device_memory: Option<usize>,
        queue_depth: Option<usize>,
    ) -> PyResult<Self> {
        let deadline = seconds(Some(wait_timeout), PATIENCE, "Device")?;
        let policy = match policy {
            "wait" => Policy::Wait { deadline },
            "share" => Policy::Share,
            "refuse" => Policy::Refuse,
            other => {
                return Err(invalid(format!("there is no policy '{other}'; there are wait, share, refuse")));
            }
        };
        let mut builder = Device::builder(name).streams(streams).policy(policy);
        if let Some(bytes) = memory_limit {
            builder = builder.memory_limit(bytes);
        }
        if let Some(cores) = cores {
            if name != "cpu" {
                return Err(invalid(format!("cores is a setting of 'cpu', not of '{name}'")));
            }
            builder = builder.cores(cores);
        }
        if name == "sim" {
            let mode = match mode.unwrap_or("random") {
                "random" => Mode::Random,
                "eager" => Mode::Eager,
                "lazy" => Mode::Lazy,
                "manual" => Mode::Manual,
                other => {
                    return Err(invalid(format!(
                        "there is no mode '{other}'; there are random, eager, lazy, manual"
                    )));
                }
            };
            let plain = SimConfig::default();
            builder = builder.sim(SimConfig {
                seed: seed.unwrap_or(plain.seed),
                mode,
                memory_bytes: device_memory.unwrap_or(plain.memory_bytes),
                queue_depth: queue_depth.unwrap_or(plain.queue_depth),
                ..plain
            });
        } else if seed.is_some() || mode.is_some() || device_memory.is_some() || queue_depth.is_some() {
            return Err(invalid(format!(
                "seed, mode, device_memory and queue_depth are settings of 'sim', not of '{name}'"
            )));
        }
        Ok(Self { inner: released(py, || builder.open())? })
    }

    /// "cpu", "sim".
    #[getter]
    fn name(&self) -> String {
        self.inner.info().name.clone()
    }

    /// The kind of device, as `torch.device.type`.
    #[getter]
    fn r#type(&self) -> String {
        self.inner.info().name.split(':').next().unwrap_or_default().to_owned()
    }

    /// Which of several of its kind.
    #[getter]
    fn index(&self) -> usize {
        self.inner.info().name.split(':').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// What a person calls it.
    #[getter]
    fn description(&self) -> String {
        self.inner.info().description.clone()
    }

    /// Bytes of memory that the device reports.
    #[getter]
    fn memory_bytes(&self) -> usize {
        self.inner.info().memory_bytes
    }

    /// Waits for all that every stream was given before this call. Other threads go on meanwhile.
    ///
    /// Raises:
    ///     TimeoutError: not done after `timeout` seconds (60 if None).
    #[pyo3(signature = (timeout=None))]
    fn synchronize(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let patience = seconds(timeout, PATIENCE, "synchronize")?;
        released(py, || self.inner.synchronize_within(patience))
    }

    /// Waits until nothing runs (at most `timeout` seconds, 60 if None), then closes the device: from then on every call on it
    /// raises `ShutDownError`. Tensors may be dropped later.
    #[pyo3(signature = (timeout=None))]
    fn close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let patience = seconds(timeout, PATIENCE, "close")?;
        released(py, || self.inner.close(patience))
    }

    /// Whether the device can be used by this process now: it was not closed, and this process did not come from a fork.
    #[getter]
    fn is_open(&self) -> bool {
        self.inner.check().is_ok()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if self.inner.check().is_ok() { self.close(py, None) } else { Ok(()) }
    }

    /// Leases a stream of the pool: see `Stream`.
    fn stream(&self, py: Python<'_>) -> PyResult<PyStream> {
        PyStream::lease(py, &self.inner)
    }

    /// The calling thread's stream of this device.
    fn current_stream(&self, py: Python<'_>) -> PyResult<PyStream> {
        PyStream::current(py, &self.inner)
    }

    /// Gives idle memory back to the device.
    fn empty_cache(&self, py: Python<'_>) -> PyResult<()> {
        released(py, || self.inner.empty_cache())
    }

    /// Bytes live, cached, retired, reserved, the limit and the peaks, as a dict of ints.
    fn memory_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = released(py, || self.inner.check().map(|()| self.inner.memory_stats()))?;
        memory_dict(py, &stats, self.inner.frozen_bytes())
    }

    /// Bytes in tensors that live.
    fn memory_allocated(&self, py: Python<'_>) -> PyResult<usize> {
        released(py, || self.inner.check().map(|()| self.inner.memory_stats().live))
    }

    /// Bytes taken from the device.
    fn memory_reserved(&self, py: Python<'_>) -> PyResult<usize> {
        released(py, || self.inner.check().map(|()| self.inner.memory_stats().reserved))
    }

    /// Starts the peaks of `memory_stats` anew.
    fn reset_peak_memory_stats(&self, py: Python<'_>) -> PyResult<()> {
        released(py, || self.inner.check().map(|()| self.inner.reset_peak_memory_stats()))
    }

    /// Changes the most bytes that may be taken from the device.
    fn set_memory_limit(&self, py: Python<'_>, bytes: i128) -> PyResult<()> {
        let bytes = usize::try_from(bytes).map_err(|_| {
            invalid(format!("a limit of {bytes} bytes: give a number from 0 to {}", usize::MAX))
        })?;
        released(py, || self.inner.check().map(|()| self.inner.set_memory_limit(bytes)))
    }

    /// What the pool is doing: size, running, leased, bound_idle, free, waiting, guests (ints) and generations (a list: how many
    /// owners each stream has had).
    fn pool_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = released(py, || self.inner.check().and_then(|()| self.inner.pool_stats()))?;
        let dict = PyDict::new(py);
        for (name, n) in [
            ("size", stats.size),
            ("running", stats.running),
            ("leased", stats.leased),
            ("bound_idle", stats.bound_idle),
            ("free", stats.free),
            ("waiting", stats.waiting),
            ("guests", stats.guests),
        ] {
            dict.set_item(name, n)?;
        }
        dict.set_item("generations", stats.generations)?;
        Ok(dict)
    }

    /// How many programs of single operations were compiled so far: one per operation and operand types, however many threads asked.
    fn compile_count(&self, py: Python<'_>) -> PyResult<u64> {
        released(py, || self.inner.check().map(|()| self.inner.compile_count()))
    }

    /// The pool, and what each stream was given, has done and holds: a line each, for whoever looks into a hang.
    fn describe_streams(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        released(py, || self.inner.describe_streams())
    }

    /// Steers a simulated device; None for others.
    #[getter]
    fn sim(&self) -> Option<PySimControl> {
        self.inner.sim_driver().map(|driver| PySimControl(driver.clone()))
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        match other.cast::<PyDevice>() {
            Ok(other) => self.inner.is_same(&other.get().inner),
            Err(_) => other
                .extract::<&str>()
                .is_ok_and(|name| name.strip_suffix(":0").unwrap_or(name) == self.inner.info().name),
        }
    }

    fn __hash__(&self) -> u64 {
        self.inner.info().name.bytes().fold(7, |h, b| h * 31 + u64::from(b))
    }

    fn __repr__(&self) -> String {
        format!("device('{}')", self.inner.info().name)
    }

    fn __str__(&self) -> String {
        self.inner.info().name.clone()
    }
}

fn memory_dict<'py>(py: Python<'py>, stats: &MemoryStats, frozen: usize) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, n) in [
        ("limit", stats.limit as u64),
        ("reserved", stats.reserved as u64),
        ("live", stats.live as u64),
        ("cached", stats.cached as u64),
        ("retired", stats.retired as u64),
        ("peak_reserved", stats.peak_reserved as u64),
        ("peak_live", stats.peak_live as u64),
        ("allocations", stats.allocations),
        ("driver_allocations", stats.driver_allocations),
        ("reclaimed", stats.reclaimed),
        ("out_of_memory", stats.out_of_memory),
        ("frozen", frozen as u64),
    ] {
        dict.set_item(name, n)?;
    }
    Ok(dict)
}

/// The device that all who name it share: `device("cpu")`. A Device is returned as it is; None means the default device.
#[pyfunction]
#[pyo3(signature = (device=None))]
fn device(device: Option<&Bound<'_, PyAny>>) -> PyResult<PyDevice> {
    parse(device).map(|inner| PyDevice { inner })
}

/// Sets the device that is meant when none is named; a Device or a name.
#[pyfunction]
fn set_default_device(device: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = device.py();
    let device = parse(Some(device))?;
    let before = DEFAULT.lock().unwrap_or_else(|e| e.into_inner()).replace(device);
    // Closing what nobody uses any more may wait.
    py.detach(|| drop(before));
    Ok(())
}

/// The device that is meant when none is named.
#[pyfunction]
fn get_default_device() -> PyResult<PyDevice> {
    default().map(|inner| PyDevice { inner })
}

/// Names of the devices that this build can open.
#[pyfunction]
fn available_devices() -> Vec<String> {
    Device::available()
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(device, m)?)?;
    m.add_function(wrap_pyfunction!(set_default_device, m)?)?;
    m.add_function(wrap_pyfunction!(get_default_device, m)?)?;
    m.add_function(wrap_pyfunction!(available_devices, m)?)
}
