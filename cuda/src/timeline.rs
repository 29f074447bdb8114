//! Tickets: a 64-bit word per stream in pinned memory, which the stream writes after each submission.
//!
//! Hosts read it without asking the driver; other streams wait for it on the device. Words only grow (INV-4), as a stream writes in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use streampool_core::timeline::StreamId;
use streampool_core::{Error, Result};

use crate::context::Context;
use crate::leaving;
use crate::memory::PinnedMemory;

/// Streams that a device can have.
pub(crate) const STREAMS: usize = 4096;

/// A word on a cache line pair of its own: what one stream writes is not what another's waiter polls.
const LINE: usize = 128;

/// How long a waiter polls before it lets others run, and before it sleeps between polls.
const SPIN: Duration = Duration::from_micros(60);
const YIELD: Duration = Duration::from_micros(400);

/// The words of all streams.
pub(crate) struct Timeline {
    context: Arc<Context>,
    words: PinnedMemory,
}

impl Timeline {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self> {
        Ok(Self { context: context.clone(), words: PinnedMemory::new(context, STREAMS * LINE)? })
    }

    pub(crate) fn check(&self, stream: StreamId) -> Result<()> {
        if (stream.0 as usize) < STREAMS {
            return Ok(());
        }
        Err(Error::invalid_argument(format!(
            "cuda: stream {} is beyond the {STREAMS} streams of a device",
            stream.0
        )))
    }

    /// The word of a stream. `part` 0 is its tickets, 1 the queue's own checkpoints.
    pub(crate) fn word(&self, stream: StreamId, part: usize) -> &AtomicU64 {
        let offset = stream.0 as usize % STREAMS * LINE + part * 64;
        // SAFETY: within the words, aligned, zeroed at first, and written by the device and hosts as whole 64-bit words only.
        unsafe { AtomicU64::from_ptr(self.words.as_ptr().add(offset).cast()) }
    }

    /// Its address for the device.
    pub(crate) fn address(&self, stream: StreamId, part: usize) -> u64 {
        self.words.device_address(stream.0 as usize % STREAMS * LINE + part * 64)
    }

    pub(crate) fn completed(&self, stream: StreamId) -> u64 {
        if (stream.0 as usize) < STREAMS { self.word(stream, 0).load(Ordering::Acquire) } else { 0 }
    }

    /// Polls until the word reaches `number`: at once, then politely, then asleep, looking now and then whether the device still works.
    pub(crate) fn wait(&self, stream: StreamId, part: usize, number: u64, deadline: Instant) -> Result<()> {
        let word = self.word(stream, part);
        let reached = || word.load(Ordering::Acquire) >= number;
        if reached() {
            return Ok(());
        }
        let start = Instant::now();
        let mut looked = start;
        loop {
            // The word goes with the driver.
            leaving::check()?;
            for _ in 0..64 {
                if reached() {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            let waited = now - start;
            if waited < SPIN {
                continue;
            }
            if now - looked > Duration::from_millis(20) {
                looked = now;
                self.context.alive()?;
            }
            if now >= deadline {
                return Err(Error::timeout(format!(
                    "cuda: submission {number} of stream {} was not done after {waited:?}; {} are",
                    stream.0,
                    word.load(Ordering::Acquire)
                )));
            }
            if waited < YIELD {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(50).min(deadline - now));
            }
        }
    }
}
