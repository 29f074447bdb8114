//! Points in a stream's work that others can wait for.

use std::time::{Duration, Instant};

use streampool_core::timeline::Ticket;

use super::{Device, PATIENCE, deadline_after};
use crate::{Error, Result};

/// What a stream had been given when the event was recorded. Tensors need none: they are ordered by themselves. An event is for a
/// host that wants to know when work is done, and for work whose order the data does not tell.
#[derive(Clone)]
pub struct Event {
    device: Device,
    ticket: Option<Ticket>,
    recorded: Instant,
}

impl Device {
    /// Records what the calling thread's stream was given so far.
    ///
    /// # Errors
    /// As for every entry: `is_pool_exhausted`, `is_shut_down`, `is_forked`.
    pub fn record_event(&self) -> Result<Event> {
        let ticket = self.shared().enter()?.last_ticket();
        Ok(Event { device: self.clone(), ticket, recorded: Instant::now() })
    }

    /// Makes what the calling thread's stream is given from now on wait, on the device, for the event. The host does not wait.
    ///
    /// # Errors
    /// `is_invalid_argument` if the event is of another device; as for every entry.
    pub fn wait_event(&self, event: &Event) -> Result<()> {
        if !self.handle().same_device(event.device.handle()) {
            return Err(Error::invalid_argument(format!(
                "wait_event: the event was recorded on another device ({:?}) than this one ({self:?}); synchronize it instead",
                event.device
            )));
        }
        let mut stream = self.shared().enter()?;
        match event.ticket {
            Some(ticket) => stream.order_after_ticket(ticket),
            None => Ok(()),
        }
    }
}

impl Event {
    /// The device whose work it marks.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// When it was recorded, by the host's clock.
    pub fn recorded(&self) -> Instant {
        self.recorded
    }

    /// Whether all that it marks is done. Does not wait.
    ///
    /// # Errors
    /// `is_forked`, `is_shut_down`.
    pub fn is_done(&self) -> Result<bool> {
        self.device.check()?;
        let driver = &self.device.shared().driver;
        Ok(self.ticket.is_none_or(|ticket| driver.completed(ticket.stream) >= ticket.number))
    }

    /// Waits until all that it marks is done, for a minute at most.
    ///
    /// # Errors
    /// `is_timeout`; the error of the work itself; `is_forked`, `is_shut_down`.
    pub fn synchronize(&self) -> Result<()> {
        self.wait(PATIENCE)
    }

    /// Waits until all that it marks is done, so long at most.
    ///
    /// # Errors
    /// As [`Event::synchronize`].
    pub fn wait(&self, patience: Duration) -> Result<()> {
        self.device.check()?;
        match self.ticket {
            Some(ticket) => self.device.shared().driver.wait(ticket, deadline_after(patience)),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ticket {
            Some(ticket) => write!(f, "Event(ticket {} of {})", ticket.number, ticket.stream),
            None => f.write_str("Event(nothing to wait for)"),
        }
    }
}
