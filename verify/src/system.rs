//! States and steps.
//!
//! Numbers are relative: the k-th unfinished submission of a stream has ticket k, and what is done has no ticket any more. A binding
//! knows whether it is stale instead of a generation. So a run that repeats itself comes back to the same state.

use std::fmt;

use stateright::{Model, Property};
use streampool_core::hazard::{Access, Hazards, Waits};
use streampool_core::memory::rule as reuse;
use streampool_core::slot::rule::{self, Owner, Turn};
use streampool_core::timeline::{StreamId, Submissions, Ticket, VectorClock};

/// What is modelled, and how small.
#[derive(Clone, Debug)]
pub struct System {
    /// Threads that enter, again and again. Every second of them leases a stream each time; the others use their bindings.
    pub threads: u8,
    /// Slots, each with a stream of its own.
    pub slots: u8,
    /// Blocks that the memory has room for.
    pub blocks: u8,
    /// Submissions in flight on a stream.
    pub credits: u8,
    /// Whether threads may end.
    pub exits: bool,
    /// Whether somebody may shut the system down, at any moment.
    pub closes: bool,
    /// What is wrong with it.
    pub fault: Option<Fault>,
}

/// A planted fault. Each must be caught: see [`crate::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A submission does not wait for what was submitted on other streams.
    DropWait,
    /// A block is reused one ticket too soon.
    EarlyReuse,
    /// A segment leaves its home stream one ticket too soon.
    EarlyMove,
    /// The end of a section tells nobody who waits.
    LostWakeUp,
    /// A slot that comes free goes to whoever comes first, not to the oldest waiter, who must try again: the classic lasso.
    Barging,
    /// A lease that ends keeps its slot.
    LeakLease,
    /// A thread that ends keeps its slot leased.
    LeakAtExit,
    /// A stale binding is taken for the owner's.
    SkipGeneration,
    /// A slot is taken from a thread that runs on it.
    TakeRunning,
    /// Shutting down forgets those who wait.
    CloseForgetsWaiters,
    /// Shutting down does not wait for submitted work before it frees the memory.
    CloseForgetsWork,
    /// An entry through a binding does not look whether the system is open.
    EnterClosed,
    /// A wait that names work which is submitted only later.
    WaitForTheFuture,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 13] = [
        Fault::DropWait,
        Fault::EarlyReuse,
        Fault::EarlyMove,
        Fault::LostWakeUp,
        Fault::Barging,
        Fault::LeakLease,
        Fault::LeakAtExit,
        Fault::SkipGeneration,
        Fault::TakeRunning,
        Fault::CloseForgetsWaiters,
        Fault::CloseForgetsWork,
        Fault::EnterClosed,
        Fault::WaitForTheFuture,
    ];
}

/// The whole system at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Who has which slot.
    pub slots: Vec<Slot>,
    /// What each thread does.
    pub threads: Vec<Thread>,
    /// Threads that wait for a slot, oldest first.
    pub queue: Vec<u8>,
    /// The memory.
    pub blocks: Vec<Block>,
    /// A block that was handed over and that nobody has taken yet.
    pub mailbox: Option<u8>,
    /// Work in flight of all streams, in the order of submission.
    pub work: Vec<Work>,
    /// Where the system is in its life.
    pub phase: Phase,
    /// An invariant that the last step broke.
    pub broken: Option<&'static str>,
}

/// A slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// As the pool has it.
    pub owner: Owner,
    /// As the pool has it.
    pub turn: Turn,
    /// The thread that owns it.
    pub holder: Option<u8>,
}

/// A thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thread {
    /// What it does.
    pub at: At,
    /// The slot that it used last, and whether somebody else had it since.
    pub binding: Option<(u8, bool)>,
}

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Something else.
    Outside,
    /// Waits for a slot.
    Waiting,
    /// Was given a slot while it waited, and has not begun.
    Granted(u8),
    /// Runs on a slot: has nothing yet.
    Running(u8),
    /// Runs on a slot: has a block, which it made itself or took over.
    Holding {
        /// Where it runs.
        slot: u8,
        /// What it has.
        block: u8,
        /// Whether it allocated it.
        made: bool,
    },
    /// Runs on a slot: work on its block is submitted (or it got none), and its section ends next.
    Ending {
        /// Where it runs.
        slot: u8,
        /// What it has.
        block: Option<u8>,
    },
    /// Was told that the system is shut down.
    Refused,
    /// Ended.
    Gone,
}

