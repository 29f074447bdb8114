//! A planted early reuse, one ticket too soon: shows that the checks of this suite see it, each on its own.
//!
//! The device tells the truth but for one moment: while a tensor is dropped, it says that the work of the stream that still reads the
//! tensor is one ticket further than it is. Only memory asks at that moment, so the tensor's block is reused one ticket too early, and
//! all else is as it should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use streampool::sim::{Mode, SimConfig, SimDriver};
use streampool::{Device, Result, StreamId, Tensor};
use streampool_core::driver::{DeviceInfo, Driver, Executable, Queue, Segment};
use streampool_core::op::Program;
use streampool_core::timeline::Ticket;

/// A simulated device that may say that more is done than is.
struct Hasty {
    sim: SimDriver,
    /// How many tickets too many it says are done.
    early: Arc<AtomicU64>,
}

impl Driver for Hasty {
    fn info(&self) -> &DeviceInfo {
        self.sim.info()
    }
    fn open_queue(&self, stream: StreamId) -> Result<Box<dyn Queue>> {
        self.sim.open_queue(stream)
    }
    fn allocate(&self, bytes: usize) -> Result<Segment> {
        self.sim.allocate(bytes)
    }
    fn compile(&self, program: &Program) -> Result<Arc<dyn Executable>> {
        self.sim.compile(program)
    }
    fn completed(&self, stream: StreamId) -> u64 {
        self.sim.completed(stream) + self.early.load(Ordering::SeqCst)
    }
    fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()> {
        self.sim.wait(ticket, deadline)
    }
    fn frozen_bytes(&self) -> usize {
        self.sim.frozen_bytes()
    }
}

/// What the checks saw.
#[derive(Debug, PartialEq)]
struct Seen {
    /// The block was handed out again while the other stream's work was pending: part 5 of "record stream".
    reused: bool,
    /// The device saw INV-5 or INV-6 broken.
    violation: bool,
    /// The values are those of the sequential computation.
    right: bool,
}

/// One stream makes a tensor, another reads it and is held back `behind` tickets before that is done, the first drops it and makes another
/// of the same size.
fn hand_over_and_drop(early: u64, behind: usize) -> Seen {
    let sim = SimDriver::new(SimConfig { mode: Mode::Manual, ..SimConfig::default() });
    let says = Arc::new(AtomicU64::new(0));
    let hasty = Arc::new(Hasty { sim: sim.clone(), early: says.clone() });
    let device = Device::builder("sim").driver(hasty).streams(2).open().unwrap();
    let (own, other) = (device.lease().unwrap(), device.lease().unwrap());

    let first: Vec<f32> = (1..=64).map(|i| i as f32).collect();
    let x = own.scope(|| Tensor::from_slice(&device, &first, [64])).unwrap();
    sim.run_all();
    // `behind` submissions of the other stream; the last of them reads x.
    let before: Vec<Tensor> = other
        .scope(|| (1..behind).map(|_| Tensor::ones(&device, [2], streampool::DType::F32).unwrap()).collect());
    let y = other.scope(|| x.neg()).unwrap();
    sim.hold(other.stream());

    says.store(early, Ordering::SeqCst);
    drop(x);
    says.store(0, Ordering::SeqCst);

    let cached = device.memory_stats().cached;
    let retired = device.memory_stats().retired;
    let second = vec![-7.0f32; 64];
    let z = own.scope(|| Tensor::from_slice(&device, &second, [64])).unwrap();
    // On its own stream, so that what it does is as it should be.
    let reused = retired == 0 && device.memory_stats().cached < cached;
    sim.run_all();
    sim.release(other.stream());
    sim.run_all();
    let negated: Vec<f32> = first.iter().map(|x| -x).collect();
    let read = |lease: &streampool::StreamLease, tensor: &Tensor| lease.scope(|| tensor.to_vec::<f32>()).ok();
    let right = read(&other, &y) == Some(negated) && read(&own, &z) == Some(second);
    drop(before);
    Seen { reused, violation: !sim.violations().is_empty(), right }
}

#[test]
fn without_the_fault_the_block_is_withheld_and_all_is_right() {
    for behind in 1..4 {
        assert_eq!(hand_over_and_drop(0, behind), Seen { reused: false, violation: false, right: true });
    }
}

#[test]
fn a_reuse_one_ticket_too_soon_is_caught_by_three_checks() {
    // One ticket before the last reader is done: one too soon.
    let seen = hand_over_and_drop(1, 1);
    println!("planted early reuse: {seen:?}");
    assert!(seen.reused, "the record-stream check: withheld until the work is done");
    assert!(seen.violation, "the device's own check of INV-5 and INV-6");
    assert!(!seen.right, "the values");
}

#[test]
fn one_ticket_more_or_less_decides() {
    // Two tickets are pending, and the device says one too many: still withheld.
    assert_eq!(hand_over_and_drop(1, 2), Seen { reused: false, violation: false, right: true });
    assert!(hand_over_and_drop(2, 2).violation);
}
