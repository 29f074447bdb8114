//! Steering a simulated device from tests.

use pyo3::prelude::*;
use streampool::StreamId;
use streampool::sim::{Faults, SimDriver};

/// Steers a simulated device: holds streams back, steps it, has it fail. Got as `device.sim`.
#[pyclass(frozen, name = "SimControl", module = "streampool")]
pub(crate) struct PySimControl(pub(crate) SimDriver);

#[pymethods]
impl PySimControl {
    /// Holds a stream back: nothing of it runs until `release`.
    fn hold(&self, stream: u32) {
        self.0.hold(StreamId(stream));
    }

    /// Lets a stream run again.
    fn release(&self, stream: u32) {
        self.0.release(StreamId(stream));
    }

    /// Runs one queued entry of any stream. Whether there was one that may run.
    fn step(&self, py: Python<'_>) -> bool {
        py.detach(|| self.0.step())
    }

    /// Runs the next queued entry of a stream. Whether there was one that may run.
    fn step_stream(&self, py: Python<'_>, stream: u32) -> bool {
        py.detach(|| self.0.step_stream(StreamId(stream)))
    }

    /// Runs all that may run. How many entries that were.
    fn run_all(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.run_all())
    }

    /// Which events go wrong from now on: the n-th allocation, submission, execution or compile, counted from the opening of the device
    /// (see `events`); the device is lost at its n-th event; a stream stalls from a ticket on. Without arguments: none.
    #[pyo3(signature = (*, allocation=None, submission=None, execution=None, compile=None, lost_at=None, stall=None))]
    fn inject(
        &self,
        allocation: Option<u64>,
        submission: Option<u64>,
        execution: Option<u64>,
        compile: Option<u64>,
        lost_at: Option<u64>,
        stall: Option<(u32, u64)>,
    ) {
        let mut faults = Faults::default();
        if let Some(n) = allocation {
            faults = faults.fail_allocation(n);
        }
        if let Some(n) = submission {
            faults = faults.fail_submission(n);
        }
        if let Some(n) = execution {
            faults = faults.fail_execution(n);
        }
        if let Some(n) = compile {
            faults = faults.fail_compile(n);
        }
        if let Some(n) = lost_at {
            faults = faults.lose_device_at(n);
        }
        if let Some((stream, ticket)) = stall {
            faults = faults.stall(StreamId(stream), ticket);
        }
        self.0.inject(faults);
    }

    /// How many allocations, submissions, executions and compiles there were.
    fn events(&self) -> [u64; 4] {
        self.0.events()
    }

    /// Loses the device, now.
    fn lose(&self, py: Python<'_>) {
        py.detach(|| self.0.lose());
    }

    /// The promises of the runtime that were broken, in words. A test asserts that there are none.
    fn violations(&self) -> Vec<String> {
        self.0.violations()
    }

    /// Bytes in segments that live.
    fn used_bytes(&self) -> usize {
        self.0.used_bytes()
    }
}