/// A place for a block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// What it is.
    pub place: Place,
    /// What operations on its present contents wait for.
    pub hazards: Hazards,
    /// For each stream the newest ticket recorded on it; 0 if all is done.
    pub tickets: Vec<u8>,
}

/// What a place for a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Not taken from the device.
    Unreserved,
    /// Somebody has it; it goes back to this stream.
    Live(u8),
    /// In the cache of a stream, or retired while others use it.
    Freed(u8),
}

/// A submission in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Work {
    /// Whose.
    pub stream: u8,
    /// On which block.
    pub block: u8,
    /// Whether it writes.
    pub writes: bool,
    /// What it waits for on the device: stream and relative ticket.
    pub after: Vec<(u8, u8)>,
}

/// Where the system is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Lets threads in.
    Open,
    /// Waits for what runs.
    Closing,
    /// Nothing runs, and the memory is given back.
    Closed,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A thread wants to run.
    Enter(u8),
    /// A thread that was given a slot begins.
    Begin(u8),
    /// A thread that waits tries again (only with [`Fault::Barging`]).
    Retry(u8),
    /// A thread allocates a block, or finds that there is no memory.
    Allocate(u8),
    /// A thread takes the block that was handed over.
    Take(u8),
    /// A thread submits work on its block.
    Submit(u8),
    /// A thread drops its block and ends its section.
    Drop(u8),
    /// A thread hands its block over and ends its section.
    Give(u8),
    /// A thread ends.
    Exit(u8),
    /// The device does the next work of a stream.
    Device(u8),
    /// Somebody shuts the system down.
    Close,
    /// Shutting down ends.
    Drain,
}

impl Step {
    /// Who must not be kept from this step for ever while it is possible: a thread inside the library, a stream of the device, a
    /// shutdown. Nobody must enter, end or close.
    pub fn actor(self) -> Option<Actor> {
        match self {
            Step::Begin(t)
            | Step::Retry(t)
            | Step::Allocate(t)
            | Step::Take(t)
            | Step::Submit(t)
            | Step::Drop(t)
            | Step::Give(t) => Some(Actor::Thread(t)),
            Step::Device(s) => Some(Actor::Stream(s)),
            Step::Drain => Some(Actor::Shutdown),
            Step::Enter(_) | Step::Exit(_) | Step::Close => None,
        }
    }
}

/// Whose steps are weakly fair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Actor {
    /// A thread that runs or was granted a slot.
    Thread(u8),
    /// The device, for one stream.
    Stream(u8),
    /// Whoever shuts down.
    Shutdown,
}

