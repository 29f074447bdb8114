//! What of a device decides how kernels are cut.

/// A kind of device. Kernels for one also run on those that have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Most bytes of shared memory that a block can have, what a kernel declares included.
    pub shared: usize,
    /// Whether blocks form clusters, and send each other what they have.
    pub clusters: bool,
}

impl Target {
    /// The least that kernels are made for: what every NVIDIA GPU of compute capability 8.0 or newer has (CUDA C++ Programming Guide, "Technical
    /// Specifications per Compute Capability": 99 KiB on 8.6, 8.9 and 12.0, 163 KiB on 8.0, 227 KiB on 9.0).
    pub const LEAST: Self = Self { shared: 99 << 10, clusters: false };
}
