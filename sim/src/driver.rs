//! The device: its lock, its waits, and what tests see of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use streampool_core::driver::{DeviceInfo, Driver, Executable, Queue, Segment};
use streampool_core::op::Program;
use streampool_core::timeline::{StreamId, Ticket};
use streampool_core::{Error, Result, interrupt};

use crate::fault::{Event, Events};
use crate::program::{Compiler, CpuCompiler, SimExecutable};
use crate::queue::SimQueue;
use crate::random::Random;
use crate::schedule::{Engine, Executed, Pick, Picked};
use crate::{Faults, Mode, SimConfig};

/// Streams that a simulated device can have.
const STREAMS: usize = 4096;

/// Polls without progress after which a lazy device does some work, so that a loop of polls ends.
const POLLS: u64 = 64;

/// The simulated device. A clone is the same device: keep one to steer it while core has the other.
#[derive(Clone)]
pub struct SimDriver {
    shared: Arc<Shared>,
}

/// Counters of one stream that are read without the lock.
#[derive(Default)]
#[repr(align(128))]
struct Counters {
    submitted: AtomicU64,
    completed: AtomicU64,
    polls: AtomicU64,
}

pub(crate) struct Shared {
    info: DeviceInfo,
    compiler: Arc<dyn Compiler>,
    mode: Mode,
    counters: Box<[Counters]>,
    engine: Mutex<Engine>,
    /// Told whenever a step ended or a stream was released.
    progress: Condvar,
}

/// What a thread waits for.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// A ticket is done.
    Done(Ticket),
    /// All that was submitted to a stream is done.
    Drained(StreamId),
    /// A stream has room for a submission.
    Credit(StreamId),
}

impl std::fmt::Debug for SimDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimDriver({})", self.shared.info.description)
    }
}

impl SimDriver {
    /// A device that computes what the CPU's kernels compute.
    pub fn new(config: SimConfig) -> Self {
        Self::with_compiler(config, CpuCompiler::default())
    }

    /// A device that runs what `compiler` makes.
    pub fn with_compiler(config: SimConfig, compiler: impl Compiler + 'static) -> Self {
        let SimConfig { seed, memory_bytes, mode, faults, queue_depth, check_unwritten } = config;
        let info = DeviceInfo {
            name: "sim".into(),
            description: format!("simulated device, seed {seed}, {mode:?} schedule"),
            memory_bytes,
            host_memory: false,
            inline: false,
            queue_depth: queue_depth.max(1),
        };
        let engine = Engine::new(Random::new(seed), memory_bytes, Events::new(faults), check_unwritten);
        let counters = std::iter::repeat_with(Counters::default).take(STREAMS).collect();
        let (engine, progress) = (Mutex::new(engine), Condvar::new());
        Self {
            shared: Arc::new(Shared { info, compiler: Arc::new(compiler), mode, counters, engine, progress }),
        }
    }

    /// Runs one queued entry of any stream, chosen by the seed. Whether there was one that may run.
    pub fn step(&self) -> bool {
        self.shared.step(Pick::Any)
    }

    /// Runs the next queued entry of `stream`. Whether there was one that may run.
    pub fn step_stream(&self, stream: StreamId) -> bool {
        self.shared.step(Pick::Head(stream))
    }

    /// Runs all that may run. How many entries that were.
    pub fn run_all(&self) -> usize {
        std::iter::from_fn(|| self.step().then_some(())).count()
    }

    /// Holds a stream back: nothing of it runs until [`Self::release`].
    pub fn hold(&self, stream: StreamId) {
        self.shared.engine().stream(stream).held = true;
    }

    /// Lets a stream run again.
    pub fn release(&self, stream: StreamId) {
        self.shared.engine().stream(stream).held = false;
        self.shared.progress.notify_all();
    }

    /// Replaces the plan of faults. Events go on being counted from where they are: see [`Self::events`].
    pub fn inject(&self, faults: Faults) {
        self.shared.engine().events.faults = faults;
        self.shared.progress.notify_all();
    }

