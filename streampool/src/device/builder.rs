//! Opening a device.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use streampool_core::driver::{Driver, Segment};
use streampool_core::gate::Gate;
use streampool_core::memory::{MemoryConfig, MemoryPool};
use streampool_core::slot::{Policy, PoolOptions, SlotPool};
use streampool_core::timeline::{StreamId, Ticket};
use streampool_cpu::{CpuConfig, CpuDriver};
use streampool_cuda::{CudaConfig, CudaDriver};
use streampool_sim::{SimConfig, SimDriver};

use super::models_gone::ModelsGone;
use super::programs::Programs;
use super::{Device, Shared, Stream};
use crate::{Error, Result};

/// Settings of a device that is to be opened.
#[derive(Clone)]
pub struct DeviceBuilder {
    name: String,
    driver: Option<Arc<dyn Driver>>,
    streams: usize,
    policy: Policy,
    memory_limit: Option<usize>,
    cores: Option<usize>,
    sim: SimConfig,
    tf32: bool,
    strict: bool,
    kernel_cache: Option<PathBuf>,
}

impl DeviceBuilder {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            driver: None,
            streams: 32,
            policy: Policy::default(),
            memory_limit: None,
            cores: None,
            sim: SimConfig::default(),
            tf32: false,
            strict: false,
            kernel_cache: None,
        }
    }

    /// How many streams the pool has: 1 to 1,024; 32 by default. More threads than streams share them by `policy`.
    #[must_use]
    pub fn streams(mut self, streams: usize) -> Self {
        self.streams = streams;
        self
    }

    /// What a thread does when every stream is running or leased. By default it waits 30 s in line.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The most bytes that may be taken from the device; by default 90 % of what it reports.
    #[must_use]
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// CPU: how many cores may work on one call, while fewer calls than cores are running; by default all that the process may use.
    #[must_use]
    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = Some(cores);
        self
    }

    /// Simulated device: its schedule, memory and faults.
    #[must_use]
    pub fn sim(mut self, config: SimConfig) -> Self {
        self.sim = config;
        self
    }

    /// Opens this driver instead of one by name: a device of one's own, or a simulated device that the caller steers by a clone of
    /// its [`SimDriver`]. The settings of [`Self::cores`] and [`Self::sim`] are then without effect.
    #[must_use]
    pub fn driver(mut self, driver: Arc<dyn Driver>) -> Self {
        self.driver = Some(driver);
        self
    }

    /// CUDA: whether float32 products may be computed in TF32, whose numbers have 10 bits of mantissa: several times faster, and off by default
    /// because it is not what float32 promises.
    #[must_use]
    pub fn tf32(mut self, allow: bool) -> Self {
        self.tf32 = allow;
        self
    }

    /// CUDA: refuses models and operations that have no kernel, by name, instead of running such steps on the CPU between copies, which `inspect` notes.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// CUDA: a folder in which compiled kernels are kept from one process to the next; none by default.
    #[must_use]
    pub fn kernel_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.kernel_cache = Some(folder.into());
        self
    }

    /// Opens it. The calling thread gets stream 0.
    ///
    /// # Errors
    /// `is_unsupported` for a name that is no device here, or naming what a GPU lacks (driver, libraries) and how to get it; `is_invalid_argument` for a pool size out of range.
    pub fn open(self) -> Result<Device> {
        let mut sim = None;
        let driver: Arc<dyn Driver> = match (self.driver, self.name.as_str()) {
            (Some(driver), _) => driver,
            (None, "cpu") => Arc::new(CpuDriver::new(CpuConfig { cores: self.cores.unwrap_or(0) })),
            (None, "sim") => Arc::new(sim.insert(SimDriver::new(self.sim)).clone()),
            (None, name) if cuda_ordinal(name).is_some() => Arc::new(CudaDriver::new(CudaConfig {
                ordinal: cuda_ordinal(name).unwrap_or(0),
                tf32: self.tf32,
                strict: self.strict,
                cache_folder: self.kernel_cache,
                ..CudaConfig::default()
            })?),
            (None, other) => {
                return Err(Error::unsupported(format!(
                    "there is no device '{other}' here; devices of this build are: {}",
                    Device::available().join(", ")
                )));
            }
        };
        Self::open_driver(driver, sim, self.streams, self.policy, self.memory_limit)
    }

    fn open_driver(
        driver: Arc<dyn Driver>,
        sim: Option<SimDriver>,
        streams: usize,
        policy: Policy,
        memory_limit: Option<usize>,
    ) -> Result<Device> {
        // The pool's factory needs the device that the pool is a part of.
        let device: Arc<OnceLock<Weak<Shared>>> = Arc::default();
        let whole = device.clone();
        let options = PoolOptions::default().with_size(streams).with_policy(policy);
        let pool = SlotPool::new(options, move |stream| match whole.get().and_then(Weak::upgrade) {
            Some(shared) => Stream::open(&shared, stream),
            None => Err(Error::shut_down("the device is gone")),
        })?;
        let source = Source { driver: driver.clone(), gate: Gate::open() };
        let config = MemoryConfig { limit: memory_limit, ..MemoryConfig::default() };
        let shared = Arc::new(Shared {
            memory: MemoryPool::new(source, config),
            driver,
            pool,
            programs: Programs::new(),
            homes: Mutex::default(),
            handles: AtomicUsize::new(0),
            models_gone: ModelsGone::default(),
            sim,
        });
        let _ = device.set(Arc::downgrade(&shared));
        Ok(Device::from_shared(shared))
    }
}

impl std::fmt::Debug for DeviceBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceBuilder")
            .field("name", &self.name)
            .field("driver", &self.driver.as_ref().map(|driver| &driver.info().name))
            .field("streams", &self.streams)
            .field("policy", &self.policy)
            .field("memory_limit", &self.memory_limit)
            .field("cores", &self.cores)
            .field("sim", &self.sim)
            .finish()
    }
}

/// Which GPU `"cuda"` or `"cuda:1"` names.
fn cuda_ordinal(name: &str) -> Option<usize> {
    match name.strip_prefix("cuda")? {
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse().ok(),
    }
}

/// The driver as core's memory sees it, with the fork gate in front.
struct Source {
    driver: Arc<dyn Driver>,
    gate: Gate,
}

impl streampool_core::memory::Source for Source {
    fn memory_bytes(&self) -> usize {
        self.driver.info().memory_bytes
    }
    fn allocate(&self, bytes: usize) -> Result<Segment> {
        self.driver.allocate(bytes)
    }
    fn completed(&self, stream: StreamId) -> u64 {
        self.driver.completed(stream)
    }
    fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()> {
        self.driver.wait(ticket, deadline)
    }
    fn abandoned(&self) -> bool {
        self.gate.is_forked()
    }
}
