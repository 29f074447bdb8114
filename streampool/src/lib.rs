//! Many threads of one process running model inference on one device at once.
#![deny(unsafe_code)]

mod device;
pub mod linalg;
mod model;
pub mod nn;
mod tensor;

pub use device::{Device, DeviceBuilder, MemoryStats};
pub use model::{Input, Model, Outputs};
pub use streampool_core::error::{Error, Result};
pub use streampool_core::op::{DType, Element, HostTensor, Scalar, Shape, TensorType};
pub use tensor::{ConvOptions, Generator, Tensor, promote_types};
