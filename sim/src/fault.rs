//! Faults that the device shows on demand.

use std::collections::BTreeSet;

use streampool_core::Error;
use streampool_core::timeline::StreamId;

/// Which events go wrong. Events of a kind are counted from 1 for the life of the device.
///
/// ```
/// use streampool_sim::Faults;
/// let faults = Faults::default().fail_allocation(3).fail_execution(10).lose_device_at(500);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Faults {
    allocations: BTreeSet<u64>,
    submissions: BTreeSet<u64>,
    executions: BTreeSet<u64>,
    compiles: BTreeSet<u64>,
    lost_at: Option<u64>,
    stalled: Vec<(StreamId, u64)>,
}

impl Faults {
    /// The `n`-th call of `allocate` fails: `is_out_of_memory`.
    #[must_use]
    pub fn fail_allocation(mut self, n: u64) -> Self {
        self.allocations.insert(n);
        self
    }

    /// The `n`-th launch or write is refused when it is submitted: `is_internal`, "injected".
    #[must_use]
    pub fn fail_submission(mut self, n: u64) -> Self {
        self.submissions.insert(n);
        self
    }

    /// The `n`-th launch or write that executes fails: the failure of its ticket, `is_internal`, "injected".
    #[must_use]
    pub fn fail_execution(mut self, n: u64) -> Self {
        self.executions.insert(n);
        self
    }

    /// The `n`-th call of `compile` fails: `is_internal`, "injected".
    #[must_use]
    pub fn fail_compile(mut self, n: u64) -> Self {
        self.compiles.insert(n);
        self
    }

    /// The device is lost at its `n`-th event (allocations, submissions, executions and compiles together) and ever after.
    #[must_use]
    pub fn lose_device_at(mut self, n: u64) -> Self {
        self.lost_at = Some(n);
        self
    }

    /// A stream stalls: nothing of it from ticket `from` on ever runs, and host waits for it end at their deadlines.
    #[must_use]
    pub fn stall(mut self, stream: StreamId, from: u64) -> Self {
        self.stalled.push((stream, from));
        self
    }
}

/// A kind of event, for [`Events::happens`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Allocation,
    Submission,
    Execution,
    Compile,
}

/// Counts events and says which go wrong.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) faults: Faults,
    counts: [u64; 4],
}

/// What an injected fault does to an event.
pub(crate) enum Outcome {
    Fine,
    Fails(Error),
    LosesDevice,
}

impl Events {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, counts: [0; 4] }
    }

    /// Counts an event and says how it goes.
    pub(crate) fn happens(&mut self, event: Event) -> Outcome {
        self.counts[event as usize] += 1;
        let n = self.counts[event as usize];
        if self.faults.lost_at.is_some_and(|at| self.counts.iter().sum::<u64>() >= at) {
            return Outcome::LosesDevice;
        }
        let faults = &self.faults;
        let (set, what) = match event {
            Event::Allocation => (&faults.allocations, "allocation"),
            Event::Submission => (&faults.submissions, "submission"),
            Event::Execution => (&faults.executions, "execution"),
            Event::Compile => (&faults.compiles, "compile"),
        };
        if !set.contains(&n) {
            return Outcome::Fine;
        }
        let text = format!("sim: injected fault: {what} {n} fails");
        Outcome::Fails(match event {
            Event::Allocation => Error::out_of_memory(text),
            _ => Error::internal(text),
        })
    }

    /// Whether the work under this ticket is stalled.
    pub(crate) fn stalled(&self, stream: StreamId, number: u64) -> bool {
        self.faults.stalled.iter().any(|&(s, from)| s == stream && number >= from)
    }

    /// How many events of a kind there were.
    pub(crate) fn count(&self, event: Event) -> u64 {
        self.counts[event as usize]
    }
}
