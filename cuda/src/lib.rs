//! NVIDIA GPUs as a device.
//!
//! The driver, cuBLASLt and NVRTC are loaded when a device is opened; nothing of CUDA is needed to build, and a binary that has this crate
//! runs on machines without a GPU, where opening says what is missing.
//!
//! - a queue is a non-blocking stream; a ticket is a 64-bit word in pinned memory that the end of each submission writes, which hosts and
//!   other streams wait for without a lock of the driver;
//! - elementwise work, reductions, normalisation, attention, recurrent layers, linear algebra and the like are the kernels of
//!   `streampool-kernels`, compiled for the shapes at hand; matrix products are cuBLASLt's; what has neither runs on the CPU between copies and
//!   says so in `describe`;
//! - a program launched again on the same memory is one CUDA graph.

mod company;
mod compiler;
mod constants;
mod context;
mod driver;
mod events;
mod gemm;
mod graph;
mod host_step;
mod leaving;
mod library;
mod memory;
mod program;
mod queue;
mod service;
mod timeline;

pub use driver::{CudaConfig, CudaDriver};
pub use library::{count, describe_missing};
