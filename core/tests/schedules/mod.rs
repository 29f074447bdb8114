//! How the `shuttle_*` tests run a model: schedules drawn at random, and by PCT (probabilistic concurrency testing, Burckhardt et al. 2010),
//! which finds a bug that needs `d` ordering constraints with a known least probability.
//!
//! Every run prints its seed, another one each time; `STREAMPOOL_SEED=n` repeats the run with that seed, schedule by schedule.
//! `STREAMPOOL_DEEP=1` draws ten times as many.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// Ordering constraints that PCT aims at.
const DEPTH: usize = 3;

/// Runs `model` under this many schedules of either kind. A failure prints the schedule and the seed.
pub(crate) fn sample(name: &str, schedules: usize, model: impl Fn() + Send + Sync + Clone + 'static) {
    let deep = std::env::var_os("STREAMPOOL_DEEP").is_some_and(|deep| deep != "0");
    let schedules = if deep { 10 * schedules } else { schedules };
    let seed = match std::env::var("STREAMPOOL_SEED") {
        Ok(seed) => seed.parse().expect("STREAMPOOL_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos().into()),
    };
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    // Not `println`: the test runner would swallow it. Before the run, so that the seed of a failure is there.
    let say = |text: String| _ = writeln!(std::io::stderr(), "{name}: {text}");
    for pct in [true, false] {
        let kind = if pct { format!("pct of depth {DEPTH}") } else { "random".to_owned() };
        say(format!("drawing {schedules} {kind}, STREAMPOOL_SEED={seed}"));
        let (ran, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let counted = {
            let (ran, model) = (ran.clone(), model.clone());
            move || {
                ran.fetch_add(1, Ordering::Relaxed);
                model();
            }
        };
        if pct {
            Runner::new(PctScheduler::new_from_seed(seed, DEPTH, schedules), config.clone()).run(counted);
        } else {
            Runner::new(RandomScheduler::new_from_seed(seed, schedules), config.clone()).run(counted);
        }
        let ran = ran.load(Ordering::Relaxed);
        assert_eq!(ran, schedules, "{name}: a bound ended it early");
        say(format!(
            "{ran} schedules, {kind}, STREAMPOOL_SEED={seed}, {:.1} s",
            start.elapsed().as_secs_f64()
        ));
    }
}