    /// How many allocations, submissions, executions and compiles there were.
    pub fn events(&self) -> [u64; 4] {
        let engine = self.shared.engine();
        [Event::Allocation, Event::Submission, Event::Execution, Event::Compile]
            .map(|e| engine.events.count(e))
    }

    /// Loses the device, now.
    pub fn lose(&self) {
        self.shared.engine().lose();
        self.shared.publish();
    }

    /// The promises of core that were broken, in words. A test ends with an `assert!` that there are none.
    pub fn violations(&self) -> Vec<String> {
        self.shared.engine().violations.clone()
    }

    /// What ran, in the order in which it ran (the last 65,536 entries). Equal for equal seeds and programs of one thread.
    pub fn trace(&self) -> Vec<Executed> {
        self.shared.engine().trace.iter().copied().collect()
    }

    /// Virtual time: when the last work ended, if each took as long as the seed says and streams ran side by side.
    pub fn virtual_time(&self) -> Duration {
        Duration::from_nanos(self.shared.engine().now)
    }

    /// Bytes in segments that live.
    pub fn used_bytes(&self) -> usize {
        self.shared.engine().memory.used()
    }
}

impl Shared {
    pub(crate) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn coin(&self) -> bool {
        self.engine().random.coin()
    }

    fn counters(&self, stream: StreamId) -> Option<&Counters> {
        self.counters.get(stream.0 as usize)
    }

    /// Shows a submission to polls.
    pub(crate) fn submitted(&self, stream: StreamId, number: u64) {
        if let Some(counters) = self.counters(stream) {
            counters.submitted.store(number, Ordering::Release);
        }
    }

    /// Shows to polls and waiters what every stream came to.
    pub(crate) fn publish(&self) {
        for (id, stream) in &self.engine().streams {
            if let Some(counters) = self.counters(*id) {
                counters.completed.store(stream.completed, Ordering::Release);
            }
        }
        self.progress.notify_all();
    }

    /// Runs one entry. Whether there was one.
    pub(crate) fn step(&self, pick: Pick) -> bool {
        let picked = self.engine().pick(pick);
        match picked {
            Picked::Job(job) => {
                self.run(*job);
                true
            }
            Picked::Busy | Picked::Blocked => false,
        }
    }

    fn run(&self, job: crate::schedule::Job) {
        let stream = job.stream;
        let (job, ended) = job.run();
        let mut engine = self.engine();
        engine.finish(job, ended);
        let (lost, completed) = (engine.lost.is_some(), engine.stream(stream).completed);
        if let Some(counters) = self.counters(stream) {
            counters.completed.store(completed, Ordering::Release);
        }
        drop(engine);
        if lost {
            self.publish();
        }
        self.progress.notify_all();
    }

    /// Works (as the mode allows) and waits until `target` is reached, or fails at the deadline.
    pub(crate) fn until(&self, target: Target, deadline: Instant) -> Result<()> {
        let stream = match target {
            Target::Done(ticket) => ticket.stream,
            Target::Drained(stream) | Target::Credit(stream) => stream,
        };
        loop {
            let mut engine = self.engine();
            let reached = match target {
                Target::Done(ticket) => engine.stream(stream).completed >= ticket.number,
                Target::Drained(stream) => engine.is_drained(stream),
                Target::Credit(stream) => engine.queued(stream) < self.info.queue_depth,
            };
            if reached || engine.lost.is_some() {
                return Ok(());
            }
            let now = Instant::now();
            if now >= deadline {
                let what = match target {
                    Target::Done(ticket) => format!("ticket {} of stream {}", ticket.number, stream.0),
                    Target::Drained(_) => format!("all work of stream {}", stream.0),
                    Target::Credit(_) => format!("room on the full queue of stream {}", stream.0),
                };
                let state = engine.describe(stream);
                return Err(Error::timeout(format!("sim: {what} was not there by the deadline: {state}")));
            }
            let mut picked = Picked::Blocked;
            if self.mode != Mode::Manual {
                // Now and then something that nobody asked for.
                if self.mode != Mode::Eager && engine.random.below(4) == 0 {
                    picked = engine.pick(Pick::Any);
                } else {
                    picked = engine.pick(Pick::Toward(stream));
                }
                if matches!(picked, Picked::Blocked) {
                    picked = engine.pick(Pick::Toward(stream));
                }
            }
            match picked {
                Picked::Job(job) => {
                    drop(engine);
                    self.run(*job);
                }
                Picked::Busy | Picked::Blocked => {
                    let left = interrupt::until(deadline).saturating_duration_since(now);
                    drop(self.progress.wait_timeout(engine, left).unwrap_or_else(PoisonError::into_inner));
                    if interrupt::interrupted() {
                        return Err(Error::timeout("sim: the wait was interrupted"));
                    }
                }
            }
        }
    }
}

