//! A device: its driver, its pool of streams, its memory, and the one launch path of eager operations.

mod apply;
mod builder;
mod event;
mod lease;
mod models_gone;
mod programs;
mod storage;
mod stream;
mod transfer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use streampool_core::driver::{DeviceInfo, Driver};
use streampool_core::memory::MemoryPool;
use streampool_core::slot::{Running, SlotPool, Stats};
use streampool_core::timeline::StreamId;
use streampool_sim::SimDriver;

pub(crate) use apply::Arg;
pub use builder::DeviceBuilder;
pub use event::Event;
pub use lease::{StreamLease, StreamScope};
use models_gone::ModelsGone;
use programs::Programs;
pub(crate) use storage::{Home, Storage};
pub(crate) use stream::Stream;
pub use streampool_core::memory::MemoryStats;

use crate::{Error, Result};

/// How long closing a device waits for running work, and how long a wait for submitted work may take, before it is an error.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// `patience` from now, or as far as the clock goes.
pub(crate) fn deadline_after(patience: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(patience).unwrap_or_else(|| now + Duration::from_secs(1 << 30))
}

/// A device that any number of threads may use at once. Cloning gives another handle to the same device.
///
/// The device closes when the last handle, model and tensor of it is gone, or by [`Device::close`].
#[derive(Clone)]
pub struct Device {
    handle: Arc<Handle>,
}

/// Counts the users that keep a device open without being tensors: handles and models.
struct Handle {
    home: Arc<Home>,
}

/// What all handles, models and tensors of a device share. Read only on the hot path.
pub(crate) struct Shared {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) pool: SlotPool<Stream>,
    pub(crate) memory: Arc<MemoryPool>,
    pub(crate) programs: Programs,
    /// Every stream's home, so that it can be told whether tensors live.
    homes: std::sync::Mutex<Vec<Arc<Home>>>,
    /// How many [`Handle`]s there are: once there are none, each dropped tensor looks whether it was the last one.
    handles: AtomicUsize,
    /// Models that are no more, for the streams' tables.
    pub(crate) models_gone: ModelsGone,
    /// The driver once more, if it is a simulated one: for tests to steer it.
    sim: Option<SimDriver>,
}

impl Device {
    /// The CPU. All its cores serve many threads, or one thread's large calls.
    pub fn cpu() -> Result<Device> {
        Self::builder("cpu").open()
    }

    /// A simulated device with default settings: real results, adversarial completion order. For tests.
    pub fn sim() -> Result<Device> {
        Self::builder("sim").open()
    }

