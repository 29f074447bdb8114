//! The simulated device: a [`Driver`](streampool_core::driver::Driver) with real bytes whose every freedom is used against its user.
//!
//! What the driver contract leaves open, a seeded adversary decides: work of different streams completes in any order ([`Mode`]),
//! fresh and freed memory is full of garbage, submissions complete late, and [`Faults`] strike. What the contract
//! demands of core is watched: see [`SimDriver::violations`]. Runs of one thread are the same for the same seed.
//!
//! Results are those of the host programs that a [`Compiler`] makes, so they can be compared bit for bit with the CPU's.
//!
//! Failed work belongs to its ticket: [`Driver::wait`](streampool_core::driver::Driver::wait) on that very ticket gives the error. It *taints* the
//! bytes that it should have written: work or reads that depend on them fail with the same error, until they are overwritten. No other
//! call ever sees it.
#![forbid(unsafe_code)]

mod driver;
mod fault;
mod memory;
mod program;
mod queue;
mod random;
mod schedule;

pub use driver::SimDriver;
pub use fault::Faults;
pub use program::{Compiler, HostProgram};
pub use schedule::Executed;

/// When submitted work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// At submission, unless it waits for a stream that is held back.
    Eager,
    /// Some of it at each submission and poll, across streams in random order; the rest when waited for.
    #[default]
    Random,
    /// As late as possible: when a host wait or a full queue needs it, and little else.
    Lazy,
    /// Only when [`SimDriver::step`] and its like say so. Host waits just wait.
    Manual,
}

/// How a simulated device is set up.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Decides the schedule, the garbage and the virtual durations.
    pub seed: u64,
    /// Bytes that the device has.
    pub memory_bytes: usize,
    /// When submitted work runs.
    pub mode: Mode,
    /// What goes wrong.
    pub faults: Faults,
    /// Submissions in flight on one queue before a submission runs some first.
    pub queue_depth: usize,
    /// Whether a launch or host read of bytes that nothing ever wrote is a violation. Off by default: views with gaps may do so.
    pub check_unwritten: bool,
}

impl Default for SimConfig {
    /// Seed 0, 1 GiB, random schedule, no faults, 64 in flight.
    fn default() -> Self {
        Self {
            seed: 0,
            memory_bytes: 1 << 30,
            mode: Mode::default(),
            faults: Faults::default(),
            queue_depth: 64,
            check_unwritten: false,
        }
    }
}
