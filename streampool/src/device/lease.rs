//! Leases: a stream of one's own for as long as one likes, on whatever thread.

use std::future::Future;

use streampool_core::lease;
use streampool_core::timeline::StreamId;

use super::{Device, Stream};
use crate::Result;

/// An owned, exclusive stream of a device. `Send`: it may go to another thread and survives an async hop. Dropping it gives the stream
/// to the oldest waiter.
pub struct StreamLease {
    // Dropped before the device that it belongs to.
    lease: lease::StreamLease<Stream>,
    device: Device,
}

impl StreamLease {
    /// The stream.
    pub fn stream(&self) -> StreamId {
        self.lease.stream()
    }

    /// The generation of this ownership: no other owner of the stream has the same.
    pub fn generation(&self) -> u64 {
        self.lease.generation()
    }

    /// Runs `work` on the calling thread with this stream as the thread's: tensor operations and model runs inside go to it.
    pub fn scope<R>(&self, work: impl FnOnce() -> R) -> R {
        self.lease.scope(work)
    }

    /// As [`StreamLease::scope`] for work that is no closure: until the result is dropped. Scopes of one thread end in the opposite
    /// order of their beginning. The lease has to outlive them; else the thread's work goes to another stream.
    pub fn enter(&self) -> StreamScope {
        StreamScope { _scope: self.lease.enter_scope() }
    }

    /// The device that it is a stream of.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

/// Until it is dropped, the calling thread's stream is a leased one. Made by [`StreamLease::enter`]; stays on its thread.
#[must_use = "the scope ends when this is dropped"]
pub struct StreamScope {
    _scope: lease::ScopeGuard,
}

impl std::fmt::Debug for StreamLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamLease({})", self.stream())
    }
}

impl Device {
    /// Leases a stream, waiting by the pool's policy.
    ///
    /// # Errors
    /// `is_pool_exhausted`, `is_shut_down`, `is_forked`.
    pub fn lease(&self) -> Result<StreamLease> {
        Ok(StreamLease { lease: self.shared().pool.lease()?, device: self.clone() })
    }

    /// [`Device::lease`] without blocking the thread; any async runtime will do. Dropping the future leaves the line.
    pub fn lease_async(&self) -> impl Future<Output = Result<StreamLease>> + use<> {
        let lease = self.shared().pool.lease_async();
        let device = self.clone();
        async move { Ok(StreamLease { lease: lease.await?, device }) }
    }
}
