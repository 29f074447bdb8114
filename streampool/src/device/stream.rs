//! The payload of a slot: what only the stream's present user may touch.

use std::collections::HashMap;
use std::sync::Arc;

use streampool_core::driver::{Bindings, Executable, Queue, Slice};
use streampool_core::memory::{Block, StreamCache};
use streampool_core::timeline::{StreamId, Ticket};

use super::programs::ProgramKey;
use super::{Home, Shared, Storage};
use crate::Result;
use crate::model::Plans;

/// One stream of the device. Travels by value with the right to run; no part of it is shared or locked.
pub(crate) struct Stream {
    queue: Box<dyn Queue>,
    cache: StreamCache,
    pub(crate) home: Arc<Home>,
    /// Number of the last submission.
    last: u64,
    /// Whether submissions have completed when they return.
    inline: bool,
    /// This stream's own table of programs, so that a warm call asks nobody.
    pub(crate) programs: HashMap<ProgramKey, Arc<dyn Executable>>,
    /// Likewise for models.
    pub(crate) plans: Plans,
}

impl Stream {
    pub(crate) fn open(shared: &Arc<Shared>, stream: StreamId) -> Result<Self> {
        let home = Home::new(shared.clone(), stream);
        shared.add_home(home.clone());
        Ok(Self {
            queue: shared.driver.open_queue(stream)?,
            cache: shared.memory.stream_cache(stream)?,
            home,
            last: 0,
            inline: shared.driver.info().inline,
            programs: HashMap::new(),
            plans: Plans::default(),
        })
    }

    /// Memory for a result or scratch, from the stream's own cache first.
    pub(crate) fn alloc(&mut self, bytes: usize) -> Result<Block> {
        self.cache.alloc(bytes)
    }

    /// The last submission.
    pub(crate) fn last_ticket(&self) -> Option<Ticket> {
        (self.last > 0).then_some(Ticket { stream: self.home.stream, number: self.last })
    }

    /// Makes later submissions wait for whatever writes `storage`, unless it is done or earlier on this very stream (INV-5).
    pub(crate) fn order_after(&mut self, storage: &Storage) -> Result<()> {
        match storage.written() {
            Some(ticket)
                if ticket.stream != self.home.stream
                    && self.home.device.driver.completed(ticket.stream) < ticket.number =>
            {
                self.queue.wait_for(ticket)
            }
            _ => Ok(()),
        }
    }

    /// Submits a program. `None` if it has completed already.
    pub(crate) fn launch(&mut self, program: &Arc<dyn Executable>, bindings: &Bindings<'_>) -> Result<Option<Ticket>> {
        self.queue.launch(program, bindings, self.last + 1)?;
        Ok(self.submitted())
    }

    /// Submits a copy from the host.
    pub(crate) fn write(&mut self, to: Slice<'_>, from: &[u8]) -> Result<Option<Ticket>> {
        self.queue.write(to, from, self.last + 1)?;
        Ok(self.submitted())
    }

    /// Copies to the host after all that was submitted here.
    pub(crate) fn read(&mut self, from: Slice<'_>, to: &mut [u8], deadline: std::time::Instant) -> Result<()> {
        self.queue.read(from, to, deadline)
    }

    fn submitted(&mut self) -> Option<Ticket> {
        self.last += 1;
        let ticket = Ticket { stream: self.home.stream, number: self.last };
        self.home.note_submitted(ticket);
        (!self.inline).then_some(ticket)
    }
}
