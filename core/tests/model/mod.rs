//! How the `loom_*` tests run a model.
#![allow(dead_code)]

pub(crate) mod memory;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use streampool_core::sync::clock;

/// One preemption more than a test asks for, if `STREAMPOOL_DEEP` is set (to anything but 0).
fn deeper() -> usize {
    usize::from(std::env::var_os("STREAMPOOL_DEEP").is_some_and(|deep| deep != "0"))
}

/// Explores every execution of `model` with at most `preemptions` preemptions (one more if `STREAMPOOL_DEEP` is set), and prints how
/// many there were.
///
/// A model that goes over `max_branches` panics; there is no bound on executions or time that could end it early.
pub(crate) fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    run(name, Some(preemptions), false, model);
}

/// As [`explore`]; every execution there is if there is no bound.
pub(crate) fn explore_bounded(
    name: &str,
    preemptions: Option<usize>,
    model: impl Fn() + Send + Sync + 'static,
) {
    run(name, preemptions, false, model);
}

/// As [`explore`], for a model in which a thread calls [`clock::expire`].
pub(crate) fn explore_with_clock(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    run(name, Some(preemptions), true, model);
}

fn run(name: &str, preemptions: Option<usize>, clock: bool, model: impl Fn() + Send + Sync + 'static) {
    let preemptions = preemptions.map(|most| most + deeper());
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 100_000;
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
    let bound = preemptions.map_or("any number of".to_owned(), |most| format!("at most {most}"));
    // Not `println`: the test runner would swallow it.
    let _ = writeln!(
        std::io::stderr(),
        "{name}: {executions} executions, all of them with {bound} preemptions, {:.1} s",
        start.elapsed().as_secs_f64()
    );
}
