//! With a GPU: the driver's contract and every operation case. Without one: the error that says what is missing.
//!
//! Machines that must have a GPU set `STREAMPOOL_REQUIRE_CUDA=1`, so that a missing one fails here.

use std::sync::Arc;

use streampool_conformance::{CHECKS, Cases};
use streampool_core::driver::Driver;
use streampool_cpu::{CpuConfig, CpuDriver};
use streampool_cuda::{CudaConfig, CudaDriver, count, describe_missing};

/// Whether there is a GPU to test on; says why not.
fn there_is_a_gpu() -> bool {
    match describe_missing() {
        None => true,
        Some(why) => {
            println!("not run: {why}");
            assert!(std::env::var_os("STREAMPOOL_REQUIRE_CUDA").is_none(), "a GPU was required: {why}");
            false
        }
    }
}

fn driver() -> Arc<dyn Driver> {
    Arc::new(CudaDriver::new(CudaConfig::default()).expect("the GPU opens"))
}

#[test]
fn an_ordinal_that_is_not_there_is_refused_by_name() {
    let config = CudaConfig { ordinal: 4000, ..CudaConfig::default() };
    let error = CudaDriver::new(config).err().expect("nobody has 4001 GPUs");
    assert!(error.is_unsupported(), "{error:?}");
    let text = error.to_string();
    if count() == 0 {
        // What is missing, and the way out.
        assert!(text.contains("cuda:") && (text.contains("install") || text.contains("sees 0")), "{text}");
    } else {
        assert!(text.contains("4000"), "{text}");
    }
}

#[test]
fn without_a_gpu_the_count_is_zero_and_the_reason_is_told() {
    assert_eq!(count() == 0, describe_missing().is_some());
}

#[test]
fn the_driver_keeps_the_contract() {
    if there_is_a_gpu() {
        for (name, check) in CHECKS {
            println!("{name}");
            check(driver());
        }
    }
}

#[test]
fn operations_agree_with_the_cpu_device() {
    if !there_is_a_gpu() {
        return;
    }
    let mut cases = Cases::new(11);
    cases.all();
    let (gpu, cpu) = (driver(), Arc::new(CpuDriver::new(CpuConfig::default())) as Arc<dyn Driver>);
    for case in &cases.list {
        let expected = case.run_on(&cpu).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let got = case.run_on(&gpu).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        case.compare(&expected, &got).unwrap_or_else(|e| panic!("{e}"));
    }
}
