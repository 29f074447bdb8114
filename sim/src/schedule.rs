//! What runs when: queued work of all streams, and the seeded adversary that picks among it.
//!
//! Work of one stream runs in order; [`Kind::Wait`] entries hold a stream back until another's ticket is done. Everything else is
//! the adversary's choice. A *step* takes one entry off a queue under the lock, runs it on copies of its bytes without the
//! lock (so that other threads submit, poll and even run other streams' work meanwhile), and publishes under the lock again.
//!
//! Two promises of core are watched here, whatever the schedule happened to be:
//! - INV-5: a submission that touches bytes which pending work of another stream touches too (one of them writing) must be
//!   ordered after it by `wait_for`. Vector clocks tell (Lamport 1978; Fidge, Mattern 1988). What is done already is ordered.
//! - INV-6: queued work never names freed memory.
//!
//! Work that breaks one fails with an `internal` error that names it, and [`crate::SimDriver::violations`] lists it.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use streampool_core::driver::{Bindings, Executable, Slice};
use streampool_core::timeline::{StreamId, Ticket};
use streampool_core::{Error, Result};

use crate::fault::{Event, Events, Outcome};
use crate::memory::{Aligned, Memory, Range, poison};
use crate::program::SimExecutable;
use crate::random::Random;

/// How much of the past is remembered for tests to look at.
const TRACE: usize = 1 << 16;

/// For each stream, the ticket up to which a point in another stream is ordered after it.
pub(crate) type Clock = BTreeMap<u32, u64>;

/// What a queue was given.
pub(crate) enum Kind {
    Launch { program: Arc<dyn Executable>, inputs: Vec<Range>, outputs: Vec<Range>, arena: Range },
    Write { to: Range, bytes: Vec<u8> },
    Wait(Ticket),
}

/// An entry of a queue.
pub(crate) struct Work {
    pub(crate) kind: Kind,
    /// Its ticket's number; of a [`Kind::Wait`], the number of the submission before it.
    pub(crate) number: u64,
    pub(crate) clock: Clock,
    /// Virtual time of its submission.
    pub(crate) submitted_at: u64,
    /// A broken promise that was seen when it was submitted.
    pub(crate) violation: Option<Error>,
}

/// Bytes that work touches.
#[derive(Clone, Copy)]
pub(crate) struct Use {
    pub(crate) range: Range,
    pub(crate) writes: bool,
}

impl Kind {
    pub(crate) fn uses(&self) -> Vec<Use> {
        let reads = |range: &Range| Use { range: *range, writes: false };
        let writes = |range: &Range| Use { range: *range, writes: true };
        match self {
            Kind::Launch { inputs, outputs, arena, .. } => {
                inputs.iter().map(reads).chain(outputs.iter().chain([arena]).map(writes)).collect()
            }
            Kind::Write { to, .. } => vec![writes(to)],
            Kind::Wait(_) => Vec::new(),
        }
    }

    fn name(&self) -> String {
        match self {
            Kind::Launch { program, .. } => {
                let name = SimExecutable::of(program).map_or("?", |p| p.name.as_str());
                format!("launch of '{name}'")
            }
            Kind::Write { to, .. } => format!("write of {} bytes", to.bytes()),
            Kind::Wait(ticket) => format!("wait for ticket {} of stream {}", ticket.number, ticket.stream.0),
        }
    }
}

/// One stream of the device.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) work: VecDeque<Work>,
    /// What a thread runs just now: its number and bytes.
    pub(crate) running: Option<(u64, Vec<Use>)>,
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    pub(crate) held: bool,
    /// Tickets from here on died with the device.
    lost_from: Option<u64>,
    /// Orders what is submitted next.
    pub(crate) clock: Clock,
    /// Virtual time at which its last work ended.
    free_at: u64,
    /// Virtual ends of recent tickets.
    ends: VecDeque<(u64, u64)>,
}

/// One entry of the device's past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Whose work.
    pub stream: StreamId,
    /// Its ticket's number.
    pub number: u64,
    /// Virtual time of its start, in nanoseconds.
    pub start: u64,
    /// Virtual time of its end, in nanoseconds.
    pub end: u64,
}

/// Which work a step is to take.
#[derive(Clone, Copy)]
pub(crate) enum Pick {
    /// Any that may run.
    Any,
    /// What this stream waits for: its own head, or the work behind which that waits.
    Toward(StreamId),
    /// This stream's head itself.
    Head(StreamId),
}

/// What a step found.
pub(crate) enum Picked {
    Job(Box<Job>),
    /// Other threads run what is needed.
    Busy,
    /// Held, stalled, or nothing there.
    Blocked,
}

