//! What every driver must do: the contract of [`streampool_core::driver`], as checks that run against any of them.
//!
//! A driver's own tests call [`run_all`] with a function that makes a fresh device. Each check gets a device of its own, panics
//! with what was broken, and compares results with a computation on the host. Checks rely on nothing that the contract
//! leaves open: a device that completes work at submission passes, and so does one that completes it as late as it can.
#![forbid(unsafe_code)]

mod bench;
mod case;
mod cases;
mod errors;
mod memory;
mod order;
mod rebuild;
mod results;
mod threads;

pub use bench::{Bench, Chain, Random, copy_program, map_program, value};
pub use case::Case;
pub use cases::Cases;

use std::sync::Arc;

use streampool_core::driver::Driver;

/// A check: its name, and what it does with a fresh device.
pub type Check = (&'static str, fn(Arc<dyn Driver>));

/// All checks.
pub const CHECKS: &[Check] = &[
    ("tickets of a stream complete in order", order::tickets_of_a_stream_complete_in_order),
    ("a completed count never goes back", order::a_completed_count_never_goes_back),
    ("wait_for orders two queues", order::wait_for_orders_two_queues),
    ("wait_for is transitive", order::wait_for_is_transitive),
    ("a wait for done work ends at once", order::a_wait_for_done_work_ends_at_once),
    ("more submissions than the queue is deep", order::more_submissions_than_the_queue_is_deep),
    ("a read sees the write before it", results::a_read_sees_the_write_before_it),
    ("the bytes of a write are taken before it returns", results::a_write_takes_its_bytes_before_it_returns),
    (
        "elementwise programs compute what the host computes",
        results::elementwise_programs_agree_with_the_host,
    ),
    ("steps pass values through the arena", results::steps_pass_values_through_the_arena),
    ("constants are part of the program", results::constants_are_part_of_the_program),
    ("empty programs and tensors are fine", results::empty_programs_and_tensors_are_fine),
    ("allocations are aligned and apart", memory::allocations_are_aligned_and_apart),
    ("absurd sizes are out of memory", memory::absurd_sizes_are_out_of_memory),
    ("freed memory is there again", memory::freed_memory_is_there_again),
    ("constants are counted once", memory::constants_are_counted_once),
    ("failed work hits only what depends on it", errors::failed_work_hits_only_what_depends_on_it),
    ("a foreign executable is refused", errors::a_foreign_executable_is_refused),
    ("what cannot be compiled is an error", errors::what_cannot_be_compiled_is_an_error),
    ("threads on queues of their own do not meet", threads::threads_on_queues_of_their_own_do_not_meet),
    ("a queue moves between threads", threads::a_queue_moves_between_threads),
    ("a result moves between threads", threads::a_result_moves_between_threads),
];

/// Runs every check on a device of its own that `make` makes.
///
/// # Panics
/// With the names of the checks that failed, after all ran. What each broke was printed before.
pub fn run_all(make: impl Fn() -> Arc<dyn Driver>) {
    let failed: Vec<&str> = CHECKS
        .iter()
        .filter(|(_, check)| {
            let driver = make();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(driver))).is_err()
        })
        .map(|(name, _)| *name)
        .collect();
    println!("conformance: {} of {} checks passed", CHECKS.len() - failed.len(), CHECKS.len());
    assert!(failed.is_empty(), "the driver failed: {failed:?}");
}
