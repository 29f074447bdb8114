//! The payload of a slot: what only the stream's present user may touch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use streampool_core::driver::{Bindings, Executable, Queue, Slice};
use streampool_core::memory::{Block, StreamCache};
use streampool_core::timeline::{StreamId, Submissions, Ticket};

use super::programs::ProgramKey;
use super::{Home, Shared, Storage};
use crate::Result;
use crate::model::Plans;

/// Programs that a stream's table keeps; the device's cache keeps the rest.
const TABLE: usize = 512;

/// One stream of the device. Travels by value with the right to run; no part of it is shared or locked.
pub(crate) struct Stream {
    queue: Box<dyn Queue>,
    cache: StreamCache,
    pub(crate) home: Arc<Home>,
    submissions: Submissions,
    /// Whether submissions have completed when they return.
    inline: bool,
    /// This stream's own table of programs, so that a warm call asks nobody.
    pub(crate) programs: HashMap<ProgramKey, Arc<Arc<dyn Executable>>>,
    /// Likewise for models.
    pub(crate) plans: Plans,
    /// How many models were gone when this stream last let go of their plans.
    pub(crate) models_swept: u64,
}

impl Stream {
    pub(crate) fn open(shared: &Arc<Shared>, stream: StreamId) -> Result<Self> {
        let home = Home::new(shared.clone(), stream);
        shared.add_home(home.clone());
        Ok(Self {
            queue: shared.driver.open_queue(stream)?,
            cache: shared.memory.stream_cache(stream)?,
            home,
            submissions: Submissions::new(stream),
            inline: shared.driver.info().inline,
            programs: HashMap::new(),
            plans: Plans::default(),
            models_swept: shared.models_gone.count(),
        })
    }

    /// Memory for a result or scratch, from the stream's own cache first.
    pub(crate) fn alloc(&mut self, bytes: usize) -> Result<Block> {
        self.cache.alloc(bytes)
    }

    /// The last submission.
    pub(crate) fn last_ticket(&self) -> Option<Ticket> {
        self.submissions.last()
    }

    /// Whether a host array can be bound as it is.
    pub(crate) fn binds_host_memory(&self) -> bool {
        self.inline
    }

    /// Makes later submissions wait for whatever writes `storage`, unless it is done or earlier on this very stream (INV-5).
    pub(crate) fn order_after(&mut self, storage: &Storage) -> Result<()> {
        storage.written().map_or(Ok(()), |ticket| self.order_after_ticket(ticket))
    }

    /// Makes later submissions wait for `ticket`, unless it is done or of this very stream.
    pub(crate) fn order_after_ticket(&mut self, ticket: Ticket) -> Result<()> {
        if ticket.stream == self.home.stream
            || self.home.device.driver.completed(ticket.stream) >= ticket.number
        {
            return Ok(());
        }
        self.queue.wait_for(ticket)
    }

    /// Submits a program. `None` if it has completed already.
    pub(crate) fn launch(
        &mut self,
        program: &Arc<dyn Executable>,
        bindings: &Bindings<'_>,
    ) -> Result<Option<Ticket>> {
        let ticket = self.submissions.submit(|number| self.queue.launch(program, bindings, number))?;
        Ok(self.pending(ticket))
    }

    /// Submits a copy from the host.
    pub(crate) fn write(&mut self, to: Slice<'_>, from: &[u8]) -> Result<Option<Ticket>> {
        let ticket = self.submissions.submit(|number| self.queue.write(to, from, number))?;
        Ok(self.pending(ticket))
    }

    /// Copies to the host after all that was submitted here.
    pub(crate) fn read(&mut self, from: Slice<'_>, to: &mut [u8], deadline: Instant) -> Result<()> {
        self.queue.read(from, to, deadline)
    }

    fn pending(&mut self, ticket: Ticket) -> Option<Ticket> {
        if self.inline {
            return None;
        }
        self.home.note_submitted(ticket);
        Some(ticket)
    }

    /// Remembers a program for the next call. The outer `Arc` is this stream's own, so that using it moves no count of others.
    pub(crate) fn remember_program(
        &mut self,
        key: ProgramKey,
        program: Arc<dyn Executable>,
    ) -> Arc<Arc<dyn Executable>> {
        if self.programs.len() >= TABLE {
            self.programs.clear();
        }
        let own = Arc::new(program);
        self.programs.insert(key, own.clone());
        own
    }
}