    /// An NVIDIA GPU, by its number.
    ///
    /// # Errors
    /// `is_unsupported` naming what is missing (the driver, its libraries, the GPU) and how to get it.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Self::builder(&format!("cuda:{ordinal}")).open()
    }

    /// Names of the devices that can be opened here: those of the build, and the GPUs that the machine has.
    pub fn available() -> Vec<String> {
        let gpus = (0..streampool_cuda::count()).map(|i| format!("cuda:{i}"));
        ["cpu".to_owned(), "sim".to_owned()].into_iter().chain(gpus).collect()
    }

    /// Why no GPU can be used here; `None` if one can.
    pub fn cuda_missing() -> Option<String> {
        streampool_cuda::describe_missing()
    }

    /// A device by name: `"cpu"`, `"sim"`, `"cuda"` or `"cuda:1"`.
    pub fn open(name: &str) -> Result<Device> {
        Self::builder(name).open()
    }

    /// Settings first: pool size, policy, memory limit.
    pub fn builder(name: &str) -> DeviceBuilder {
        DeviceBuilder::new(name)
    }

    pub(crate) fn from_shared(shared: Arc<Shared>) -> Device {
        // A home that belongs to no stream: for calls that start from the device itself.
        shared.handles.fetch_add(1, Ordering::SeqCst);
        let home = Home::new(shared, StreamId(u32::MAX));
        Device { handle: Arc::new(Handle { home }) }
    }

    pub(crate) fn handle(&self) -> &Arc<Home> {
        &self.handle.home
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.home.device
    }

    /// What the device is and has.
    pub fn info(&self) -> &DeviceInfo {
        self.shared().driver.info()
    }

    /// The calling thread's stream: bound now if the thread had none, and kept until the thread ends or, while it runs nothing, a
    /// waiting thread takes it over.
    pub fn current_stream(&self) -> Result<StreamId> {
        Ok(self.shared().enter()?.stream())
    }

    /// [`Device::current_stream`] with the generation of the thread's ownership: no other owner of the stream has the same.
    pub fn current_stream_generation(&self) -> Result<(StreamId, u64)> {
        let stream = self.shared().enter()?;
        Ok((stream.stream(), stream.generation()))
    }

    /// Whether both are handles to one device.
    pub fn is_same(&self, other: &Device) -> bool {
        self.handle().same_device(other.handle())
    }

    /// Says whether the device can be used by this process now.
    ///
    /// # Errors
    /// `is_forked` in the child of a fork, `is_shut_down` once it was closed.
    #[inline]
    pub fn check(&self) -> Result<()> {
        self.shared().pool.gate().check()
    }

    /// The simulated device behind this one, if it is one: tests hold its streams back, step it, and have it fail.
    pub fn sim_driver(&self) -> Option<&SimDriver> {
        self.shared().sim.as_ref()
    }

    /// Waits for all that the calling thread's stream was given.
    pub fn synchronize_stream(&self) -> Result<()> {
        self.synchronize_stream_within(PATIENCE)
    }

    /// [`Device::synchronize_stream`], so long at most.
    ///
    /// # Errors
    /// `is_timeout` afterwards.
    pub fn synchronize_stream_within(&self, patience: Duration) -> Result<()> {
        let shared = self.shared();
        let ticket = shared.enter()?.last_ticket();
        match ticket {
            Some(ticket) => shared.driver.wait(ticket, deadline_after(patience)),
            None => Ok(()),
        }
    }

    /// Waits for all that every stream was given before this call. Other threads go on meanwhile. If the last work of a stream failed,
    /// the others are waited for all the same, and the first such error is returned.
    pub fn synchronize(&self) -> Result<()> {
        self.synchronize_within(PATIENCE)
    }

    /// [`Device::synchronize`], so long at most.
    ///
    /// # Errors
    /// `is_timeout` afterwards.
    pub fn synchronize_within(&self, patience: Duration) -> Result<()> {
        let shared = self.shared();
        shared.pool.gate().check()?;
        let deadline = deadline_after(patience);
        let mut outcome = Ok(());
        for home in shared.homes() {
            if let Some(ticket) = home.submitted() {
                outcome = outcome.and(shared.driver.wait(ticket, deadline));
            }
        }
        outcome
    }

    /// What the pool is doing: streams running, leased, bound, free, and who waits.
    ///
    /// # Errors
    /// `is_forked` in the child of a fork.
    pub fn pool_stats(&self) -> Result<Stats> {
        self.shared().pool.stats()
    }

    /// Bytes live, cached, retired, reserved, the limit and the peaks.
    pub fn memory_stats(&self) -> MemoryStats {
        self.shared().memory.stats()
    }

    /// Panics if the books of the memory do not agree (INV-7). Exact at any time, whatever other threads do; takes every stream's
    /// memory lock, so it is for tests.
    #[doc(hidden)]
    pub fn check_memory(&self) {
        self.shared().memory.check();
    }

    /// Bytes of frozen weights on the device, beside what [`Device::memory_stats`] counts.
    pub fn frozen_bytes(&self) -> usize {
        self.shared().driver.frozen_bytes()
    }

    /// Starts the peaks of [`Device::memory_stats`] anew.
    pub fn reset_peak_memory_stats(&self) {
        self.shared().memory.reset_peak();
    }

    /// What each stream was given and has done, in words: for whoever looks into a hang.
    ///
    /// # Errors
    /// `is_forked` in the child of a fork.
    pub fn describe_streams(&self) -> Result<Vec<String>> {
        let shared = self.shared();
        let stats = shared.pool.stats()?;
        let memory = shared.memory.stream_stats();
        let mut lines = vec![format!(
            "{}: {} streams: {} running, {} leased, {} bound and idle, {} free; {} callers wait for a stream, {} for a turn",
            self.info().name,
            stats.size,
            stats.running,
            stats.leased,
            stats.bound_idle,
            stats.free,
            stats.waiting,
            stats.guests
        )];
        for home in shared.homes() {
            let id = home.stream;
            let done = shared.driver.completed(id);
            let given = home.submitted().map_or(done, |ticket| ticket.number.max(done));
            let bytes =
                memory.iter().find(|(stream, _)| *stream == id).map(|(_, bytes)| *bytes).unwrap_or_default();
            lines.push(format!(
                "{id}: generation {}, submitted {given}, done {done}, {} tensors, {} bytes live, {} cached, {} retired",
                stats.generations.get(id.0 as usize).copied().unwrap_or_default(),
                home.live_tensors(),
                bytes.live,
                bytes.cached,
                bytes.retired
            ));
        }
        Ok(lines)
    }

    /// Gives idle memory back to the device.
    pub fn empty_cache(&self) -> Result<()> {
        self.shared().pool.gate().check()?;
        self.shared().memory.empty_cache();
        Ok(())
    }

    /// Changes the most bytes that may be taken from the device.
    pub fn set_memory_limit(&self, bytes: usize) {
        self.shared().memory.set_limit(bytes);
    }

    /// How many programs of single operations were compiled so far: one per operation and operand types, however many
    /// threads asked.
    pub fn compile_count(&self) -> u64 {
        self.shared().programs.compile_count()
    }

    /// Waits until no thread runs anything (at most `patience`), then closes the device: from then on every call says
    /// `is_shut_down`. Tensors may be dropped later.
    pub fn close(&self, patience: Duration) -> Result<()> {
        self.shared().close(patience)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.info().name)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.home.device.handles.fetch_sub(1, Ordering::SeqCst);
        self.home.device.close_if_unused();
    }
}

