//! A stream of the CPU: work runs on the thread that submits it.

use std::ptr::with_exposed_provenance;
use std::ptr::with_exposed_provenance_mut;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use streampool_core::driver::{Bindings, Executable, Queue, Slice};
use streampool_core::timeline::Ticket;
use streampool_core::{Error, Result};

use crate::driver::Counter;
use crate::program::{CpuExecutable, Executor};
use crate::team::Team;

/// The inline queue.
pub(crate) struct CpuQueue {
    /// Last ticket done. Written here only; on its own cache line.
    done: Arc<Counter>,
    executor: Executor,
}

impl CpuQueue {
    pub(crate) fn new(done: Arc<Counter>, team: Arc<Team>) -> Self {
        Self { done, executor: Executor::new(team) }
    }
}

impl Queue for CpuQueue {
    fn launch(&mut self, program: &Arc<dyn Executable>, bindings: &Bindings<'_>, number: u64) -> Result<()> {
        let program = (**program)
            .as_any()
            .downcast_ref::<CpuExecutable>()
            .ok_or_else(|| Error::invalid_argument("cpu: the program was compiled for another device"))?;
        // The number of failed work is free again: its error belongs to this very call.
        self.executor.run(program, bindings)?;
        self.done.store(number, Ordering::Release);
        Ok(())
    }

    fn write(&mut self, to: Slice<'_>, from: &[u8], number: u64) -> Result<()> {
        if from.len() > to.bytes() {
            return Err(Error::invalid_argument(format!(
                "cpu: {} bytes do not fit a slice of {}",
                from.len(),
                to.bytes()
            )));
        }
        let target = with_exposed_provenance_mut::<u8>(to.address() as usize);
        // SAFETY: a slice is memory of its length, valid and not otherwise used while submitted work is under way (INV-5, INV-6); its
        // provenance was exposed where it was made. `copy` allows overlap.
        unsafe { std::ptr::copy(from.as_ptr(), target, from.len()) };
        self.done.store(number, Ordering::Release);
        Ok(())
    }

    fn read(&mut self, from: Slice<'_>, to: &mut [u8], _deadline: Instant) -> Result<()> {
        if to.len() > from.bytes() {
            return Err(Error::invalid_argument(format!(
                "cpu: {} bytes were asked of a slice of {}",
                to.len(),
                from.bytes()
            )));
        }
        let source = with_exposed_provenance::<u8>(from.address() as usize);
        // SAFETY: as in `write`; everything submitted to this queue has completed.
        unsafe { std::ptr::copy(source, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn wait_for(&mut self, _ticket: Ticket) -> Result<()> {
        // A ticket exists only for submitted work, and submitted work has completed (INV-12). Whoever handed the ticket over
        // handed its writes over too: the hand-over itself orders them.
        Ok(())
    }
}
