//! ONNX to plan.
//!
//! [`Model::load`] imports a file once. [`Model::plan`] turns it into a [`Plan`] for concrete input shapes: nodes are lowered to primitive
//! operations, constants folded, chains fused, and one arena laid out for everything in between. A plan is a
//! [`Program`](streampool_core::op::Program) that any driver compiles.
//!
//! The way through: `onnx` (messages) -> `ir` (names resolved, sorted, inlined) -> `ops` and `lower` (primitive operations on views) ->
//! `passes` (fusions) -> `plan` (memory, program, check).

mod ir;
mod lower;
mod model;
mod onnx;
mod ops;
mod passes;
mod plan;
mod tensor_file;

pub use ir::Dim;
pub use model::{InputSpec, InterfaceInfo, LoadOptions, Model, NodeInfo, Planned};
pub use plan::{Plan, Report};
pub use tensor_file::tensor_from_proto;
