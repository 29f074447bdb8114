//! The device.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use streampool_core::driver::{DeviceInfo, Driver, Executable, Queue, Segment};
use streampool_core::op::Program;
use streampool_core::timeline::{StreamId, Ticket};
use streampool_core::{Error, Result};
use streampool_cpu::{CpuConfig, CpuDriver};

use crate::compiler::Compiler;
use crate::constants::Constants;
use crate::context::Context;
use crate::events::Rings;
use crate::gemm::Blas;
use crate::host_step::Cpu;
use crate::memory::DeviceMemory;
use crate::program::CudaExecutable;
use crate::queue::CudaQueue;
use crate::service::Service;
use crate::timeline::Timeline;

/// Submissions in flight on a queue before a submission waits: below the depth at which the driver itself would block.
pub(crate) const QUEUE_DEPTH: usize = 512;

/// How a CUDA device is set up.
#[derive(Clone, Debug, Default)]
pub struct CudaConfig {
    /// Which GPU, of those that the driver shows.
    pub ordinal: usize,
    /// Whether float32 products may be computed in TF32 (10 bits of mantissa): several times faster, and not what float32 promises.
    pub tf32: bool,
    /// Whether operations without a kernel are refused, instead of running on the CPU between copies.
    pub strict: bool,
    /// Whether streams wait for each other by events even if the device lets them wait for words: the way of devices that do not, for tests.
    #[doc(hidden)]
    pub events: bool,
    /// A folder where compiled kernels are kept from run to run; none by default.
    pub cache_folder: Option<PathBuf>,
    /// Kernels that the compiler is made to refuse, for tests: those whose description contains this.
    #[doc(hidden)]
    pub broken: Option<String>,
}

/// What all queues and programs of a device share.
pub(crate) struct Shared {
    info: DeviceInfo,
    pub(crate) timeline: Timeline,
    pub(crate) service: Service,
    pub(crate) compiler: Compiler,
    pub(crate) blas: Blas,
    pub(crate) constants: Constants,
    pub(crate) cpu: Cpu,
    pub(crate) tf32: bool,
    pub(crate) strict: bool,
    /// Streams that were opened so far: those below this number.
    opened: AtomicU32,
    /// There if streams wait for each other by events.
    pub(crate) rings: Option<Rings>,
    // Last, so that what needs the context is dropped before it.
    pub(crate) context: Arc<Context>,
}

impl Shared {
    /// The last completed ticket of each stream that was ever opened.
    pub(crate) fn completed(&self) -> impl Iterator<Item = u64> {
        (0..self.opened.load(Ordering::Relaxed)).map(|n| self.timeline.completed(StreamId(n)))
    }
}

/// A GPU as a device.
pub struct CudaDriver {
    shared: Arc<Shared>,
}

impl CudaDriver {
    /// Opens a GPU.
    ///
    /// # Errors
    /// `is_unsupported` naming what is missing (driver, NVRTC, cuBLASLt, the GPU itself) and how to get it.
    pub fn new(config: CudaConfig) -> Result<Self> {
        let context = Arc::new(Context::new(config.ordinal)?);
        let (major, minor) = context.capability;
        let info = DeviceInfo {
            name: format!("cuda:{}", config.ordinal),
            description: format!(
                "{}, compute capability {major}.{minor}, {} multiprocessors, {:.1} GiB, float32 products in {}",
                context.name,
                context.processors,
                context.memory_bytes as f64 / (1u64 << 30) as f64,
                if config.tf32 { "TF32" } else { "float32" }
            ),
            memory_bytes: context.memory_bytes,
            host_memory: false,
            inline: false,
            queue_depth: QUEUE_DEPTH,
        };
        let compiler = Compiler::new(&context, config.cache_folder, config.broken);
        Ok(Self {
            shared: Arc::new(Shared {
                info,
                timeline: Timeline::new(&context)?,
                service: Service::new(&compiler)?,
                compiler,
                blas: Blas::new(&context)?,
                constants: Constants::default(),
                cpu: Arc::new(CpuDriver::new(CpuConfig::default())),
                tf32: config.tf32,
                strict: config.strict,
                opened: AtomicU32::new(0),
                rings: (config.events || !context.waits).then(Rings::default),
                context,
            }),
        })
    }
}

impl Driver for CudaDriver {
    fn info(&self) -> &DeviceInfo {
        &self.shared.info
    }

    fn open_queue(&self, stream: StreamId) -> Result<Box<dyn Queue>> {
        self.shared.timeline.check(stream)?;
        self.shared.opened.fetch_max(stream.0 + 1, Ordering::Relaxed);
        Ok(Box::new(CudaQueue::new(&self.shared, stream)?))
    }

    fn allocate(&self, bytes: usize) -> Result<Segment> {
        if bytes > self.shared.info.memory_bytes {
            return Err(Error::out_of_memory(format!(
                "cuda: asked {bytes} bytes, the GPU has {}; use smaller tensors",
                self.shared.info.memory_bytes
            )));
        }
        DeviceMemory::new(&self.shared.context, bytes).map(DeviceMemory::into_segment)
    }

    fn compile(&self, program: &Program) -> Result<Arc<dyn Executable>> {
        self.shared.context.enter()?;
        Ok(Arc::new(Handle(Arc::new(CudaExecutable::new(program, &self.shared)?))))
    }

    fn completed(&self, stream: StreamId) -> u64 {
        self.shared.timeline.completed(stream)
    }

    fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()> {
        self.shared.timeline.wait(ticket.stream, 0, ticket.number, deadline)
    }

    fn frozen_bytes(&self) -> usize {
        self.shared.constants.bytes()
    }
}

/// What callers hold: counts itself, so that queues can tell which programs are gone.
pub(crate) struct Handle(pub(crate) Arc<CudaExecutable>);

impl Executable for Handle {
    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn describe(&self) -> Vec<String> {
        self.0.describe()
    }
}
