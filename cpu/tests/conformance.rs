//! The CPU device keeps the driver contract.

use std::sync::Arc;

use streampool_cpu::{CpuConfig, CpuDriver};

#[test]
fn the_cpu_keeps_the_driver_contract() {
    streampool_conformance::run_all(|| Arc::new(CpuDriver::new(CpuConfig::default())));
}
