//! Figures of a device's memory.

/// A device's memory at one moment. All sizes in bytes; `live + cached + retired == reserved` (INV-7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// The most that may be reserved.
    pub limit: usize,
    /// Taken from the device.
    pub reserved: usize,
    /// Of that, in blocks that somebody holds (each counted with its capacity).
    pub live: usize,
    /// Of that, free to be used again.
    pub cached: usize,
    /// Of that, freed but withheld until work in flight on other streams is done.
    pub retired: usize,
    /// The most that was reserved since the last reset. Exact.
    pub peak_reserved: usize,
    /// The sum of what each stream had live at most since the last reset: exact for one stream, an upper bound of
    /// the device's peak for several, for their peaks need not coincide. (A shared exact figure would be a line that all write.)
    pub peak_live: usize,
    /// Blocks handed out.
    pub allocations: u64,
    /// Segments asked from the device with success.
    pub driver_allocations: u64,
    /// Segments taken over from another stream's cache.
    pub reclaimed: u64,
    /// Requests that failed for want of memory.
    pub out_of_memory: u64,
}

/// The part of one stream. All sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamMemoryStats {
    /// As [`MemoryStats::live`].
    pub live: usize,
    /// As [`MemoryStats::cached`].
    pub cached: usize,
    /// As [`MemoryStats::retired`].
    pub retired: usize,
    /// The most that was live since the last reset. Exact.
    pub peak_live: usize,
    /// As [`MemoryStats::allocations`].
    pub allocations: u64,
    /// As [`MemoryStats::driver_allocations`].
    pub driver_allocations: u64,
    /// As [`MemoryStats::reclaimed`].
    pub reclaimed: u64,
    /// As [`MemoryStats::out_of_memory`].
    pub out_of_memory: u64,
}

impl MemoryStats {
    pub(crate) fn add(&mut self, stream: &StreamMemoryStats) {
        self.live += stream.live;
        self.cached += stream.cached;
        self.retired += stream.retired;
        self.peak_live += stream.peak_live;
        self.allocations += stream.allocations;
        self.driver_allocations += stream.driver_allocations;
        self.reclaimed += stream.reclaimed;
        self.out_of_memory += stream.out_of_memory;
    }
}

/// `bytes` for people: `"1.5 GiB"`, `"640 bytes"`.
pub(crate) fn human(bytes: usize) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let power = (bytes.ilog2() / 10) as usize;
    format!("{:.1} {}", bytes as f64 / (1_u64 << (10 * power)) as f64, UNITS[power - 1])
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::human;

    #[test]
    fn sizes_read_well() {
        assert_eq!(human(0), "0 bytes");
        assert_eq!(human(1023), "1023 bytes");
        assert_eq!(human(1024), "1.0 KiB");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(100 << 30), "100.0 GiB");
        assert_eq!(human(usize::MAX), "16.0 EiB");
    }
}
