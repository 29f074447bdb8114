//! The memory against a tiny fake device that knows what may be reused when: [`behaviour`] case by case, [`ladder`] what the reclaim
//! ladder chooses and says, [`random`] in programs of many steps and threads.

mod behaviour;
mod ladder;
mod random;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::*;
use crate::driver::Segment;
use crate::timeline::Ticket;

const STREAMS: usize = 4;
const MIB: usize = 1 << 20;

/// A device of addresses without memory, whose work ends when the test says so, or when somebody waits.
struct Fake {
    memory: usize,
    used: AtomicUsize,
    most_used: AtomicUsize,
    next: AtomicU64,
    calls: AtomicU64,
    /// Calls of `allocate` that fail, counted from 1.
    refuse: Mutex<Vec<u64>>,
    submitted: [AtomicU64; STREAMS],
    completed: [AtomicU64; STREAMS],
    stalled: AtomicBool,
    /// Waits say that the device is lost.
    lost: AtomicBool,
    /// Work ends when it is waited for, but has failed.
    failing: AtomicBool,
    abandoned: AtomicBool,
    /// Asked for memory, it fails for another reason.
    broken: AtomicBool,
    /// The test is about memory that nobody frees.
    leaks: AtomicBool,
    /// Who touches which addresses: from, to, under which ticket.
    uses: Mutex<Vec<(u64, u64, Ticket)>>,
    waits: AtomicU64,
    /// How often it was asked what is done.
    looks: AtomicU64,
    /// What another thread does while the device is called next, for memory or to free some.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

#[derive(Clone)]
struct Device(std::sync::Arc<Fake>);

struct Owner {
    device: Device,
    from: u64,
    bytes: usize,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.device.let_others_act();
        self.device.used.fetch_sub(self.bytes, Ordering::SeqCst);
        if !std::thread::panicking() {
            self.device.expect_unused(self.from, self.bytes, None);
        }
    }
}

impl std::ops::Deref for Device {
    type Target = Fake;
    fn deref(&self) -> &Fake {
        &self.0
    }
}

impl Device {
    fn new(memory: usize) -> Self {
        Self(std::sync::Arc::new(Fake {
            memory,
            used: AtomicUsize::new(0),
            most_used: AtomicUsize::new(0),
            next: AtomicU64::new(1 << 20),
            calls: AtomicU64::new(0),
            refuse: Mutex::default(),
            submitted: Default::default(),
            completed: Default::default(),
            stalled: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            leaks: AtomicBool::new(false),
            uses: Mutex::default(),
            waits: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            meanwhile: Mutex::default(),
        }))
    }

    /// See [`Fake::meanwhile`].
    fn during_the_next_call(&self, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(act));
    }

    fn let_others_act(&self) {
        let act = self.meanwhile.lock().unwrap().take();
        if let Some(act) = act {
            act();
        }
    }

    /// Submits work of a stream that touches a block.
    fn launch(&self, stream: u32, blocks: &[&Block]) -> Ticket {
        let number = self.submitted[stream as usize].fetch_add(1, Ordering::SeqCst) + 1;
        let ticket = Ticket { stream: StreamId(stream), number };
        for block in blocks {
            block.record(ticket);
            let from = block.address();
            self.uses.lock().unwrap().push((from, from + block.bytes() as u64, ticket));
        }
        ticket
    }

    fn complete(&self, ticket: Ticket) {
        self.completed[ticket.stream.0 as usize].fetch_max(ticket.number, Ordering::SeqCst);
    }

    fn complete_all(&self) {
        for (submitted, completed) in self.submitted.iter().zip(&self.completed) {
            completed.store(submitted.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }

    /// INV-6: no work in flight touches these bytes, but for work of the stream that gets them.
    fn expect_unused(&self, from: u64, bytes: usize, to: Option<StreamId>) {
        let uses = self.uses.lock().unwrap();
        for (start, end, ticket) in uses.iter().filter(|u| u.0 < from + bytes as u64 && from < u.1) {
            let done = self.completed[ticket.stream.0 as usize].load(Ordering::SeqCst) >= ticket.number;
            assert!(
                done || to == Some(ticket.stream),
                "INV-6: {ticket:?} still touches {start:#x}..{end:#x}"
            );
        }
    }
}

impl Source for Device {
    fn memory_bytes(&self) -> usize {
        self.memory
    }

    fn allocate(&self, bytes: usize) -> Result<Segment> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.let_others_act();
        if self.broken.load(Ordering::SeqCst) {
            return Err(Error::internal("the fake device is broken"));
        }
        let used = self.used.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if used > self.memory || self.refuse.lock().unwrap().contains(&call) {
            self.used.fetch_sub(bytes, Ordering::SeqCst);
            return Err(Error::out_of_memory("the fake device is full"));
        }
        self.most_used.fetch_max(used, Ordering::SeqCst);
        let from = self.next.fetch_add((bytes as u64).next_multiple_of(64), Ordering::SeqCst);
        let owner = Box::new(Owner { device: self.clone(), from, bytes });
        if self.leaks.load(Ordering::SeqCst) {
            left_on_purpose(&*owner);
        }
        Ok(Segment::new(from, bytes, owner))
    }

    fn completed(&self, stream: StreamId) -> u64 {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.completed[stream.0 as usize].load(Ordering::SeqCst)
    }

    fn wait(&self, ticket: Ticket, _deadline: Instant) -> Result<()> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        if self.stalled.load(Ordering::SeqCst) {
            return Err(Error::timeout("the fake device is stalled"));
        }
        if self.lost.load(Ordering::SeqCst) {
            return Err(Error::device_lost("the fake device is lost"));
        }
        self.complete(ticket);
        if self.failing.load(Ordering::SeqCst) {
            return Err(Error::internal("this very work failed"));
        }
        Ok(())
    }

    fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }
}

/// Keeps the address of what a test leaves, where leak detectors look. Nothing is kept alive.
fn left_on_purpose<T>(what: &T) {
    static LEFT: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    LEFT.lock().unwrap().push(std::ptr::from_ref(what).addr());
}

fn pool(memory: usize, limit: usize) -> (Device, Arc<MemoryPool>) {
    let device = Device::new(memory);
    let config = MemoryConfig { limit: Some(limit), ..MemoryConfig::default() };
    let pool = MemoryPool::new(device.clone(), config);
    (device, pool)
}

fn cache(pool: &Arc<MemoryPool>, stream: u32) -> StreamCache {
    pool.stream_cache(StreamId(stream)).unwrap()
}
