//! The simulated device keeps the driver contract in every mode, under many seeds, and sees no promise of the checks broken.

use std::sync::{Arc, Mutex};

use streampool_core::driver::Driver;
use streampool_sim::{Mode, SimConfig, SimDriver};

fn run(mode: Mode, seed: u64, queue_depth: usize) {
    let made: Mutex<Vec<SimDriver>> = Mutex::default();
    let config = SimConfig {
        seed,
        mode,
        queue_depth,
        memory_bytes: 32 << 20,
        check_unwritten: true,
        ..SimConfig::default()
    };
    streampool_conformance::run_all(|| {
        let driver = SimDriver::new(config.clone());
        made.lock().unwrap().push(driver.clone());
        Arc::new(driver) as Arc<dyn Driver>
    });
    for driver in made.into_inner().unwrap() {
        assert_eq!(driver.violations(), Vec::<String>::new(), "{mode:?}, seed {seed}");
        assert_eq!(driver.used_bytes(), 0, "{mode:?}, seed {seed}");
    }
}

#[test]
fn eager() {
    run(Mode::Eager, 1, 64);
}

#[test]
fn random() {
    for seed in 0..10 {
        run(Mode::Random, seed, 8);
    }
}

#[test]
fn lazy() {
    for seed in 0..10 {
        run(Mode::Lazy, seed, 64);
    }
}

#[test]
fn a_queue_of_one() {
    run(Mode::Lazy, 5, 1);
}