impl Shared {
    /// The right to run on a stream: the calling thread's, or whatever the pool's policy gives.
    #[inline]
    pub(crate) fn enter(&self) -> Result<Running<'_, Stream>> {
        let mut stream = self.pool.enter()?;
        self.models_gone.sweep(&mut stream);
        Ok(stream)
    }

    /// [`Shared::enter`] if the thread has a stream and it is at rest.
    #[inline]
    pub(crate) fn try_enter(&self) -> Result<Option<Running<'_, Stream>>> {
        let Some(mut stream) = self.pool.try_enter()? else { return Ok(None) };
        self.models_gone.sweep(&mut stream);
        Ok(Some(stream))
    }

    pub(crate) fn homes(&self) -> Vec<Arc<Home>> {
        self.homes.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub(crate) fn add_home(&self, home: Arc<Home>) {
        self.homes.lock().unwrap_or_else(|e| e.into_inner()).push(home);
    }

    fn close(&self, patience: Duration) -> Result<()> {
        let drained = self.pool.close(patience)?;
        let running = drained.running.len();
        // What was submitted is done before queues and memory go (INV-11).
        let deadline = Instant::now() + patience;
        for home in self.homes() {
            if let Some(ticket) = home.submitted() {
                // Errors of that work belong to those who wait for it; closing goes on.
                let _ = self.driver.wait(ticket, deadline);
            }
        }
        drop(drained);
        if running > 0 {
            return Err(Error::timeout(format!(
                "close: {running} streams still run after {patience:?}; they are refused from now on, close again to wait longer"
            )));
        }
        self.programs.clear();
        self.homes.lock().unwrap_or_else(|e| e.into_inner()).clear();
        self.memory.empty_cache();
        Ok(())
    }

    /// Closes the device if the last handle and model are gone and no tensor lives. Whoever drops the last of them gets here after
    /// taking itself off its count, so of several that drop at once the last one sees that nothing is left.
    pub(crate) fn close_if_unused(&self) {
        if self.handles.load(Ordering::SeqCst) != 0 || self.pool.gate().is_forked() {
            return;
        }
        if self.homes().iter().all(|home| home.live_tensors() == 0) {
            // Nobody is left who could be told of an error; running work is waited for all the same.
            let _ = self.close(PATIENCE);
        }
    }
}
