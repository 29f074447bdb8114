//! Host memory, aligned and fallibly allocated.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use streampool_core::driver::{ALIGNMENT, Segment};
use streampool_core::{Error, Result};

/// Owned bytes, aligned to [`ALIGNMENT`], contents undefined at first.
pub(crate) struct HostMemory {
    first: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its bytes as a `Box<[u8]>` does; who reads or writes them through the pointer answers for the order of access.
unsafe impl Send for HostMemory {}
// SAFETY: a shared reference only gives out the address.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Allocates. Zero bytes are fine and take none.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let refused = || {
            Error::out_of_memory(format!(
                "cpu: asked {bytes} bytes, the system has no room for them; \
                 release tensors, use smaller ones, or set a lower memory limit"
            ))
        };
        let layout = Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| refused())?;
        let first = if bytes == 0 {
            NonNull::without_provenance(const { std::num::NonZero::new(ALIGNMENT).unwrap() })
        } else {
            // SAFETY: the layout's size is not 0.
            NonNull::new(unsafe { alloc(layout) }).ok_or_else(refused)?
        };
        Ok(Self { first, layout })
    }

    /// The first byte.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.first.as_ptr()
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.layout.size()
    }

    /// As a segment of the device.
    pub(crate) fn into_segment(self) -> Segment {
        let address = self.as_ptr().expose_provenance() as u64;
        Segment::new(address, self.len(), Box::new(self))
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated in `new` with this layout, freed once.
            unsafe { dealloc(self.as_ptr(), self.layout) }
        }
    }
}

/// Bytes of memory that this process may use: the machine's, or its control group's limit if that is lower.
pub(crate) fn memory_bytes() -> usize {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<usize>().ok()?.checked_mul(1024)
    });
    [total, number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(usize::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_aligned_and_absurd_ones_are_refused() {
        for bytes in [0, 1, 63, 64, 100_000] {
            let m = HostMemory::new(bytes).unwrap();
            assert_eq!((m.as_ptr().addr() % ALIGNMENT, m.len()), (0, bytes));
        }
        for bytes in [1 << 60, isize::MAX as usize, usize::MAX] {
            let e = HostMemory::new(bytes).err().expect("no machine has this much");
            assert!(e.is_out_of_memory() && e.to_string().contains(&bytes.to_string()), "{e}");
        }
    }

    #[test]
    fn the_machine_has_memory() {
        assert!(memory_bytes() > 1 << 20);
    }
}
