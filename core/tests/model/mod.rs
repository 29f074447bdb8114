//! How the `loom_*` tests run a model.
#![allow(dead_code)]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use streampool_core::sync::clock;

/// Explores every execution of `model` with at most `preemptions` preemptions, and prints how many there were.
///
/// A model that goes over `max_branches` panics; there is no bound on executions or time that could end it early.
pub(crate) fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    run(name, preemptions, false, model);
}

/// As [`explore`], for a model in which a thread calls [`clock::expire`].
pub(crate) fn explore_with_clock(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    run(name, preemptions, true, model);
}

fn run(name: &str, preemptions: usize, clock: bool, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.max_permutations = None;
    builder.max_duration = None;
    let executions = Arc::new(AtomicUsize::new(0));
    let (count, start) = (executions.clone(), Instant::now());
    builder.check(move || {
        clock::arm(clock);
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let executions = executions.load(Ordering::Relaxed);
    assert!(executions > 1, "{name}: nothing to explore");
    // Not `println`: the test runner would swallow it.
    let _ = writeln!(
        std::io::stderr(),
        "{name}: {executions} executions, all of them with at most {preemptions} preemptions, {:.1} s",
        start.elapsed().as_secs_f64()
    );
}
