//! Many threads of one process running model inference on one device at once.
//!
//! ```no_run
//! use streampool::{Device, HostTensor, Model};
//!
//! let device = Device::cpu()?;
//! let model = Model::load(&device, "model.onnx")?;
//! let x = HostTensor::from_vec([1, 4], vec![0.1f32, 0.2, 0.3, 0.4])?;
//! std::thread::scope(|scope| {
//!     for _ in 0..8 {
//!         scope.spawn(|| model.run(&[("x", (&x).into())]).unwrap()[0].to_vec::<f32>());
//!     }
//! });
//! # Ok::<(), streampool::Error>(())
//! ```
//!
//! A [`Device`] has a bounded pool of streams. Each thread that runs something has one for as long as it runs; when all are in use,
//! the [`Policy`] says what happens. A [`Model`] is shared by reference: no session per thread, no lock. [`Tensor`]s are
//! immutable and go from thread to thread freely: what uses them waits, on the device, for what makes them.
//!
//! How it works is told in `docs/design.md`.
#![deny(unsafe_code)]

mod device;
pub mod linalg;
mod model;
pub mod nn;
pub mod ops;
mod tensor;

pub use device::{Device, DeviceBuilder, Event, MemoryStats, StreamLease, StreamScope};
pub use model::{Input, Model, Outputs};
pub use streampool_core::error::{Error, Result};
pub use streampool_core::op::{DType, Element, HostTensor, Scalar, Shape, TensorType};
pub use streampool_core::slot::{Policy, Stats as PoolStats};
pub use streampool_core::timeline::StreamId;
pub use streampool_graph as graph;
pub use streampool_sim as sim;
pub use tensor::{ConvOptions, Generator, Number, Tensor, promote_types};
