//! A simulated device to steer, and the same as core sees it.
#![allow(dead_code, unreachable_pub)] // each test file uses a part

use std::sync::Arc;

use streampool_core::driver::Driver;
use streampool_sim::{Compiler, SimConfig, SimDriver};

/// A small device, its settings changed by `change`.
pub fn device(change: impl FnOnce(&mut SimConfig)) -> (SimDriver, Arc<dyn Driver>) {
    let mut config = SimConfig { memory_bytes: 16 << 20, ..SimConfig::default() };
    change(&mut config);
    let sim = SimDriver::new(config);
    (sim.clone(), Arc::new(sim))
}

/// The same, running what `compiler` makes.
pub fn with(
    change: impl FnOnce(&mut SimConfig),
    compiler: impl Compiler + 'static,
) -> (SimDriver, Arc<dyn Driver>) {
    let mut config = SimConfig::default();
    change(&mut config);
    let sim = SimDriver::with_compiler(config, compiler);
    (sim.clone(), Arc::new(sim))
}
