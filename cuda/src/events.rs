//! Waits between streams where streams cannot wait for 64-bit words: a ring of events a stream, one for each submission that may be in flight.
//!
//! Event `n % depth` is recorded behind submission `n`. When it is recorded anew, submission `n` is done (INV-12: no more than `depth` are in flight), so
//! whoever waits for it then waits for work that is submitted, and later: never for less, and never for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUevent, CUstream};
use streampool_core::Result;
use streampool_core::timeline::{StreamId, Ticket};

use crate::context::Context;
use crate::driver::QUEUE_DEPTH;
use crate::library::check;

/// The events of one stream.
pub(crate) struct Ring {
    context: Arc<Context>,
    events: Vec<CUevent>,
}

// SAFETY: events are handles that the driver lets any thread use.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(context: &Arc<Context>) -> Result<Self> {
        let mut ring = Self { context: context.clone(), events: Vec::with_capacity(QUEUE_DEPTH) };
        for _ in 0..QUEUE_DEPTH {
            let mut event: CUevent = std::ptr::null_mut();
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
            // SAFETY: writes one handle.
            check("making an event", unsafe { sys::cuEventCreate(&mut event, flags) })?;
            ring.events.push(event);
        }
        Ok(ring)
    }

    fn event(&self, number: u64) -> CUevent {
        self.events[(number % QUEUE_DEPTH as u64) as usize]
    }

    /// Marks the end of submission `number`, which was the last on `stream`.
    pub(crate) fn record(&self, number: u64, stream: CUstream) -> Result<()> {
        // SAFETY: both handles live.
        check("recording an event", unsafe { sys::cuEventRecord(self.event(number), stream) })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            for &event in &self.events {
                // SAFETY: made in `new`, destroyed once; the driver keeps what waits for it.
                let _ = unsafe { sys::cuEventDestroy_v2(event) };
            }
        }
    }
}

/// The rings of a device's streams.
#[derive(Default)]
pub(crate) struct Rings {
    rings: Mutex<HashMap<u32, Arc<Ring>>>,
}

impl Rings {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<Ring>>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new ring for a stream that is opened.
    pub(crate) fn open(&self, context: &Arc<Context>, stream: StreamId) -> Result<Arc<Ring>> {
        let ring = Arc::new(Ring::new(context)?);
        self.lock().insert(stream.0, ring.clone());
        Ok(ring)
    }

    /// Forgets the ring of a stream that is closed, unless it was opened again.
    pub(crate) fn close(&self, stream: StreamId, ring: &Arc<Ring>) {
        let mut rings = self.lock();
        if rings.get(&stream.0).is_some_and(|r| Arc::ptr_eq(r, ring)) {
            rings.remove(&stream.0);
        }
    }

    /// Makes `waiter` wait for a ticket. Of a stream that is closed nothing is in flight.
    pub(crate) fn wait(&self, ticket: Ticket, waiter: CUstream) -> Result<()> {
        let Some(ring) = self.lock().get(&ticket.stream.0).cloned() else { return Ok(()) };
        // SAFETY: both handles live.
        let result = unsafe { sys::cuStreamWaitEvent(waiter, ring.event(ticket.number), 0) };
        check("waiting for another stream", result)
    }
}
