//! NumPy's `.npy` and `.npz` files as named host arrays.
//!
//! The format is that of NumPy's NEP 1 (`numpy.lib.format`), versions 1.0 to 3.0, inside a ZIP file for `.npz`. Files are untrusted:
//! what a header declares is checked against what the file holds before memory is taken, totals are limited
//! ([`Limits`]), and pickled (object) arrays, which can run code when loaded, are refused.

#![forbid(unsafe_code)]

mod archive;
mod array;
mod header;

pub use archive::{Npz, read, read_from, write, write_to};
pub use array::{read_npy, write_npy};

/// What reading may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all arrays of a file together.
    pub total_bytes: usize,
    /// How many arrays a file may hold.
    pub arrays: usize,
}

impl Default for Limits {
    /// 4 GiB in 65,536 arrays.
    fn default() -> Self {
        Self { total_bytes: 4 << 30, arrays: 1 << 16 }
    }
}
