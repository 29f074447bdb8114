//! What tensors hold: a block, who wrote it, and the way back to the device.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_utils::CachePadded;
use streampool_core::driver::Slice;
use streampool_core::memory::Block;
use streampool_core::timeline::{StreamId, Ticket};

use super::Shared;

/// A stream's address: the device and which of its streams. Tensors made on a stream share that stream's `Home`, so that
/// their counting stays on cache lines of that stream (no count is shared by all threads).
pub(crate) struct Home {
    pub(crate) device: Arc<Shared>,
    pub(crate) stream: StreamId,
    own: CachePadded<Own>,
}

/// Written by the stream's present user, and by whoever drops its tensors.
#[derive(Default)]
struct Own {
    tensors: AtomicUsize,
    submitted: Mutex<Option<Ticket>>,
}

impl Home {
    pub(crate) fn new(device: Arc<Shared>, stream: StreamId) -> Arc<Self> {
        Arc::new(Self { device, stream, own: CachePadded::default() })
    }

    /// How many tensors made on this stream live.
    pub(crate) fn live_tensors(&self) -> usize {
        self.own.tensors.load(Ordering::SeqCst)
    }

    /// The last submission of this stream that may not have completed.
    pub(crate) fn submitted(&self) -> Option<Ticket> {
        *self.own.submitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_submitted(&self, ticket: Ticket) {
        *self.own.submitted.lock().unwrap_or_else(PoisonError::into_inner) = Some(ticket);
    }

    pub(crate) fn same_device(&self, other: &Home) -> bool {
        Arc::ptr_eq(&self.device, &other.device)
    }

    pub(crate) fn device_name(&self) -> &str {
        &self.device.driver.info().name
    }
}

/// Where the bytes of a tensor lie.
enum Bytes {
    /// In the device's memory.
    Block(Block),
    /// With somebody else, for devices that read host memory where it is.
    Foreign(Box<dyn AsRef<[u8]> + Send + Sync>),
}

/// The bytes of a tensor: written by one submission, never again.
pub(crate) struct Storage {
    bytes: Bytes,
    written: Option<Ticket>,
    home: Arc<Home>,
}

impl Storage {
    /// `written` is the submission that writes the block; `None` if it has completed already.
    pub(crate) fn new(block: Block, written: Option<Ticket>, home: &Arc<Home>) -> Arc<Self> {
        home.own.tensors.fetch_add(1, Ordering::SeqCst);
        Arc::new(Self { bytes: Bytes::Block(block), written, home: home.clone() })
    }

    /// Bytes that are there already, in host memory that the device reads where it is.
    pub(crate) fn foreign(owner: Box<dyn AsRef<[u8]> + Send + Sync>, home: &Arc<Home>) -> Arc<Self> {
        home.own.tensors.fetch_add(1, Ordering::SeqCst);
        Arc::new(Self { bytes: Bytes::Foreign(owner), written: None, home: home.clone() })
    }

    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    pub(crate) fn slice(&self) -> Slice<'_> {
        match &self.bytes {
            Bytes::Block(block) => block.slice(),
            Bytes::Foreign(owner) => Slice::host((**owner).as_ref()),
        }
    }

    /// The submission to wait for before reading (INV-5: nothing writes the block a second time, so reads wait for the
    /// one write and writes wait for nothing).
    pub(crate) fn written(&self) -> Option<Ticket> {
        self.written
    }

    /// Work that reads the block was submitted: the block is not reused before it is done (INV-6).
    pub(crate) fn record(&self, ticket: Ticket) {
        match &self.bytes {
            Bytes::Block(block) => block.record(ticket),
            // Only devices whose submissions are done when they return have such tensors.
            Bytes::Foreign(_) => {}
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // First off the count, then the look at the handles: the last handle does it in the opposite order, so one of the two
        // sees the other. Costs one load of a line that hardly ever changes.
        self.home.own.tensors.fetch_sub(1, Ordering::SeqCst);
        self.home.device.close_if_unused();
    }
}
