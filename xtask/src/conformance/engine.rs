//! What is put to the test.

use std::path::Path;

use streampool_core::op::HostTensor;
use streampool_core::{Error, Result};

/// Loads models.
pub(crate) trait Engine {
    fn load(&self, path: &Path) -> Result<Box<dyn Model>>;
}

/// A loaded model.
pub(crate) trait Model {
    /// All outputs by name.
    fn run(&self, inputs: Vec<(String, HostTensor)>) -> Result<Vec<(String, HostTensor)>>;
}

/// The engine of this build.
pub(crate) fn open() -> Result<Box<dyn Engine>> {
    Ok(Box::new(Nothing))
}

struct Nothing;

impl Engine for Nothing {
    fn load(&self, _path: &Path) -> Result<Box<dyn Model>> {
        Err(Error::unsupported("no engine is connected yet"))
    }
}
