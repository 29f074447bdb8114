//! The CPU device: the calling thread is the queue, and a submission has completed when it returns.
//!
//! [`kernel`] says what a kernel is; `kernels/` has one file per family of operations; `gemm/` the matrix products that
//! decide the speed; [`team`] lends idle cores to one large call.

#[allow(dead_code, unused_imports)]
mod gemm;
pub mod kernel;
mod kernels;
#[allow(dead_code, unused_imports)]
mod simd;
pub mod team;
