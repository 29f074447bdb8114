//! Programs of one thread on several streams: the same every time, so that a failure shrinks.

use std::sync::Arc;

use proptest::collection::vec;
use streampool::Policy;

use crate::blame::Tally;
use crate::run_programs;
use crate::step::{STREAMS, Setup, Step, setup, step};
use crate::worker::Worker;
use crate::world::{World, policy, watched};

/// Runs a program and checks all that must hold.
pub(crate) fn run(setup: Setup, steps: Vec<Step>, tally: Arc<Tally>) {
    watched(&(setup, steps.clone()), move || {
        let world = World::new(setup, STREAMS, policy(setup, Policy::Refuse), false, &tally);
        let mut worker = Worker::alone(&world);
        worker.run(&steps);
        worker.finish();
        world.finish();
    });
}

#[test]
fn one_thread_on_several_streams_computes_what_a_host_does() {
    let expected = [
        "right value",
        "panic in a section",
        "failed execution",
        "refused submission",
        "failed compile",
        "out of memory",
        "pool exhausted",
        "device lost",
        "shut down",
    ];
    let programs = (setup(), vec(step(true), 1..80));
    run_programs("sequential programs", file!(), 400, programs, &expected, |(setup, steps), tally| {
        run(setup, steps, tally);
    });
}