impl System {
    /// Every actor.
    pub fn actors(&self) -> Vec<Actor> {
        let threads = (0..self.threads).map(Actor::Thread);
        let streams = (0..self.slots).map(Actor::Stream);
        threads.chain(streams).chain([Actor::Shutdown]).collect()
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn leases(&self, thread: u8) -> bool {
        thread % 2 == 1
    }

    /// The slot that a newcomer gets: the first that may be had, stream 0 last.
    fn takeable(&self, state: &State) -> Option<u8> {
        let may = |slot: &Slot| match slot.owner {
            Owner::Bound if self.has(Fault::TakeRunning) => slot.turn != Turn::Reserved,
            owner => rule::is_takeable(owner, slot.turn),
        };
        (1..self.slots).chain([0]).find(|s| may(&state.slots[usize::from(*s)]))
    }

    /// The block that an allocation gets: from the own cache, from the device, from another stream's. `Err(true)` if there will be one
    /// when work in flight ends, `Err(false)` if memory is out.
    fn allocation(&self, state: &State, stream: u8) -> Result<u8, bool> {
        let early = |fault| u64::from(self.has(fault));
        let others_done = |block: &Block, home: u8| {
            let others = (0..self.slots).filter(|s| *s != home).map(|s| (s, block.tickets[usize::from(s)]));
            let tickets: Vec<Ticket> = others.filter(|(_, n)| *n > 0).map(|(s, n)| ticket(s, n)).collect();
            !reuse::retires(&tickets, |_| early(Fault::EarlyReuse))
        };
        let own = |block: &Block| block.place == Place::Freed(stream) && others_done(block, stream);
        let moved = |block: &Block| match block.place {
            Place::Freed(home) if home != stream => {
                let last_own = block.tickets[usize::from(home)].into();
                reuse::may_leave(0, u32::from(!others_done(block, home)), last_own, early(Fault::EarlyMove))
            }
            _ => false,
        };
        let find =
            |which: &dyn Fn(&Block) -> bool| (0..self.blocks).find(|b| which(&state.blocks[usize::from(*b)]));
        find(&own)
            .or_else(|| find(&|block| block.place == Place::Unreserved))
            .or_else(|| find(&moved))
            .ok_or_else(|| state.blocks.iter().any(|block| matches!(block.place, Place::Freed(_))))
    }

    /// Gives a slot to a new owner; whoever was bound to it has a stale binding from now on.
    fn assign(&self, state: &mut State, slot: u8, thread: u8) {
        let lease = self.leases(thread);
        for other in &mut state.threads {
            if other.binding == Some((slot, false)) {
                other.binding = Some((slot, true));
            }
        }
        let cell = &mut state.slots[usize::from(slot)];
        if cell.turn == Turn::Owner {
            state.broken = Some("INV-1: a slot was taken from a running section");
        }
        (cell.owner, cell.turn) = rule::assigned(lease, cell.turn);
        cell.holder = Some(thread);
        state.threads[usize::from(thread)].binding = if lease { None } else { Some((slot, false)) };
    }

    /// Gives a slot that came free to the oldest waiter.
    fn serve(&self, state: &mut State, slot: u8) {
        if self.has(Fault::LostWakeUp) || self.has(Fault::Barging) || state.queue.is_empty() {
            return;
        }
        let oldest = state.queue.remove(0);
        self.assign(state, slot, oldest);
        state.threads[usize::from(oldest)].at = At::Granted(slot);
    }

    /// A thread begins a section on a slot that it believes to own.
    fn begin(&self, state: &mut State, thread: u8, slot: u8) {
        let cell = &mut state.slots[usize::from(slot)];
        if cell.holder != Some(thread) {
            state.broken = Some("INV-3: an old owner runs on the new owner's slot");
        }
        if cell.turn == Turn::Owner {
            state.broken = Some("INV-1: two sections on one slot");
        }
        if state.phase == Phase::Closed {
            state.broken = Some("INV-11: a section begins after shutdown");
        }
        cell.turn = Turn::Owner;
        state.threads[usize::from(thread)].at = At::Running(slot);
    }

    fn enter(&self, state: &mut State, thread: u8) {
        let me = usize::from(thread);
        let valid = match state.threads[me].binding {
            Some((slot, stale)) if !stale || self.has(Fault::SkipGeneration) => {
                (state.slots[usize::from(slot)].turn == Turn::Idle).then_some(slot)
            }
            _ => None,
        };
        let open = state.phase == Phase::Open || self.has(Fault::EnterClosed) && valid.is_some();
        if !open {
            state.threads[me].at = At::Refused;
        } else if let Some(slot) = valid {
            self.begin(state, thread, slot);
        } else if (state.queue.is_empty() || self.has(Fault::Barging))
            && let Some(slot) = self.takeable(state)
        {
            self.assign(state, slot, thread);
            self.begin(state, thread, slot);
        } else {
            state.queue.push(thread);
            state.threads[me].at = At::Waiting;
        }
    }

    fn submit(&self, state: &mut State, thread: u8, slot: u8, block: u8, made: bool) {
        // Who made the block writes it; who took it over reads it, or writes it in place.
        let writes = made || self.leases(thread);
        let access = if writes { Access::Write } else { Access::Read };
        let place = &mut state.blocks[usize::from(block)];
        let mut waits = Waits::new();
        // Nothing that is done has a ticket, so nothing needs to be known.
        place
            .hazards
            .collect(access, StreamId(slot.into()), &VectorClock::new(), &mut waits)
            .expect("blocks are not frozen");
        let mut after: Vec<(u8, u8)> = match self.has(Fault::DropWait) {
            true => Vec::new(),
            false => waits.into_iter().map(|t| (t.stream.0 as u8, t.number as u8)).collect(),
        };
        after.sort_unstable();
        let in_flight = |stream: u8| state.work.iter().filter(|w| w.stream == stream).count() as u8;
        if self.has(Fault::WaitForTheFuture) {
            after.iter_mut().for_each(|(stream, number)| *number = in_flight(*stream) + 1);
        }
        if after.iter().any(|(stream, number)| *number > in_flight(*stream)) {
            state.broken = Some("INV-12: a wait for work that is not submitted");
        }
        let number = in_flight(slot) + 1;
        place.hazards.record(access, ticket(slot, number));
        place.tickets[usize::from(slot)] = number;
        if state.phase == Phase::Closed {
            state.broken = Some("INV-11: work is submitted after shutdown");
        }
        state.work.push(Work { stream: slot, block, writes, after });
        state.threads[usize::from(thread)].at = At::Ending { slot, block: Some(block) };
    }

    fn leave(&self, state: &mut State, thread: u8, slot: u8) {
        state.threads[usize::from(thread)].at = At::Outside;
        let cell = &mut state.slots[usize::from(slot)];
        cell.turn = Turn::Idle;
        if cell.owner == Owner::Leased && cell.holder == Some(thread) && !self.has(Fault::LeakLease) {
            cell.owner = Owner::Free;
            cell.holder = None;
        }
        if cell.owner == Owner::Free || rule::is_handed_over(cell.owner, cell.turn) {
            self.serve(state, slot);
        }
    }

    fn exit(&self, state: &mut State, thread: u8) {
        let me = usize::from(thread);
        state.threads[me].at = At::Gone;
        if let Some((slot, false)) = state.threads[me].binding.take() {
            let cell = &mut state.slots[usize::from(slot)];
            if cell.owner != Owner::Bound {
                return; // Shut down.
            }
            cell.owner = if self.has(Fault::LeakAtExit) { Owner::Leased } else { Owner::Free };
            cell.holder = None;
            if cell.owner == Owner::Free {
                self.serve(state, slot);
            }
        }
    }

    /// Whether the first unfinished work of a stream may run.
    fn next_work(state: &State, stream: u8) -> Option<usize> {
        let next = state.work.iter().position(|work| work.stream == stream)?;
        state.work[next].after.is_empty().then_some(next)
    }

    fn device(state: &mut State, stream: u8, next: usize) {
        let work = state.work.remove(next);
        let earlier = &state.work[..next];
        if earlier.iter().any(|e| e.block == work.block && (e.writes || work.writes)) {
            state.broken = Some("INV-5/INV-6: work ran before earlier work on the same bytes");
        }
        if state.phase == Phase::Closed {
            state.broken = Some("INV-11: memory was freed under running work");
        }
        // The first ticket of the stream is done; all others move up by one.
        for later in &mut state.work {
            later.after.retain(|after| *after != (stream, 1));
            later.after.iter_mut().filter(|(s, _)| *s == stream).for_each(|(_, number)| *number -= 1);
        }
        for block in &mut state.blocks {
            let tickets = &mut block.tickets[usize::from(stream)];
            *tickets = tickets.saturating_sub(1);
            let mut hazards = Hazards::new();
            for (access, old) in block.hazards.recorded() {
                let number = old.number - u64::from(old.stream.0 == u32::from(stream));
                if number > 0 {
                    hazards.record(access, ticket(old.stream.0 as u8, number as u8));
                }
            }
            block.hazards = hazards;
        }
    }

    fn close(&self, state: &mut State) {
        state.phase = Phase::Closing;
        if !self.has(Fault::CloseForgetsWaiters) {
            for waiter in std::mem::take(&mut state.queue) {
                state.threads[usize::from(waiter)].at = At::Refused;
            }
        }
        for slot in &mut state.slots {
            slot.owner = Owner::Closed;
            if slot.turn == Turn::Reserved {
                slot.turn = Turn::Idle;
            }
        }
    }

    fn is_drained(&self, state: &State) -> bool {
        state.phase == Phase::Closing
            && state.slots.iter().all(|slot| slot.turn == Turn::Idle)
            && (state.work.is_empty() || self.has(Fault::CloseForgetsWork))
    }
}

impl Model for System {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let slot = Slot { owner: Owner::Free, turn: Turn::Idle, holder: None };
        let thread = Thread { at: At::Outside, binding: None };
        let tickets = vec![0; self.slots.into()];
        let block = Block { place: Place::Unreserved, hazards: Hazards::new(), tickets };
        vec![State {
            slots: vec![slot; self.slots.into()],
            threads: vec![thread; self.threads.into()],
            queue: Vec::new(),
            blocks: vec![block; self.blocks.into()],
            mailbox: None,
            work: Vec::new(),
            phase: Phase::Open,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.broken.is_some() {
            return; // Nothing follows from a broken state.
        }
        for (t, thread) in (0..).zip(&state.threads) {
            match thread.at {
                At::Outside => {
                    steps.push(Step::Enter(t));
                    if self.exits {
                        steps.push(Step::Exit(t));
                    }
                }
                At::Waiting if self.has(Fault::Barging) && self.takeable(state).is_some() => {
                    steps.push(Step::Retry(t));
                }
                At::Granted(_) => steps.push(Step::Begin(t)),
                At::Running(slot) => {
                    if self.allocation(state, slot) != Err(true) {
                        steps.push(Step::Allocate(t));
                    }
                    if state.mailbox.is_some() {
                        steps.push(Step::Take(t));
                    }
                }
                At::Holding { slot, .. } => {
                    let in_flight = state.work.iter().filter(|work| work.stream == slot).count();
                    if in_flight < usize::from(self.credits) {
                        steps.push(Step::Submit(t));
                    }
                }
                At::Ending { block, .. } => {
                    steps.push(Step::Drop(t));
                    if block.is_some() && state.mailbox.is_none() && state.phase == Phase::Open {
                        steps.push(Step::Give(t));
                    }
                }
                At::Waiting | At::Refused | At::Gone => {}
            }
        }
        let streams = (0..self.slots).filter(|stream| Self::next_work(state, *stream).is_some());
        steps.extend(streams.map(Step::Device));
        if self.closes && state.phase == Phase::Open {
            steps.push(Step::Close);
        }
        if self.is_drained(state) {
            steps.push(Step::Drain);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        let state = &mut next;
        match step {
            Step::Enter(t) => self.enter(state, t),
            Step::Begin(t) => {
                let At::Granted(slot) = state.threads[usize::from(t)].at else { return None };
                if state.slots[usize::from(slot)].owner == Owner::Closed {
                    state.threads[usize::from(t)].at = At::Refused;
                } else {
                    self.begin(state, t, slot);
                }
            }
            Step::Retry(t) => {
                let slot = self.takeable(state)?;
                state.queue.retain(|waiter| *waiter != t);
                self.assign(state, slot, t);
                self.begin(state, t, slot);
            }
            Step::Allocate(t) => {
                let At::Running(slot) = state.threads[usize::from(t)].at else { return None };
                state.threads[usize::from(t)].at = match self.allocation(state, slot) {
                    Ok(block) => {
                        let place = &mut state.blocks[usize::from(block)];
                        place.place = Place::Live(slot);
                        // The last owner's hazards are no concern of this one's: that is what the rules of reuse are for.
                        place.hazards = Hazards::new();
                        At::Holding { slot, block, made: true }
                    }
                    Err(true) => return None,
                    Err(false) => At::Ending { slot, block: None },
                };
            }
            Step::Take(t) => {
                let At::Running(slot) = state.threads[usize::from(t)].at else { return None };
                let block = state.mailbox.take()?;
                state.threads[usize::from(t)].at = At::Holding { slot, block, made: false };
            }
            Step::Submit(t) => {
                let At::Holding { slot, block, made } = state.threads[usize::from(t)].at else { return None };
                self.submit(state, t, slot, block, made);
            }
            Step::Drop(t) | Step::Give(t) => {
                let At::Ending { slot, block } = state.threads[usize::from(t)].at else { return None };
                match (step, block) {
                    (Step::Give(_), block) => state.mailbox = block,
                    (_, Some(block)) => {
                        let place = &mut state.blocks[usize::from(block)];
                        let Place::Live(home) = place.place else { return None };
                        place.place = Place::Freed(home);
                    }
                    (_, None) => {}
                }
                self.leave(state, t, slot);
            }
            Step::Exit(t) => self.exit(state, t),
            Step::Device(stream) => {
                let work = Self::next_work(state, stream)?;
                Self::device(state, stream, work);
            }
            Step::Close => self.close(state),
            Step::Drain => {
                state.phase = Phase::Closed;
                for block in &mut state.blocks {
                    if let Place::Freed(_) = block.place {
                        block.place = Place::Unreserved;
                    }
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no invariant is broken (INV-1, 3, 5, 6, 11, 12)", |_, state: &State| {
                state.broken.is_none()
            }),
            Property::always(
                "owners, turns, bindings and the queue agree (INV-1, 2)",
                |system: &Self, state: &State| state.broken.is_some() || agree(system, state),
            ),
            Property::always("every live block has one holder (INV-7)", |_, state: &State| {
                state.broken.is_some() || conserved(state)
            }),
            Property::always("after shutdown nothing runs (INV-11)", |_, state: &State| {
                state.broken.is_some() || state.phase != Phase::Closed || is_at_rest(state)
            }),
        ];
        if self.threads > self.slots {
            properties
                .push(Property::sometimes("a thread waits", |_, state: &State| !state.queue.is_empty()));
        }
        if self.slots > 1 {
            properties.push(Property::sometimes("work waits for another stream's", |_, state: &State| {
                state.work.iter().any(|work| !work.after.is_empty())
            }));
            properties.push(Property::sometimes("a freed block is withheld", |_, state: &State| {
                state.blocks.iter().any(|block| match block.place {
                    Place::Freed(home) => {
                        (0..).zip(&block.tickets).any(|(s, n): (u8, _)| s != home && *n > 0)
                    }
                    _ => false,
                })
            }));
        }
        properties
    }
}

fn agree(system: &System, state: &State) -> bool {
    let runs = |thread: &Thread| match thread.at {
        At::Running(slot) | At::Holding { slot, .. } | At::Ending { slot, .. } => Some(slot),
        _ => None,
    };
    let one_runs = (0..).zip(&state.slots).all(|(s, slot)| {
        let running = state.threads.iter().filter(|thread| runs(thread) == Some(s)).count();
        running == usize::from(slot.turn == Turn::Owner)
    });
    let waiting = (0..).zip(&state.threads).filter(|(_, thread)| thread.at == At::Waiting);
    let queued =
        waiting.clone().all(|(t, _)| state.queue.contains(&t)) && waiting.count() == state.queue.len();
    // INV-12: while somebody waits, nobody could have what he waits for. (Not so if newcomers may overtake.)
    let served = state.queue.is_empty()
        || system.has(Fault::Barging)
        || state.phase != Phase::Open
        || state.slots.iter().all(|slot| !rule::is_takeable(slot.owner, slot.turn));
    let valid = (0..).zip(&state.threads).all(|(t, thread)| match thread.binding {
        Some((slot, false)) => state.slots[usize::from(slot)].holder == Some(t),
        _ => true,
    });
    one_runs && queued && served && valid
}

fn conserved(state: &State) -> bool {
    (0..).zip(&state.blocks).all(|(b, block)| {
        let held = state.threads.iter().filter(|thread| match thread.at {
            At::Holding { block, .. } => block == b,
            At::Ending { block, .. } => block == Some(b),
            _ => false,
        });
        let holders = held.count() + usize::from(state.mailbox == Some(b));
        holders == usize::from(matches!(block.place, Place::Live(_)))
    })
}

fn is_at_rest(state: &State) -> bool {
    state.work.is_empty()
        && state.queue.is_empty()
        && state.slots.iter().all(|slot| slot.turn == Turn::Idle)
        && state.blocks.iter().all(|block| !matches!(block.place, Place::Freed(_)))
}

/// The `number`-th ticket of a stream.
fn ticket(stream: u8, number: u8) -> Ticket {
    let mut submissions = Submissions::new(StreamId(stream.into()));
    let tickets = (0..number).map(|_| submissions.submit(|_| Ok(())).expect("nothing refuses"));
    tickets.last().expect("tickets count from 1")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
