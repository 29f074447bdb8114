//! One thread's part of a program.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use streampool::{DType, Device, HostTensor, Result, StreamId, StreamLease, Tensor};

use crate::blame::{Call, Deps};
use crate::step::{REGISTERS, Step};
use crate::value::{Frozen, Value};
use crate::world::World;

/// Steps after which a held stream is let go, lest its queue fills up.
const HELD: usize = 8;

pub(crate) struct Worker<'w> {
    world: &'w World<'w>,
    registers: Vec<Option<Value>>,
    leases: Vec<StreamLease>,
    /// How many leases it may have at once.
    most_leases: usize,
    /// Whether nobody else runs.
    alone: bool,
    held_since: Option<usize>,
    steps: usize,
}

impl<'w> Worker<'w> {
    /// The only thread of a program.
    pub(crate) fn alone(world: &'w World<'w>) -> Self {
        Self::new(world, true, world.streams)
    }

    /// One of several: it has one lease at most, so that nobody waits for a stream while holding one.
    pub(crate) fn among_others(world: &'w World<'w>) -> Self {
        Self::new(world, false, 1)
    }

    fn new(world: &'w World<'w>, alone: bool, most_leases: usize) -> Self {
        let registers = (0..REGISTERS).map(|_| None).collect();
        Self { world, registers, leases: Vec::new(), most_leases, alone, held_since: None, steps: 0 }
    }

