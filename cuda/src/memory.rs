//! Device memory and pinned host memory.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys;
use streampool_core::Result;
use streampool_core::driver::Segment;

use crate::context::Context;
use crate::library::check;

/// Owned device memory; freed when dropped. Zero bytes take none.
pub(crate) struct DeviceMemory {
    context: Arc<Context>,
    address: u64,
    bytes: usize,
}

impl DeviceMemory {
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        context.enter()?;
        let mut address = 0;
        if bytes > 0 {
            // SAFETY: writes one address; the context is current.
            let result = unsafe { sys::cuMemAlloc_v2(&mut address, bytes) };
            context.noted(check(&format!("allocating {bytes} bytes"), result))?;
        }
        Ok(Self { context: context.clone(), address, bytes })
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies from the host and waits for it: for what is made at compile time.
    pub(crate) fn fill(&self, from: &[u8]) -> Result<()> {
        assert!(from.len() <= self.bytes, "more bytes than there is room for");
        if from.is_empty() {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: both ranges hold `from.len()` bytes; the call ends when the source was read.
        let result =
            unsafe { sys::cuMemcpyHtoD_v2(self.address, from.as_ptr().cast::<c_void>(), from.len()) };
        self.context.noted(check("uploading", result))
    }

    pub(crate) fn into_segment(self) -> Segment {
        let address = if self.bytes == 0 { streampool_core::driver::ALIGNMENT as u64 } else { self.address };
        Segment::new(address, self.bytes, Box::new(self))
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // Not in a forked child, nor on a lost device: there the driver refuses, and the process's end frees all.
        if self.bytes > 0 && self.context.enter().is_ok() {
            // SAFETY: allocated in `new`, freed once; core sees to it that no submitted work can touch it (INV-6).
            let _ = unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}

/// Page-locked host memory that the device reads and writes directly, at the same address.
pub(crate) struct PinnedMemory {
    context: Arc<Context>,
    first: *mut u8,
}

// SAFETY: it owns its bytes; who uses them through the pointer answers for the order of access.
unsafe impl Send for PinnedMemory {}
// SAFETY: a shared reference only gives out the address.
unsafe impl Sync for PinnedMemory {}

impl PinnedMemory {
    /// Zeroed.
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        context.enter()?;
        let mut first: *mut c_void = std::ptr::null_mut();
        // Portable: of all contexts; mapped: at one address for host and device.
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: writes one pointer.
        let result = unsafe { sys::cuMemHostAlloc(&mut first, bytes, flags) };
        context.noted(check(&format!("allocating {bytes} bytes of pinned host memory"), result))?;
        // SAFETY: freshly allocated with this length.
        unsafe { first.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { context: context.clone(), first: first.cast() })
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.first
    }

    /// The device's address of byte `offset`: with unified addressing, the host's.
    pub(crate) fn device_address(&self, offset: usize) -> u64 {
        self.first.addr() as u64 + offset as u64
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated in `new`, freed once, by an owner that waited for the work that uses it.
            let _ = unsafe { sys::cuMemFreeHost(self.first.cast()) };
        }
    }
}
