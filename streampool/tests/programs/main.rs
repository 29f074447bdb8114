//! Random programs on the simulated device: allocate, launch on several streams and threads, hand over, drop, clone, wait, fail, lose
//! the device, shut down. After each of them (and often in between)
//!
//! - every value is what a sequential computation on the host gives ([`value`]);
//! - every error belongs to the call that caused it ([`blame`]);
//! - nothing runs, waits or is leased, the books of the memory agree, and every byte is back at the device (INV-2, 7, 8, 11, 12);
//! - the device saw none of core's promises broken (INV-4, 5, 6, 12: [`SimDriver::violations`](streampool::sim::SimDriver::violations)).
//!
//! `STREAMPOOL_PROGRAMS=10000 cargo test -p streampool --release --test programs` is the deep run. What proptest shrinks a failure to
//! is kept beside its suite (`*.regressions`), and runs first from then on; commit it.

mod blame;
mod early_reuse;
mod kept;
mod sequential;
mod step;
mod threads;
mod value;
mod worker;
mod world;

use std::sync::Arc;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestError, TestRunner};

use blame::Tally;

/// Runs `program` on as many values of `strategy` as `STREAMPOOL_PROGRAMS` says, else `quick`. All of `expected` must happen in them.
fn run_programs<S: Strategy>(
    suite: &'static str,
    source: &'static str,
    quick: u32,
    strategy: S,
    expected: &[&str],
    program: impl Fn(S::Value, Arc<Tally>),
) {
    let programs = match std::env::var("STREAMPOOL_PROGRAMS") {
        Ok(n) => n.parse().expect("STREAMPOOL_PROGRAMS is a number of programs"),
        Err(_) => quick,
    };
    let mut runner = TestRunner::new(Config {
        cases: programs,
        source_file: Some(source),
        test_name: Some(suite),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_iters: 2000,
        ..Config::default()
    });
    let tally = Arc::new(Tally::default());
    let outcome = runner.run(&strategy, |value| {
        let tally = tally.clone();
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| program(value, tally)));
        ran.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            TestCaseError::fail(text.unwrap_or_default())
        })
    });
    match outcome {
        Ok(()) => tally.expect(suite, programs, expected),
        Err(TestError::Fail(why, value)) => panic!("{suite}: {why}\nshrunk to {value:?}"),
        Err(TestError::Abort(why)) => panic!("{suite}: {why}"),
    }
}