/// Work taken off its queue, with its bytes.
pub(crate) struct Job {
    pub(crate) stream: StreamId,
    work: Work,
    start: u64,
    end: u64,
    /// The copies it runs on, or why it does not.
    ready: Result<Copies>,
}

pub(crate) struct Copies {
    inputs: Vec<Aligned>,
    outputs: Vec<Aligned>,
    arena: Aligned,
}

/// Everything behind the device's lock.
pub(crate) struct Engine {
    pub(crate) random: Random,
    pub(crate) events: Events,
    pub(crate) memory: Memory,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) lost: Option<Error>,
    /// Virtual time, in nanoseconds.
    pub(crate) now: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) trace: VecDeque<Executed>,
    pub(crate) check_unwritten: bool,
    failures: BTreeMap<(StreamId, u64), Error>,
}

impl Engine {
    pub(crate) fn new(
        mut random: Random,
        memory_bytes: usize,
        events: Events,
        check_unwritten: bool,
    ) -> Self {
        let memory = Memory::new(memory_bytes, random.split());
        Self {
            random,
            events,
            memory,
            streams: BTreeMap::new(),
            lost: None,
            now: 0,
            violations: Vec::new(),
            trace: VecDeque::new(),
            check_unwritten,
            failures: BTreeMap::new(),
        }
    }

