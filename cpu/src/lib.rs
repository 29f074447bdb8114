//! The CPU device: the calling thread is the queue, and a submission has completed when it returns.
//!
//! [`kernel`] says what a kernel is; `kernels/` has one file per family of operations; `gemm/` the matrix products that
//! decide the speed; [`team`] lends idle cores to one large call.

mod constants;
mod driver;
mod evaluate;
mod fork;
mod gemm;
pub mod kernel;
mod kernels;
mod memory;
mod processor;
mod program;
mod queue;
mod simd;
pub mod team;

pub use driver::{CpuConfig, CpuDriver};
pub use evaluate::evaluate;
pub use program::{CpuExecutable, Executor};
