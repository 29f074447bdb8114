//! The device.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_utils::CachePadded;
use streampool_core::driver::{DeviceInfo, Driver, Executable, Queue, Segment};
use streampool_core::op::Program;
use streampool_core::timeline::{StreamId, Ticket};
use streampool_core::{Error, Result};

use crate::constants::Constants;
use crate::memory::{HostMemory, memory_bytes};
use crate::program::CpuExecutable;
use crate::queue::CpuQueue;
use crate::team::Team;

/// How the CPU device is set up.
#[derive(Clone, Debug, Default)]
pub struct CpuConfig {
    /// Cores that one large call may use while few streams run; 0 means all that this process may use.
    pub cores: usize,
}

/// The CPU as a device. A submission has completed when it returns.
pub struct CpuDriver {
    info: DeviceInfo,
    completed: Completed,
    constants: Constants,
    team: Arc<Team>,
}

impl CpuDriver {
    /// Sets the device up.
    pub fn new(config: CpuConfig) -> Self {
        crate::fork::watch();
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = if config.cores == 0 { available } else { config.cores };
        let info = DeviceInfo {
            name: "cpu".into(),
            description: crate::processor::describe(cores),
            memory_bytes: memory_bytes(),
            host_memory: true,
            inline: true,
            // Nothing is ever in flight after a submission returned.
            queue_depth: u32::MAX as usize,
        };
        Self {
            info,
            completed: Completed::default(),
            constants: Constants::default(),
            team: Arc::new(Team::new(cores)),
        }
    }

    /// Compiles, keeping the type: for devices that run these programs in their own order.
    ///
    /// # Errors
    /// As [`Driver::compile`].
    pub fn compile_program(&self, program: &Program) -> Result<CpuExecutable> {
        CpuExecutable::new(program, &self.constants)
    }

    /// The cores that may help a call.
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }
}

impl Driver for CpuDriver {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(&self, stream: StreamId) -> Result<Box<dyn Queue>> {
        let counter = self.completed.counter(stream)?.clone();
        Ok(Box::new(CpuQueue::new(counter, self.team.clone())))
    }

    fn allocate(&self, bytes: usize) -> Result<Segment> {
        if bytes > self.info.memory_bytes {
            return Err(Error::out_of_memory(format!(
                "cpu: asked {bytes} bytes, the machine has {}; use smaller tensors",
                self.info.memory_bytes
            )));
        }
        HostMemory::new(bytes).map(HostMemory::into_segment)
    }

    fn compile(&self, program: &Program) -> Result<Arc<dyn Executable>> {
        Ok(Arc::new(self.compile_program(program)?))
    }

    fn completed(&self, stream: StreamId) -> u64 {
        self.completed.counter(stream).map_or(0, |c| c.load(Ordering::Acquire))
    }

    fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()> {
        // A ticket is given out when its submission returned, which is when it was done: this loop ends at once unless
        // a caller made the ticket up.
        while self.completed(ticket.stream) < ticket.number {
            if Instant::now() >= deadline {
                return Err(Error::timeout(format!(
                    "cpu: submission {} of stream {} was not done in time; {} are",
                    ticket.number,
                    ticket.stream.0,
                    self.completed(ticket.stream)
                )));
            }
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
        Ok(())
    }

    fn frozen_bytes(&self) -> usize {
        self.constants.bytes()
    }
}

/// One counter per stream, each on its own cache line and written by that stream's queue only. Grows without moving, so that reading
/// takes no lock.
#[derive(Default)]
struct Completed {
    /// Segment `k` holds streams `2^k - 1 .. 2^(k+1) - 1`.
    segments: [OnceLock<Box<[Arc<Counter>]>>; 16],
}

/// The last ticket done on a stream.
pub(crate) type Counter = CachePadded<AtomicU64>;

impl Completed {
    fn counter(&self, stream: StreamId) -> Result<&Arc<Counter>> {
        let index = u64::from(stream.0) + 1;
        let segment = index.ilog2() as usize;
        let slot = self.segments.get(segment).ok_or_else(|| {
            Error::invalid_argument(format!(
                "cpu: stream {} is beyond the 65535 streams of a device",
                stream.0
            ))
        })?;
        let counters = slot.get_or_init(|| (0..1usize << segment).map(|_| Arc::default()).collect());
        Ok(&counters[(index - (1 << segment)) as usize])
    }
}