    /// Counts an event; an error if it goes wrong or the device is lost.
    pub(crate) fn event(&mut self, event: Event) -> Result<()> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        match self.events.happens(event) {
            Outcome::Fine => Ok(()),
            Outcome::Fails(error) => Err(error),
            Outcome::LosesDevice => Err(self.lose()),
        }
    }

    /// Loses the device. Nothing queued ever runs, so nothing touches memory any more: every ticket is over, and failed.
    pub(crate) fn lose(&mut self) -> Error {
        let lost = Error::device_lost("sim: the device is lost; open a new one");
        self.lost = Some(lost.clone());
        for stream in self.streams.values_mut() {
            stream.lost_from.get_or_insert(stream.completed + 1);
            for work in stream.work.drain(..) {
                work.kind.uses().iter().for_each(|u| self.memory.release(u.range));
            }
            if stream.running.is_none() {
                stream.completed = stream.submitted;
            }
        }
        lost
    }

    pub(crate) fn stream(&mut self, stream: StreamId) -> &mut Stream {
        self.streams.entry(stream).or_default()
    }

    fn completed(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).map_or(0, |s| s.completed)
    }

    /// How the work of a completed ticket ended.
    pub(crate) fn outcome(&self, ticket: Ticket) -> Result<()> {
        if let Some(error) = self.failures.get(&(ticket.stream, ticket.number)) {
            return Err(error.clone());
        }
        let lost_from = self.streams.get(&ticket.stream).and_then(|s| s.lost_from);
        match &self.lost {
            Some(lost) if lost_from.is_some_and(|from| ticket.number >= from) => Err(lost.clone()),
            _ => Ok(()),
        }
    }

    /// Notes a broken promise.
    pub(crate) fn violation(&mut self, text: String) -> Error {
        let error = Error::internal(format!("sim: {text}"));
        self.violations.push(text);
        error
    }

    /// A promise that `uses`, ordered by `clock`, break against pending work of streams other than `stream`.
    pub(crate) fn conflict(&self, stream: StreamId, uses: &[Use], clock: &Clock) -> Option<String> {
        let clash = |theirs: &[Use]| {
            let pairs = theirs.iter().flat_map(|t| uses.iter().map(move |u| (t, u)));
            pairs
                .into_iter()
                .find(|(t, u)| (t.writes || u.writes) && t.range.overlaps(u.range))
                .map(|(t, _)| t.range)
        };
        for (&other, pending) in self.streams.iter().filter(|&(&other, _)| other != stream) {
            let ordered = clock.get(&other.0).copied().unwrap_or(0);
            let queued = pending.work.iter().map(|w| (w.number, w.kind.uses()));
            for (number, theirs) in pending.running.iter().cloned().chain(queued).filter(|w| w.0 > ordered) {
                if let Some(range) = clash(&theirs) {
                    return Some(format!(
                        "INV-5/INV-6: a submission to stream {} touches {:#x}..{:#x}, which ticket {number} of stream {} touches, too, and \
                         does not wait for it",
                        stream.0, range.start, range.end, other.0
                    ));
                }
            }
        }
        None
    }

    /// Joins into a stream's clock what `ticket` was ordered after.
    pub(crate) fn join(&mut self, stream: StreamId, ticket: Ticket) {
        let mut joined = vec![(ticket.stream.0, ticket.number)];
        if let Some(other) = self.streams.get(&ticket.stream) {
            // What is done needs no clock. Of pending work, the ticket's own; of running work, only its number is known, which is enough
            // for what it waited for is done.
            if let Some(work) =
                other.work.iter().find(|w| w.number == ticket.number && !matches!(w.kind, Kind::Wait(_)))
            {
                joined.extend(work.clock.iter().map(|(&s, &n)| (s, n)));
            }
        }
        let clock = &mut self.stream(stream).clock;
        for (s, n) in joined {
            let known = clock.entry(s).or_default();
            *known = n.max(*known);
        }
    }

    /// Drops wait entries that are fulfilled from a stream's head.
    fn settle(&mut self, id: StreamId) {
        while let Some(Work { kind: Kind::Wait(ticket), .. }) =
            self.streams.get(&id).and_then(|s| s.work.front())
        {
            let ticket = *ticket;
            let Some(other) = self.streams.get(&ticket.stream) else { return };
            if other.completed < ticket.number {
                return;
            }
            let end = other.ends.iter().find(|e| e.0 >= ticket.number).map_or(0, |e| e.1);
            let stream = self.stream(id);
            stream.work.pop_front();
            stream.free_at = stream.free_at.max(end);
        }
    }

    /// Whether a stream's head can run; settles its waits.
    fn runnable(&mut self, id: StreamId) -> bool {
        self.settle(id);
        let Some(stream) = self.streams.get(&id) else { return false };
        let Some(head) = stream.work.front() else { return false };
        stream.running.is_none()
            && !stream.held
            && !matches!(head.kind, Kind::Wait(_))
            && !self.events.stalled(id, head.number)
    }

    /// Whether a stream has nothing queued or running.
    pub(crate) fn is_drained(&mut self, id: StreamId) -> bool {
        self.settle(id);
        self.streams.get(&id).is_none_or(|s| s.work.is_empty() && s.running.is_none())
    }

    /// How many entries a stream has queued.
    pub(crate) fn queued(&mut self, id: StreamId) -> usize {
        self.settle(id);
        self.streams.get(&id).map_or(0, |s| s.work.len())
    }

    /// Takes work off a queue.
    pub(crate) fn pick(&mut self, pick: Pick) -> Picked {
        if self.lost.is_some() {
            return Picked::Blocked;
        }
        let chosen = match pick {
            Pick::Head(id) => self.runnable(id).then_some(id),
            Pick::Any => {
                let ids: Vec<StreamId> = self.streams.keys().copied().collect();
                let ready: Vec<StreamId> = ids.into_iter().filter(|id| self.runnable(*id)).collect();
                (!ready.is_empty()).then(|| ready[self.random.below(ready.len())])
            }
            Pick::Toward(mut id) => loop {
                if self.runnable(id) {
                    break Some(id);
                }
                let Some(stream) = self.streams.get(&id) else { break None };
                if stream.running.is_some() {
                    return Picked::Busy;
                }
                match stream.work.front() {
                    // Waits name work that was submitted before them, so this ends.
                    Some(Work { kind: Kind::Wait(ticket), .. }) if !stream.held => id = ticket.stream,
                    _ => break None,
                }
            },
        };
        match chosen {
            Some(id) => Picked::Job(Box::new(self.take(id))),
            None => Picked::Blocked,
        }
    }

    /// Takes a runnable head off its queue and copies what it needs.
    fn take(&mut self, id: StreamId) -> Job {
        let duration = 1000_u64 << self.random.below(10);
        let stream = self.stream(id);
        let mut work = stream.work.pop_front().expect("a runnable stream has a head");
        let start = stream.free_at.max(work.submitted_at);
        let end = start + duration;
        stream.free_at = end;
        stream.running = Some((work.number, work.kind.uses()));
        let violation = work.violation.take();
        let ready = violation.map_or_else(|| self.ready(id, &work), Err);
        Job { stream: id, work, start, end, ready }
    }

    fn ready(&mut self, id: StreamId, work: &Work) -> Result<Copies> {
        let mut copies = Copies { inputs: Vec::new(), outputs: Vec::new(), arena: Aligned::new(&[]) };
        self.event(Event::Execution)?;
        for used in work.kind.uses() {
            if self.memory.is_freed(used.range) {
                let (number, at) = (work.number, used.range.start);
                return Err(self.violation(format!(
                    "INV-6: ticket {number} of stream {} touches memory at {at:#x} that was freed before it ran",
                    id.0
                )));
            }
        }
        let Kind::Launch { program, inputs, outputs, arena } = &work.kind else { return Ok(copies) };
        let program = SimExecutable::of(program)?;
        let partly = program.whole.iter().zip(outputs).filter(|(whole, _)| !**whole).map(|(_, range)| *range);
        for range in inputs.iter().copied().chain(partly) {
            if let Some(error) = self.memory.tainted(range) {
                return Err(error.clone());
            }
        }
        if self.check_unwritten {
            for range in inputs {
                if let Some(at) = self.memory.unwritten(*range) {
                    return Err(self.violation(format!(
                        "{} (ticket {} of stream {}) reads bytes at {at:#x} that nothing ever wrote",
                        work.kind.name(),
                        work.number,
                        id.0
                    )));
                }
            }
        }
        copies.arena = Aligned::new(&vec![0; arena.bytes()]);
        poison(copies.arena.get_mut(), self.random.next());
        for range in inputs {
            copies.inputs.push(Aligned::new(self.memory.bytes(*range)?));
        }
        for range in outputs {
            copies.outputs.push(Aligned::new(self.memory.bytes(*range)?));
        }
        Ok(copies)
    }

    /// Publishes what a job did.
    pub(crate) fn finish(&mut self, job: Job, ended: Result<Copies>) {
        let Job { stream: id, work, start, end, .. } = job;
        let ended = match &self.lost {
            Some(lost) => Err(lost.clone()),
            None => ended,
        };
        let published = ended.and_then(|copies| match &work.kind {
            Kind::Launch { outputs, arena, .. } => {
                for (range, copy) in outputs.iter().zip(&copies.outputs) {
                    self.memory.write(*range, copy.get())?;
                }
                // Its contents are undefined afterwards: what the program left, as likely as not.
                self.memory.write(*arena, copies.arena.get())
            }
            Kind::Write { to, bytes } => self.memory.write(*to, bytes),
            Kind::Wait(_) => Ok(()),
        });
        if let Err(error) = published {
            let outputs = match &work.kind {
                Kind::Launch { outputs, .. } => outputs.clone(),
                Kind::Write { to, .. } => vec![*to],
                Kind::Wait(_) => Vec::new(),
            };
            outputs.iter().for_each(|range| self.memory.taint(*range, &error));
            self.failures.insert((id, work.number), error);
        }
        for used in work.kind.uses() {
            self.memory.release(used.range);
        }
        let lost = self.lost.is_some();
        let stream = self.stream(id);
        stream.running = None;
        stream.completed = if lost { stream.submitted } else { work.number };
        stream.ends.push_back((work.number, end));
        if stream.ends.len() > 256 {
            stream.ends.pop_front();
        }
        self.now = self.now.max(end);
        self.trace.push_back(Executed { stream: id, number: work.number, start, end });
        if self.trace.len() > TRACE {
            self.trace.pop_front();
        }
    }

    /// What a stream stands at, for the text of a timeout.
    pub(crate) fn describe(&self, id: StreamId) -> String {
        let Some(stream) = self.streams.get(&id) else { return "nothing was submitted to it".into() };
        let head = match (&stream.running, stream.work.front()) {
            (Some((number, _)), _) => format!("ticket {number} is running"),
            (None, Some(work)) if self.events.stalled(id, work.number) => {
                format!("{} is stalled", work.kind.name())
            }
            (None, Some(work)) => format!("next is the {}", work.kind.name()),
            (None, None) => "nothing is queued".into(),
        };
        let held = if stream.held { ", held back" } else { "" };
        format!("{} of {} submissions done{held}, {head}", self.completed(id), stream.submitted)
    }
}

impl Job {
    /// Runs it, without any lock.
    pub(crate) fn run(mut self) -> (Job, Result<Copies>) {
        let ready = std::mem::replace(&mut self.ready, Err(Error::internal("sim: work was run twice")));
        let ended = ready.and_then(|copies| match &self.work.kind {
            Kind::Launch { program, .. } => run(SimExecutable::of(program)?, copies),
            _ => Ok(copies),
        });
        (self, ended)
    }
}

fn run(program: &SimExecutable, mut copies: Copies) -> Result<Copies> {
    let inputs: Vec<Slice<'_>> = copies.inputs.iter().map(|c| Slice::host(c.get())).collect();
    let outputs: Vec<Slice<'_>> = copies.outputs.iter_mut().map(|c| Slice::host_mut(c.get_mut())).collect();
    let arena = Slice::host_mut(copies.arena.get_mut());
    let bindings = Bindings { inputs: &inputs, outputs: &outputs, arena };
    let ran = catch_unwind(AssertUnwindSafe(|| program.host.run(&bindings)));
    let name = &program.name;
    ran.unwrap_or_else(|_| {
        Err(Error::internal(format!("sim: program '{name}' panicked; please report this")))
    })?;
    Ok(copies)
}