    pub(crate) fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.steps += 1;
            if self.held_since.is_some_and(|since| self.steps > since + HELD) {
                self.let_go();
            }
            self.step(*step);
            if self.alone && self.steps.is_multiple_of(8) {
                self.world.device.check_memory();
                let violations = self.world.sim.violations();
                assert!(violations.is_empty(), "after {step:?}: {violations:?}");
            }
        }
    }

    /// Reads all that is left, then drops it.
    pub(crate) fn finish(mut self) {
        self.let_go();
        for register in 0..REGISTERS {
            self.read(0, register);
        }
        self.registers.clear();
        self.leases.clear();
    }

    fn step(&mut self, step: Step) {
        let world = self.world;
        let device = &world.device;
        match step {
            Step::Upload { on, to, length, seed } => {
                let data: Vec<f32> = (0..length as u32).map(|i| number(seed, i)).collect();
                let host = HostTensor::from_vec([length], data.clone()).unwrap();
                self.make(on, to, &[], data, || Tensor::from_host(device, &host));
            }
            Step::Fill { on, to, length, value } => {
                let data = vec![f32::from(value); length];
                self.make(on, to, &[], data, || Tensor::full(device, [length], value.into(), DType::F32));
            }
            Step::Unary { on, op, a, to } => {
                let Some(a) = self.get(a) else { return };
                self.make(on, to, &[&a], op.on_host(&a.data), || op.on_device(&a.tensor));
            }
            Step::Binary { on, op, a, b, to } => {
                let (Some(a), Some(b)) = (self.get(a), self.get(b)) else { return };
                if a.data.len() + b.data.len() > 100_000 {
                    return; // A program that doubles a vector at each step would end at the edge of the memory.
                }
                match op.on_host(&a.data, &b.data) {
                    Some(data) => self.make(on, to, &[&a, &b], data, || op.on_device(&a.tensor, &b.tensor)),
                    None => self.refused(|| op.on_device(&a.tensor, &b.tensor)),
                }
            }
            Step::Layer { on, a, to } => {
                let Some(a) = self.get(a) else { return };
                self.make(on, to, &[&a], Frozen::on_host(&a.data), || world.frozen.layer(&a.tensor));
            }
            Step::Model { on, a, to, from_host } => {
                let Some(a) = self.get(a) else { return };
                let data = Frozen::on_host(&a.data);
                if from_host {
                    self.make(on, to, &[], data, || world.frozen.run_host(&a.data));
                } else {
                    self.make(on, to, &[&a], data, || world.frozen.run(&a.tensor));
                }
            }
            Step::View { on, view, a, to } => {
                let Some(a) = self.get(a) else { return };
                match view.on_host(&a.data) {
                    Some(data) => self.make(on, to, &[&a], data, || view.on_device(&a.tensor)),
                    None => self.refused(|| view.on_device(&a.tensor)),
                }
            }
            Step::Clone { a, to } => self.registers[usize::from(to)] = self.get(a),
            Step::Drop { a } => self.registers[usize::from(a)] = None,
            Step::Give { a } => {
                let given = self.registers[usize::from(a)].take();
                world.mailbox().extend(given);
            }
            Step::Take { to } => {
                let taken = world.mailbox().pop_front();
                if taken.is_some() {
                    self.registers[usize::from(to)] = taken;
                }
            }
            Step::Read { on, a } => self.read(on, a),
            Step::Sync { on } => {
                self.let_go();
                let waited = self.on(on, |device| device.synchronize_stream());
                self.judge(Call::Wait, waited);
            }
            Step::SyncAll => {
                self.let_go();
                let waited = device.synchronize();
                self.judge(Call::Wait, waited);
            }
            Step::EmptyCache => {
                let emptied = device.empty_cache();
                self.judge(Call::Acquire, emptied);
            }
            Step::Limit { kib } => {
                world.blame().limited = true;
                self.let_go(); // An allocation may wait for memory from now on.
                device.set_memory_limit(usize::from(kib) << 10);
            }
            Step::Lease => self.lease(),
            Step::Unlease => {
                if !self.leases.is_empty() {
                    self.leases.remove(self.steps % self.leases.len());
                }
            }
            Step::Panic { on, a } => {
                let Some(a) = self.get(a) else { return };
                // Not `panic!`: nobody wants its message.
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    self.on(on, |_| {
                        let made = a.tensor.neg();
                        if made.is_ok() {
                            resume_unwind(Box::new(()));
                        }
                        made
                    })
                }));
                match panicked {
                    Ok(made) => _ = self.judge(Call::Submit, made.map(drop)),
                    Err(_) => world.tally.count("panic in a section"),
                }
            }
            Step::Work { entries } => (0..entries).for_each(|_| _ = world.sim.step()),
            Step::Hold { stream } => {
                // Not where a submission or an allocation would wait for it.
                if self.alone && world.queue_depth >= 8 * HELD && !world.blame().limited {
                    world.sim.hold(StreamId(stream.into()));
                    self.held_since = self.held_since.or(Some(self.steps));
                }
            }
            Step::Fault { kind, ahead } => world.inject(kind, ahead.into()),
            Step::Lose => {
                world.blame().lost = true;
                world.sim.lose();
            }
            Step::Close => {
                self.let_go();
                world.blame().closed = true;
                device.close(Duration::from_secs(20)).expect("nothing runs for long");
            }
        }
    }

    /// Runs `work` on a stream of choice.
    fn on<R>(&self, on: u8, work: impl FnOnce(&Device) -> R) -> R {
        let device = &self.world.device;
        // Among others a lease is used if there is one: see `among_others`.
        let lease = if self.alone { usize::from(on).checked_sub(1) } else { Some(0) };
        match lease.and_then(|at| self.leases.get(at)) {
            Some(lease) => lease.scope(|| work(device)),
            None => work(device),
        }
    }

    fn get(&self, register: u8) -> Option<Value> {
        self.registers[usize::from(register)].clone()
    }

    /// A call that makes a value.
    fn make(
        &mut self,
        on: u8,
        to: u8,
        from: &[&Value],
        data: Vec<f32>,
        work: impl FnOnce() -> Result<Tensor>,
    ) {
        // What has no bytes cannot fail: nothing is read of it.
        let from = from.iter().filter(|v| !v.data.is_empty());
        let mut deps: BTreeSet<u64> = from.flat_map(|v| v.deps.iter().copied()).collect();
        deps.insert(self.world.call());
        let made = self.on(on, |_| work());
        if let Some(tensor) = self.judge(Call::Submit, made) {
            assert_eq!(tensor.numel(), data.len());
            let value = Value { tensor, data: Arc::new(data), deps: Arc::new(deps) };
            self.registers[usize::from(to)] = Some(value);
        }
    }

    /// A call with arguments that do not fit: refused before anything happens.
    fn refused(&self, work: impl FnOnce() -> Result<Tensor>) {
        let error = work().expect_err("the shapes do not fit");
        assert!(error.is_invalid_argument(), "{error}");
    }

    fn read(&mut self, on: u8, register: u8) {
        let Some(value) = self.get(register) else { return };
        self.let_go();
        // A strided view is made dense first, which is a call that allocates and submits.
        let dense = self.on(on, |_| value.tensor.contiguous());
        let Some(dense) = self.judge(Call::Submit, dense) else { return };
        let deps: Deps = match value.tensor.is_contiguous() {
            true => value.deps.clone(),
            false => Arc::new(value.deps.iter().copied().chain([self.world.call()]).collect()),
        };
        let got = self.on(on, |_| dense.to_vec::<f32>());
        if let Some(got) = self.judge(Call::Read(&deps), got) {
            let same = got.len() == value.data.len() && got.iter().zip(&*value.data).all(|(a, b)| a == b);
            assert!(same, "other values than the sequential oracle's: {}", difference(&got, &value.data));
            self.world.tally.count("right value");
            if !got.is_empty() {
                self.world.blame().succeeded(&deps);
            }
        }
    }

    fn lease(&mut self) {
        if self.leases.len() < self.most_leases {
            let leased = self.world.device.lease();
            let leased = self.judge(Call::Acquire, leased);
            self.leases.extend(leased);
        }
    }

    /// The result, if there is one; else the error must be one that this call may meet.
    fn judge<R>(&self, call: Call<'_>, result: Result<R>) -> Option<R> {
        match result {
            Ok(result) => Some(result),
            Err(error) => {
                let exhausted = self.alone && self.leases.len() == self.world.streams;
                let what = self.world.blame().accept(call, &error, exhausted);
                self.world.tally.count(what);
                None
            }
        }
    }

    fn let_go(&mut self) {
        if self.held_since.take().is_some() {
            self.world.release();
        }
    }
}

/// A whole number between -500 and 500 that depends on all its bits.
fn number(seed: u32, i: u32) -> f32 {
    let mixed = (seed ^ i.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
    ((mixed >> 8) % 1001) as f32 - 500.0
}

fn difference(got: &[f32], want: &[f32]) -> String {
    match got.iter().zip(want).position(|(a, b)| a != b) {
        Some(at) => format!("at {at} of {}: {} instead of {}", want.len(), got[at], want[at]),
        None => format!("{} elements instead of {}", got.len(), want.len()),
    }
}
