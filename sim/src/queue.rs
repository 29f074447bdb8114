//! A stream of the simulated device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streampool_core::driver::{Bindings, Executable, Queue, Slice};
use streampool_core::timeline::{StreamId, Ticket};
use streampool_core::{Error, Result};

use crate::Mode;
use crate::driver::{Shared, Target};
use crate::fault::Event;
use crate::memory::Range;
use crate::program::SimExecutable;
use crate::schedule::{Kind, Pick, Use, Work};

/// How long a full queue that makes no progress (its stream is held back or stalled) keeps its submitter before it refuses.
const FULL: Duration = Duration::from_secs(5);

/// See the module's text.
pub(crate) struct SimQueue {
    shared: Arc<Shared>,
    stream: StreamId,
}

impl SimQueue {
    pub(crate) fn new(shared: Arc<Shared>, stream: StreamId) -> Self {
        Self { shared, stream }
    }

    /// Queues `work` under `number`, or refuses it; then the number is free again.
    fn submit(&mut self, number: u64, make: impl FnOnce() -> Result<Kind>) -> Result<()> {
        self.shared.until(Target::Credit(self.stream), Instant::now() + FULL)?;
        let mut engine = self.shared.engine();
        if let Some(lost) = &engine.lost {
            return Err(lost.clone());
        }
        let submitted = engine.stream(self.stream).submitted;
        if number != submitted + 1 {
            return Err(engine.violation(format!(
                "INV-12: stream {} was given ticket {number} after {submitted}",
                self.stream.0
            )));
        }
        let event = engine.event(Event::Submission);
        if engine.lost.is_some() {
            drop(engine);
            self.shared.publish();
            return event;
        }
        event?;
        let kind = make()?;
        let uses = kind.uses();
        for (i, used) in uses.iter().enumerate() {
            if let Err(error) = engine.memory.retain(used.range) {
                uses[..i].iter().for_each(|u| engine.memory.release(u.range));
                engine.violations.push(error.to_string());
                return Err(error);
            }
        }
        let now = engine.now;
        let stream = engine.stream(self.stream);
        stream.submitted = number;
        stream.clock.insert(self.stream.0, number);
        let clock = stream.clock.clone();
        let conflict = engine.conflict(self.stream, &uses, &clock);
        let violation = conflict.map(|text| engine.violation(text));
        let work = Work { kind, number, clock, submitted_at: now, violation };
        engine.stream(self.stream).work.push_back(work);
        self.shared.submitted(self.stream, number);
        drop(engine);
        self.run_some();
        Ok(())
    }

    /// What the mode runs at a submission.
    fn run_some(&self) {
        match self.shared.mode() {
            Mode::Eager => while self.shared.step(Pick::Toward(self.stream)) {},
            Mode::Random => while self.shared.coin() && self.shared.step(Pick::Any) {},
            Mode::Lazy | Mode::Manual => {}
        }
    }

    fn range(&self, slice: Slice<'_>, bytes: usize) -> Result<Range> {
        if bytes > slice.bytes() {
            return Err(Error::invalid_argument(format!(
                "sim: {bytes} bytes do not fit a slice of {}",
                slice.bytes()
            )));
        }
        Ok(Range::new(slice.address(), bytes))
    }
}

impl Queue for SimQueue {
    fn launch(&mut self, program: &Arc<dyn Executable>, bindings: &Bindings<'_>, number: u64) -> Result<()> {
        self.submit(number, || {
            let sim = SimExecutable::of(program)?;
            sim.check(bindings)?;
            let range = |(slice, bytes): (&Slice<'_>, usize)| Range::new(slice.address(), bytes);
            let inputs = bindings.inputs.iter().zip(sim.inputs.iter().map(|p| p.bytes)).map(range).collect();
            let outputs =
                bindings.outputs.iter().zip(sim.outputs.iter().map(|p| p.bytes)).map(range).collect();
            let arena = Range::new(bindings.arena.address(), sim.arena_bytes);
            Ok(Kind::Launch { program: program.clone(), inputs, outputs, arena })
        })
    }

    fn write(&mut self, to: Slice<'_>, from: &[u8], number: u64) -> Result<()> {
        let to = self.range(to, from.len());
        self.submit(number, || Ok(Kind::Write { to: to?, bytes: from.to_vec() }))
    }

    fn read(&mut self, from: Slice<'_>, to: &mut [u8], deadline: Instant) -> Result<()> {
        let range = self.range(from, to.len())?;
        self.shared.until(Target::Drained(self.stream), deadline)?;
        let mut engine = self.shared.engine();
        if let Some(lost) = &engine.lost {
            return Err(lost.clone());
        }
        if range.is_empty() {
            return Ok(());
        }
        let clock = engine.stream(self.stream).clock.clone();
        if let Some(text) = engine.conflict(self.stream, &[Use { range, writes: false }], &clock) {
            return Err(engine.violation(format!("a read by the host: {text}")));
        }
        if engine.memory.is_freed(range) {
            return Err(
                engine.violation(format!("INV-6: a read by the host of freed memory at {:#x}", range.start))
            );
        }
        if let Some(error) = engine.memory.tainted(range) {
            return Err(error.clone());
        }
        if engine.check_unwritten
            && let Some(at) = engine.memory.unwritten(range)
        {
            return Err(engine.violation(format!("the host reads bytes at {at:#x} that nothing ever wrote")));
        }
        to.copy_from_slice(engine.memory.bytes(range)?);
        Ok(())
    }

    fn wait_for(&mut self, ticket: Ticket) -> Result<()> {
        let mut engine = self.shared.engine();
        if let Some(lost) = &engine.lost {
            return Err(lost.clone());
        }
        let submitted = engine.stream(ticket.stream).submitted;
        if ticket.number > submitted {
            return Err(engine.violation(format!(
                "INV-12: stream {} was told to wait for ticket {} of stream {}, of which {submitted} are submitted",
                self.stream.0, ticket.number, ticket.stream.0
            )));
        }
        if ticket.stream == self.stream {
            return Ok(());
        }
        engine.join(self.stream, ticket);
        let now = engine.now;
        let stream = engine.stream(self.stream);
        let (number, clock) = (stream.submitted, stream.clock.clone());
        stream.work.push_back(Work {
            kind: Kind::Wait(ticket),
            number,
            clock,
            submitted_at: now,
            violation: None,
        });
        Ok(())
    }
}
