//! States and steps.
//!
//! Numbers are relative: the k-th unfinished submission of a stream has ticket k, and what is done has no ticket any more. A binding
//! knows whether it is stale instead of a generation. So a run that repeats itself comes back to the same state.

mod model;
mod steps;

use std::fmt;

use streampool_core::hazard::Hazards;
use streampool_core::slot::rule::{Owner, Turn};

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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
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
}
