//! What the workers of a program share: the device, the blame, the mailbox; and what must hold at the end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use streampool::sim::{Faults, SimConfig, SimDriver};
use streampool::{Device, Policy, StreamId};

use crate::blame::{Blame, Tally};
use crate::step::{Fault, Setup};
use crate::value::{Frozen, Value};

/// Longer than any program takes, shorter than the device's own patience.
const WATCHDOG: Duration = Duration::from_secs(50);
const TICK: Duration = Duration::from_millis(100);

pub(crate) struct World<'t> {
    /// The first to be dropped.
    held: Held,
    pub(crate) device: Device,
    pub(crate) sim: SimDriver,
    pub(crate) frozen: Frozen,
    pub(crate) streams: usize,
    pub(crate) queue_depth: usize,
    blame: Mutex<Blame>,
    faults: Mutex<Faults>,
    mailbox: Mutex<VecDeque<Value>>,
    calls: AtomicU64,
    pub(crate) tally: &'t Tally,
}

/// Streams that are held back. Let go also when a check fails, or the device would wait for them while it closes.
struct Held(SimDriver, u32);

impl Held {
    fn release(&self) {
        (0..self.1).for_each(|stream| self.0.release(StreamId(stream)));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

impl<'t> World<'t> {
    pub(crate) fn new(setup: Setup, streams: usize, policy: Policy, threads: bool, tally: &'t Tally) -> Self {
        let Setup { seed, mode, queue_depth, .. } = setup;
        let sim = SimDriver::new(SimConfig { seed, mode, queue_depth, ..SimConfig::default() });
        let driver = Arc::new(sim.clone());
        let device = Device::builder("sim").driver(driver).streams(streams).policy(policy).open().unwrap();
        let frozen = Frozen::new(&device).unwrap();
        let blame = Blame::new(threads);
        Self {
            held: Held(sim.clone(), streams as u32),
            device,
            sim,
            frozen,
            streams,
            queue_depth,
            blame: Mutex::new(blame),
            faults: Mutex::default(),
            mailbox: Mutex::default(),
            calls: AtomicU64::new(0),
            tally,
        }
    }

    pub(crate) fn blame(&self) -> MutexGuard<'_, Blame> {
        self.blame.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mailbox(&self) -> MutexGuard<'_, VecDeque<Value>> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names a call.
    pub(crate) fn call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets the event that is `ahead` from now go wrong.
    pub(crate) fn inject(&self, kind: Fault, ahead: u64) {
        let mut faults = self.faults.lock().unwrap();
        let [allocations, submissions, executions, compiles] = self.sim.events();
        let mut blame = self.blame();
        let plan = faults.clone();
        let (plan, set, n) = match kind {
            Fault::Allocation => {
                (plan.fail_allocation(allocations + ahead), &mut blame.allocations, allocations)
            }
            Fault::Submission => {
                (plan.fail_submission(submissions + ahead), &mut blame.submissions, submissions)
            }
            Fault::Execution => (plan.fail_execution(executions + ahead), &mut blame.executions, executions),
            Fault::Compile => (plan.fail_compile(compiles + ahead), &mut blame.compiles, compiles),
        };
        set.insert(n + ahead);
        *faults = plan.clone();
        self.sim.inject(plan);
    }

    /// Nothing is held back any more.
    pub(crate) fn release(&self) {
        self.held.release();
    }

    /// What must hold when all workers are gone.
    pub(crate) fn finish(self) {
        self.release();
        self.mailbox().clear();
        let closed = self.blame().closed;
        let Self { device, sim, frozen, held, .. } = self;
        drop(held);
        device.check_memory();
        if !closed {
            // An error here is the last submission's own, which somebody else was told of, or nobody asked for.
            let _ = device.synchronize();
            let stats = device.pool_stats().unwrap();
            assert_eq!(
                (stats.running, stats.leased, stats.waiting, stats.guests),
                (0, 0, 0, 0),
                "INV-2: {stats:?}"
            );
            assert_eq!(stats.bound_idle + stats.free, stats.size, "INV-2: {stats:?}");
            device.empty_cache().unwrap();
            let memory = device.memory_stats();
            assert_eq!(
                (memory.live, memory.cached, memory.retired, memory.reserved, sim.used_bytes()),
                (0, 0, 0, 0, 0),
                "INV-7: {memory:?}"
            );
        }
        device.close(Duration::from_secs(10)).unwrap();
        assert!(device.current_stream().unwrap_err().is_shut_down(), "INV-11");
        drop((frozen, device));
        assert_eq!(sim.used_bytes(), 0, "INV-7: all bytes go back to the device");
        assert_eq!(sim.violations(), Vec::<String>::new());
    }
}

/// Runs `program` on a thread of its own, with an end to every hang.
pub(crate) fn watched(what: &impl std::fmt::Debug, program: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        program();
        drop(done);
    });
    // In ticks, so that a suspended process does not look like one that hangs.
    let mut ticks = 0;
    while finished.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
        ticks += 1;
        assert!(TICK * ticks < WATCHDOG, "INV-12: this hangs: {what:?}");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What a thread does when all streams are taken: there are few, so that it matters.
pub(crate) fn policy(setup: Setup, otherwise: Policy) -> Policy {
    if setup.share { Policy::Share } else { otherwise }
}
