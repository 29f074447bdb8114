//! What is put to the test.

use std::path::Path;

use streampool::{Device, HostTensor, Input, Result};

/// Loads models.
pub(crate) trait Engine {
    fn load(&self, path: &Path) -> Result<Box<dyn Model>>;
}

/// A loaded model.
pub(crate) trait Model {
    /// All outputs by name.
    fn run(&self, inputs: Vec<(String, HostTensor)>) -> Result<Vec<(String, HostTensor)>>;
}

/// The engine of this build: the library on the CPU.
///
/// # Errors
/// If the device does not open.
pub(crate) fn open() -> Result<Box<dyn Engine>> {
    Ok(Box::new(Streampool { device: Device::cpu()? }))
}

struct Streampool {
    device: Device,
}

impl Engine for Streampool {
    fn load(&self, path: &Path) -> Result<Box<dyn Model>> {
        Ok(Box::new(streampool::Model::load(&self.device, path)?))
    }
}

impl Model for streampool::Model {
    fn run(&self, inputs: Vec<(String, HostTensor)>) -> Result<Vec<(String, HostTensor)>> {
        let inputs: Vec<(&str, Input<'_>)> = inputs.iter().map(|(n, t)| (n.as_str(), t.into())).collect();
        streampool::Model::run(self, &inputs)?
            .iter()
            .map(|(name, tensor)| Ok((name.to_owned(), tensor.to_host()?)))
            .collect()
    }
}