impl Driver for SimDriver {
    fn info(&self) -> &DeviceInfo {
        &self.shared.info
    }

    fn open_queue(&self, stream: StreamId) -> Result<Box<dyn Queue>> {
        if self.shared.counters(stream).is_none() {
            return Err(Error::invalid_argument(format!(
                "sim: stream {} is beyond the {STREAMS} streams of a device",
                stream.0
            )));
        }
        if let Some(lost) = &self.shared.engine().lost {
            return Err(lost.clone());
        }
        Ok(Box::new(SimQueue::new(self.shared.clone(), stream)))
    }

    fn allocate(&self, bytes: usize) -> Result<Segment> {
        let mut engine = self.shared.engine();
        let event = engine.event(Event::Allocation);
        if engine.lost.is_some() {
            drop(engine);
            self.shared.publish();
            return event.and(Err(Error::device_lost("sim: the device is lost")));
        }
        event?;
        let address = engine.memory.allocate(bytes)?;
        drop(engine);
        let owner = SimSegment { shared: self.shared.clone(), address };
        Ok(Segment::new(address, bytes, Box::new(owner)))
    }

    fn compile(&self, program: &Program) -> Result<Arc<dyn Executable>> {
        let event = self.shared.engine().event(Event::Compile);
        if event.as_ref().is_err_and(Error::is_device_lost) {
            self.shared.publish();
        }
        event?;
        let host = self.shared.compiler.compile(program)?;
        Ok(Arc::new(SimExecutable::new(program, host)))
    }

    /// Cheap: two loads when nothing is pending. While work is pending a poll now and then runs one entry, for somebody has to.
    fn completed(&self, stream: StreamId) -> u64 {
        let Some(counters) = self.shared.counters(stream) else { return 0 };
        let completed = counters.completed.load(Ordering::Acquire);
        if completed >= counters.submitted.load(Ordering::Acquire) {
            return completed;
        }
        let polls = counters.polls.fetch_add(1, Ordering::Relaxed) + 1;
        let pick = match self.shared.mode {
            Mode::Eager => Some(Pick::Toward(stream)),
            Mode::Random if polls % 4 == 0 => Some(Pick::Any),
            Mode::Lazy | Mode::Random if polls % POLLS == 0 => Some(Pick::Toward(stream)),
            _ => None,
        };
        // Never wait for the lock here.
        let picked = pick.and_then(|pick| Some(self.shared.engine.try_lock().ok()?.pick(pick)));
        if let Some(Picked::Job(job)) = picked {
            self.shared.run(*job);
        }
        counters.completed.load(Ordering::Acquire)
    }

    fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()> {
        {
            let mut engine = self.shared.engine();
            let submitted = engine.stream(ticket.stream).submitted;
            if ticket.number > submitted && engine.lost.is_none() {
                return Err(engine.violation(format!(
                    "INV-12: the host waits for ticket {} of stream {}, of which {submitted} are submitted",
                    ticket.number, ticket.stream.0
                )));
            }
        }
        self.shared.until(Target::Done(ticket), deadline)?;
        self.shared.engine().outcome(ticket)
    }

    fn frozen_bytes(&self) -> usize {
        self.shared.compiler.frozen_bytes()
    }
}

/// Frees device memory when core drops the segment.
struct SimSegment {
    shared: Arc<Shared>,
    address: u64,
}

impl Drop for SimSegment {
    fn drop(&mut self) {
        self.shared.engine().memory.free(self.address);
    }
}
