//! Programs of several threads, with more threads than streams.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use proptest::collection::vec;
use streampool::Policy;

use crate::blame::Tally;
use crate::run_programs;
use crate::step::{Setup, Step, setup, step};
use crate::worker::Worker;
use crate::world::{World, policy, watched};

fn run(setup: Setup, streams: usize, threads: Vec<Vec<Step>>, tally: Arc<Tally>) {
    watched(&(setup, streams, threads.clone()), move || {
        let patience = Policy::Wait { deadline: Duration::from_secs(40) };
        let world = World::new(setup, streams, policy(setup, patience), true, &tally);
        let barrier = Barrier::new(threads.len());
        std::thread::scope(|scope| {
            let handles: Vec<_> = threads
                .iter()
                .map(|steps| {
                    let (world, barrier) = (&world, &barrier);
                    scope.spawn(move || {
                        let mut worker = Worker::among_others(world);
                        barrier.wait();
                        worker.run(steps);
                        worker.finish();
                    })
                })
                .collect();
            for handle in handles {
                if let Err(panic) = handle.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        });
        world.finish();
    });
}

#[test]
fn threads_that_hand_over_and_fail_compute_what_a_host_does() {
    let expected = ["right value", "failed execution", "refused submission", "device lost", "shut down"];
    let programs = (setup(), 1..4_usize, vec(vec(step(true), 1..40), 2..7));
    run_programs(
        "threaded programs",
        file!(),
        200,
        programs,
        &expected,
        |(setup, streams, threads), tally| {
            run(setup, streams, threads, tally);
        },
    );
}
