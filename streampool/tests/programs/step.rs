//! The language of the programs, and how they are drawn.

use proptest::prelude::*;
use streampool::sim::Mode;

use crate::value::{Binary, LENGTHS, Unary, View};

/// Registers of a worker.
pub(crate) const REGISTERS: u8 = 6;
/// Streams of the device in the sequential suite.
pub(crate) const STREAMS: usize = 3;

/// One step. `on` chooses the stream: 0 is the thread's binding, others its leases; `to`, `a`, `b` are registers. A step whose registers
/// are empty does nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Upload {
        on: u8,
        to: u8,
        length: usize,
        seed: u32,
    },
    Fill {
        on: u8,
        to: u8,
        length: usize,
        value: i8,
    },
    Unary {
        on: u8,
        op: Unary,
        a: u8,
        to: u8,
    },
    Binary {
        on: u8,
        op: Binary,
        a: u8,
        b: u8,
        to: u8,
    },
    Layer {
        on: u8,
        a: u8,
        to: u8,
    },
    Model {
        on: u8,
        a: u8,
        to: u8,
        from_host: bool,
    },
    View {
        on: u8,
        view: View,
        a: u8,
        to: u8,
    },
    Clone {
        a: u8,
        to: u8,
    },
    Drop {
        a: u8,
    },
    /// Hands a register's value to whoever takes it, and keeps no tensor of it.
    Give {
        a: u8,
    },
    Take {
        to: u8,
    },
    Read {
        on: u8,
        a: u8,
    },
    /// Waits for one stream.
    Sync {
        on: u8,
    },
    /// Waits for all.
    SyncAll,
    EmptyCache,
    /// Bounds the memory to so many KiB.
    Limit {
        kib: u16,
    },
    Lease,
    Unlease,
    /// A section that panics after its first launch.
    Panic {
        on: u8,
        a: u8,
    },
    /// Lets the device do so many entries.
    Work {
        entries: u8,
    },
    /// Holds a stream of the device back, until somebody must wait.
    Hold {
        stream: u8,
    },
    Fault {
        kind: Fault,
        ahead: u8,
    },
    Lose,
    Close,
}

/// What goes wrong, `ahead` events from now.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Allocation,
    Submission,
    Execution,
    Compile,
}

/// The device of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) queue_depth: usize,
    pub(crate) share: bool,
}

pub(crate) fn setup() -> impl Strategy<Value = Setup> {
    let mode = prop_oneof![Just(Mode::Random), Just(Mode::Lazy), Just(Mode::Eager)];
    (0..1000_u64, mode, prop_oneof![Just(64_usize), Just(2), Just(1)], any::<bool>())
        .prop_map(|(seed, mode, queue_depth, share)| Setup { seed, mode, queue_depth, share })
}

/// Any step; `ends` of the device (losing and closing it) only if asked for.
pub(crate) fn step(ends: bool) -> impl Strategy<Value = Step> {
    let on = || 0..=STREAMS as u8;
    let reg = || 0..REGISTERS;
    let length = || {
        prop_oneof![
            1 => Just(LENGTHS[0]),
            2 => Just(LENGTHS[1]),
            6 => Just(LENGTHS[2]),
            2 => Just(LENGTHS[3]),
            3 => Just(LENGTHS[4]),
            1 => Just(LENGTHS[5]),
        ]
    };
    let unary = prop_oneof![Just(Unary::Neg), Just(Unary::Relu), Just(Unary::Twice), Just(Unary::Cancel)];
    let binary = prop_oneof![
        Just(Binary::Add),
        Just(Binary::Sub),
        Just(Binary::Max),
        Just(Binary::Mul),
        Just(Binary::Concat)
    ];
    let view = prop_oneof![Just(View::Half), Just(View::EverySecond), Just(View::Expand), Just(View::Dense)];
    let fault = prop_oneof![
        Just(Fault::Allocation),
        Just(Fault::Submission),
        Just(Fault::Execution),
        Just(Fault::Compile)
    ];
    let usual = prop_oneof![
        6 => (on(), reg(), length(), any::<u32>()).prop_map(|(on, to, length, seed)| Step::Upload { on, to, length, seed }),
        3 => (on(), reg(), length(), any::<i8>()).prop_map(|(on, to, length, value)| Step::Fill { on, to, length, value }),
        8 => (on(), unary, reg(), reg()).prop_map(|(on, op, a, to)| Step::Unary { on, op, a, to }),
        8 => (on(), binary, reg(), reg(), reg()).prop_map(|(on, op, a, b, to)| Step::Binary { on, op, a, b, to }),
        3 => (on(), reg(), reg()).prop_map(|(on, a, to)| Step::Layer { on, a, to }),
        3 => (on(), reg(), reg(), any::<bool>()).prop_map(|(on, a, to, from_host)| Step::Model { on, a, to, from_host }),
        4 => (on(), view, reg(), reg()).prop_map(|(on, view, a, to)| Step::View { on, view, a, to }),
        3 => (reg(), reg()).prop_map(|(a, to)| Step::Clone { a, to }),
        6 => reg().prop_map(|a| Step::Drop { a }),
        3 => reg().prop_map(|a| Step::Give { a }),
        3 => reg().prop_map(|to| Step::Take { to }),
        3 => (on(), reg()).prop_map(|(on, a)| Step::Read { on, a }),
        1 => on().prop_map(|on| Step::Sync { on }),
        1 => Just(Step::SyncAll),
        1 => Just(Step::EmptyCache),
        1 => (200..1000_u16).prop_map(|kib| Step::Limit { kib }),
        4 => Just(Step::Lease),
        2 => Just(Step::Unlease),
        1 => (on(), reg()).prop_map(|(on, a)| Step::Panic { on, a }),
        2 => (1..6_u8).prop_map(|entries| Step::Work { entries }),
        2 => (0..STREAMS as u8).prop_map(|stream| Step::Hold { stream }),
        2 => (fault, 1..4_u8).prop_map(|(kind, ahead)| Step::Fault { kind, ahead }),
    ];
    let end = if ends { 1 } else { 0 };
    prop_oneof![
        400 => usual,
        end => Just(Step::Lose),
        end => Just(Step::Close),
    ]
}
