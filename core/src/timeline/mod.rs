//! Tickets: proof of submitted work; and what is known to be done.
//!
//! Every stream numbers its submissions 1, 2, 3, ... ([`Submissions`]). A [`Ticket`] is a stream and such a number. Work
//! of one stream completes in order (INV-4), so one number per stream says all about it: a [`VectorClock`] is what
//! somebody knows, a [`Board`] is where the owners of the streams publish it.

mod board;
mod clock;

pub use board::{Board, Progress};
pub use clock::VectorClock;

use crate::error::Result;

/// Which stream of a device's pool: `0..pool size`. Stream 0 belongs to the thread that opened the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The id as an index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

/// Proof that work was submitted: the `number`-th submission of a stream. Only [`Submissions::submit`] makes one, and
/// only for work that the driver took, so a wait for a ticket always ends (INV-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Ticket {
    /// The stream the work went to.
    pub stream: StreamId,
    /// Its number on that stream, from 1. Tickets of one stream complete in order (INV-4).
    pub number: u64,
}

/// Numbers the submissions of one stream and issues their tickets.
///
/// It belongs to the stream's resources and travels with the right to run, so that no two threads ever number the
/// same stream. It cannot be cloned.
#[derive(Debug)]
pub struct Submissions {
    stream: StreamId,
    last: u64,
}

impl Submissions {
    /// For a stream to which nothing was submitted.
    pub fn new(stream: StreamId) -> Self {
        Self { stream, last: 0 }
    }

    /// The stream.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Submits: `work` gets the number of this submission and hands it to the driver.
    ///
    /// The ticket exists if and only if `work` succeeded. After an error (or a panic) the number is free again: the
    /// next submission has it.
    pub fn submit(&mut self, work: impl FnOnce(u64) -> Result<()>) -> Result<Ticket> {
        let number = self.last + 1;
        work(number)?;
        self.last = number;
        Ok(Ticket { stream: self.stream, number })
    }

    /// The ticket of the newest submission; `None` before the first. Everything submitted to this stream is done once
    /// it is.
    pub fn last(&self) -> Option<Ticket> {
        (self.last > 0).then_some(Ticket { stream: self.stream, number: self.last })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn only_submitted_work_has_a_ticket() {
        let mut submissions = Submissions::new(StreamId(3));
        assert_eq!(submissions.last(), None);
        assert!(submissions.submit(|_| Err(Error::device_lost("gone"))).is_err());
        assert_eq!(submissions.last(), None, "a refused submission leaves nothing to wait for");
        let mut numbers = Vec::new();
        let mut take = |number| {
            numbers.push(number);
            Ok(())
        };
        let first = submissions.submit(&mut take).unwrap();
        assert_eq!(first, Ticket { stream: StreamId(3), number: 1 });
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            submissions.submit(|_| std::panic::resume_unwind(Box::new("driver")))
        }));
        assert!(caught.is_err());
        let second = submissions.submit(&mut take).unwrap();
        assert_eq!(submissions.last(), Some(second));
        assert_eq!(numbers, [1, 2]);
    }
}
