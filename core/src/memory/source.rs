//! What the memory needs of a device.

use std::sync::Arc;
use std::time::Instant;

use crate::driver::{Driver, Segment};
use crate::error::Result;
use crate::timeline::{StreamId, Ticket};

/// Where segments come from and what is known of the work that touches them. Every `Arc<dyn Driver>` is one; the
/// facade wraps its driver to add its gate. Called without holding any lock of the memory.
pub trait Source: Send + Sync + 'static {
    /// Bytes that the device reports to have.
    fn memory_bytes(&self) -> usize;

    /// As [`Driver::allocate`].
    fn allocate(&self, bytes: usize) -> Result<Segment>;

    /// As [`Driver::completed`].
    fn completed(&self, stream: StreamId) -> u64;

    /// As [`Driver::wait`].
    fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()>;

    /// Whether this process must no longer touch the device nor any lock: it is the child of a fork, or exits. **The
    /// one place** that the drops of blocks and caches ask; what they hold is leaked then. Must be cheap, and
    /// must neither lock nor allocate.
    fn abandoned(&self) -> bool {
        false
    }
}

impl Source for Arc<dyn Driver> {
    fn memory_bytes(&self) -> usize {
        self.info().memory_bytes
    }

    fn allocate(&self, bytes: usize) -> Result<Segment> {
        (**self).allocate(bytes)
    }

    fn completed(&self, stream: StreamId) -> u64 {
        (**self).completed(stream)
    }

    fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()> {
        (**self).wait(ticket, deadline)
    }
}
