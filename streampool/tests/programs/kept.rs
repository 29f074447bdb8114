//! Programs that once failed, or that show a case which random ones seldom meet.

use std::sync::Arc;

use streampool::sim::Mode;

use crate::blame::Tally;
use crate::sequential;

use crate::step::{Fault, Setup, Step};
use crate::value::{Binary, Unary};

fn run(setup: Setup, steps: Vec<Step>) {
    sequential::run(setup, steps, Arc::new(Tally::default()));
}

const LAZY: Setup = Setup { seed: 1, mode: Mode::Lazy, queue_depth: 64, share: false };

#[test]
fn a_value_dropped_while_another_stream_reads_it_is_not_overwritten() {
    let steps = vec![
        Step::Lease,
        Step::Lease,
        Step::Upload { on: 1, to: 0, length: 12, seed: 1 },
        Step::Hold { stream: 1 },
        Step::Hold { stream: 2 },
        Step::Unary { on: 2, op: Unary::Neg, a: 0, to: 1 },
        Step::Drop { a: 0 },
        Step::Upload { on: 1, to: 2, length: 12, seed: 2 },
        Step::Binary { on: 1, op: Binary::Add, a: 2, b: 2, to: 3 },
        Step::Read { on: 2, a: 1 },
        Step::Read { on: 1, a: 3 },
    ];
    run(LAZY, steps);
}

#[test]
fn a_failed_execution_reaches_its_own_values_only() {
    let steps = vec![
        Step::Lease,
        Step::Upload { on: 0, to: 0, length: 12, seed: 1 },
        Step::Upload { on: 1, to: 1, length: 12, seed: 2 },
        Step::SyncAll,
        Step::Fault { kind: Fault::Execution, ahead: 1 },
        Step::Unary { on: 0, op: Unary::Neg, a: 0, to: 2 },
        Step::Unary { on: 1, op: Unary::Neg, a: 1, to: 3 },
        Step::Binary { on: 1, op: Binary::Add, a: 2, b: 3, to: 4 },
        Step::Read { on: 0, a: 2 },
        Step::Read { on: 0, a: 3 },
        Step::Read { on: 1, a: 4 },
    ];
    run(LAZY, steps);
}

#[test]
fn a_device_lost_and_closed_under_leases_gives_back_every_byte() {
    let steps = vec![
        Step::Lease,
        Step::Upload { on: 1, to: 0, length: 600, seed: 1 },
        Step::Unary { on: 0, op: Unary::Relu, a: 0, to: 1 },
        Step::Lose,
        Step::Unary { on: 0, op: Unary::Relu, a: 0, to: 2 },
        Step::Read { on: 0, a: 1 },
        Step::Close,
        Step::Unary { on: 1, op: Unary::Relu, a: 0, to: 2 },
    ];
    run(LAZY, steps);
}

#[test]
fn waiting_for_the_device_waits_for_all_streams_though_one_failed() {
    // It used to return at the first stream whose last work failed; the others' memory was then still in use.
    let steps = vec![
        Step::Lease,
        Step::Fill { on: 0, to: 0, length: 1, value: 0 },
        Step::SyncAll,
        Step::Fault { kind: Fault::Execution, ahead: 1 },
        Step::Fill { on: 0, to: 1, length: 1, value: 0 },
        Step::Unary { on: 1, op: Unary::Twice, a: 0, to: 2 },
        Step::Drop { a: 0 },
        Step::Drop { a: 1 },
        Step::Drop { a: 2 },
    ];
    run(LAZY, steps);
}

#[test]
fn a_value_joined_of_parts_does_not_inherit_the_failure_of_its_memorys_last_owner() {
    // The simulated device took an output that several steps write in parts for one that keeps what was there.
    let steps = vec![
        Step::Fill { on: 0, to: 0, length: 1, value: 7 },
        Step::SyncAll,
        Step::Fault { kind: Fault::Execution, ahead: 1 },
        Step::Unary { on: 0, op: Unary::Neg, a: 0, to: 1 },
        Step::Read { on: 0, a: 1 },
        Step::Drop { a: 1 },
        Step::Binary { on: 0, op: Binary::Concat, a: 0, b: 0, to: 2 },
        Step::Read { on: 0, a: 2 },
    ];
    run(LAZY, steps);
}
