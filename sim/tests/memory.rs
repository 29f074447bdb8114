//! Core's memory on the simulated device: random programs on several streams give what a sequential host computes, whatever
//! the schedule, and no block is reused early. What core must do by hand here (wait for writers, record tickets) the facade does.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use streampool_conformance::{Random, map_program, value};
use streampool_core::driver::{Bindings, Driver, Executable, Queue, Slice};
use streampool_core::memory::{Block, MemoryConfig, MemoryPool, StreamCache};
use streampool_core::op::{Binary, Map};
use streampool_core::timeline::{StreamId, Submissions, Ticket};
use streampool_sim::{Faults, Mode, SimDriver};
use support::device;

const STREAMS: usize = 4;
/// Floats of a value: a large block, so that blocks move between streams.
const LEN: usize = 40_000;

/// A value on the device and what it must be.
struct Value {
    block: Block,
    written: Ticket,
    host: Vec<f32>,
}

struct Stream {
    queue: Box<dyn Queue>,
    cache: StreamCache,
    submissions: Submissions,
}

struct Program {
    sim: SimDriver,
    driver: Arc<dyn Driver>,
    pool: Arc<MemoryPool>,
    streams: Vec<Stream>,
    add: Arc<dyn Executable>,
    values: Vec<Value>,
    /// A fault of core's user, planted: uses on other streams are not recorded.
    forgets: bool,
}

impl Program {
    fn new(mode: Mode, seed: u64, limit: usize) -> Self {
        let (sim, driver) = device(|c| (c.mode, c.seed, c.check_unwritten) = (mode, seed, true));
        let config = MemoryConfig { limit: Some(limit), ..MemoryConfig::default() };
        let pool = MemoryPool::new(driver.clone(), config);
        let streams = (0..STREAMS as u32).map(StreamId).map(|id| Stream {
            queue: driver.open_queue(id).unwrap(),
            cache: pool.stream_cache(id).unwrap(),
            submissions: Submissions::new(id),
        });
        let streams = streams.collect();
        let add = driver.compile(&map_program(Map::binary(Binary::Sub).code, 2, LEN)).unwrap();
        Self { sim, driver, pool, streams, add, values: Vec::new(), forgets: false }
    }

    /// A value from the host, if there is room.
    fn write(&mut self, stream: usize, host: Vec<f32>) {
        let Stream { queue, cache, submissions } = &mut self.streams[stream];
        match cache.alloc(LEN * 4) {
            Ok(block) => {
                let bytes = value(&host);
                let written =
                    submissions.submit(|number| queue.write(block.slice(), &bytes, number)).unwrap();
                block.record(written);
                self.values.push(Value { block, written, host });
            }
            Err(error) => assert!(error.is_out_of_memory(), "{error}"),
        }
    }

    /// The difference of two values on a stream, if there is room.
    fn launch(&mut self, stream: usize, x: usize, y: usize) {
        let Stream { queue, cache, submissions } = &mut self.streams[stream];
        let (x, y) = (&self.values[x], &self.values[y]);
        let block = match cache.alloc(LEN * 4) {
            Ok(block) => block,
            Err(error) => return assert!(error.is_out_of_memory(), "{error}"),
        };
        for value in [x, y] {
            if value.written.stream != submissions.stream() {
                queue.wait_for(value.written).unwrap();
            }
        }
        let bindings = Bindings {
            inputs: &[x.block.slice(), y.block.slice()],
            outputs: &[block.slice()],
            arena: Slice::EMPTY,
        };
        let ticket = submissions.submit(|number| queue.launch(&self.add, &bindings, number)).unwrap();
        for used in [&x.block, &y.block, &block] {
            if !self.forgets || used.home() == ticket.stream {
                used.record(ticket);
            }
        }
        let host = x.host.iter().zip(&y.host).map(|(x, y)| x - y).collect();
        self.values.push(Value { block, written: ticket, host });
    }

    /// Whether a value is what it must be, read on a stream.
    fn is_right(&mut self, stream: usize, which: usize) -> bool {
        let Stream { queue, .. } = &mut self.streams[stream];
        let read = &self.values[which];
        if read.written.stream.0 as usize != stream {
            queue.wait_for(read.written).unwrap();
        }
        let mut bytes = vec![0; LEN * 4];
        let ended = queue.read(read.block.slice(), &mut bytes, Instant::now() + Duration::from_secs(60));
        ended.is_ok() && bytes == value(&read.host)
    }

    /// Steps of all kinds; whether every value that was read was right.
    fn run(&mut self, random: &mut Random, steps: usize) -> bool {
        let mut right = true;
        for _ in 0..steps {
            let mut below = |n: usize| (random.next() % n as u64) as usize;
            let (kind, stream) = (below(10), below(STREAMS));
            match (kind, self.values.len()) {
                (0, _) | (_, 0) => {
                    let host = Random(below(1000) as u64).floats(LEN);
                    self.write(stream, host);
                }
                (1..=5, n) => self.launch(stream, below(n), below(n)),
                (6..=8, n) => drop(self.values.swap_remove(below(n))),
                (_, n) => right &= self.is_right(stream, below(n)),
            }
            self.pool.check();
        }
        right
    }

    /// Drops everything and expects all memory back.
    fn end(mut self) {
        self.values.clear();
        self.pool.drain(Instant::now() + Duration::from_secs(60)).unwrap();
        self.pool.check();
        assert_eq!((self.pool.stats().reserved, self.sim.used_bytes()), (0, 0));
        assert_eq!(self.driver.frozen_bytes(), 0);
    }
}

#[test]
fn random_programs_compute_what_the_host_computes() {
    for seed in 0..24 {
        let mode = [Mode::Eager, Mode::Random, Mode::Lazy][seed as usize % 3];
        // Room for 8 to 15 values: out of memory, waits and moves happen all the time.
        let mut program = Program::new(mode, seed, (8 + seed as usize % 8) * 176 * 1024);
        assert!(program.run(&mut Random(seed), 150), "{mode:?}, seed {seed}: a value was wrong");
        assert_eq!(program.sim.violations(), Vec::<String>::new(), "{mode:?}, seed {seed}");
        program.end();
    }
}

#[test]
fn a_forgotten_ticket_is_seen() {
    let mut seen = 0;
    for seed in 0..5 {
        let mut program = Program::new(Mode::Lazy, seed, 8 * 176 * 1024);
        program.forgets = true;
        program.run(&mut Random(seed), 150);
        seen += usize::from(!program.sim.violations().is_empty());
        program.forgets = false;
        program.end();
    }
    assert!(seen >= 4, "a block was reused under another stream's work and only {seen} of 5 programs saw it");
}

#[test]
fn a_block_is_withheld_while_the_other_stream_is_held_back() {
    let mut program = Program::new(Mode::Random, 1, 32 << 20);
    program.write(0, vec![1.0; LEN]);
    // Stream 1 works on stream 0's block, which is dropped meanwhile.
    program.sim.hold(StreamId(1));
    program.launch(1, 0, 0);
    let address = program.values[0].block.address();
    drop(program.values.swap_remove(0));
    for _ in 0..5 {
        program.write(0, vec![2.0; LEN]);
        assert_ne!(program.values.last().unwrap().block.address(), address, "reused under running work");
    }
    assert_eq!(program.pool.stats().retired, 176 * 1024 - 16 * 1024);
    program.sim.release(StreamId(1));
    assert!(program.is_right(1, 0), "stream 1 saw the value that it was given");
    program.write(0, vec![3.0; LEN]);
    assert_eq!(program.values.last().unwrap().block.address(), address, "reused once the work is done");
    assert_eq!(program.sim.violations(), Vec::<String>::new());
    program.end();
}

#[test]
fn injected_refusals_of_the_device_are_values_and_cost_nothing() {
    for seed in 0..6 {
        let mut program = Program::new(Mode::Random, seed, 32 << 20);
        let faults = (1..60).filter(|n| n % 3 != 0).fold(Faults::default(), Faults::fail_allocation);
        program.sim.inject(faults);
        assert!(program.run(&mut Random(100 + seed), 150));
        assert!(program.pool.stats().out_of_memory > 0);
        assert_eq!(program.sim.violations(), Vec::<String>::new());
        program.end();
    }
}

#[test]
fn threads_on_a_small_device_all_get_on() {
    let (sim, driver) = device(|c| c.check_unwritten = true);
    let config = MemoryConfig { limit: Some(6 * 176 * 1024), ..MemoryConfig::default() };
    let pool = MemoryPool::new(driver.clone(), config);
    let add = driver.compile(&map_program(Map::binary(Binary::Sub).code, 2, LEN)).unwrap();
    let done: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..STREAMS as u32)
            .map(|id| {
                let (driver, pool, add) = (&driver, &pool, &add);
                scope.spawn(move || {
                    let stream = StreamId(id);
                    let mut queue = driver.open_queue(stream).unwrap();
                    let mut cache = pool.stream_cache(stream).unwrap();
                    let mut submissions = Submissions::new(stream);
                    let host = Random(u64::from(id)).floats(LEN);
                    let mut done = 0;
                    for _ in 0..50 {
                        let (Ok(x), Ok(y)) = (cache.alloc(LEN * 4), cache.alloc(LEN * 4)) else { continue };
                        let ticket =
                            submissions.submit(|n| queue.write(x.slice(), &value(&host), n)).unwrap();
                        x.record(ticket);
                        let bindings = Bindings {
                            inputs: &[x.slice(), x.slice()],
                            outputs: &[y.slice()],
                            arena: Slice::EMPTY,
                        };
                        let ticket = submissions.submit(|n| queue.launch(add, &bindings, n)).unwrap();
                        x.record(ticket);
                        y.record(ticket);
                        drop(x);
                        let mut bytes = vec![1; LEN * 4];
                        queue.read(y.slice(), &mut bytes, Instant::now() + Duration::from_secs(60)).unwrap();
                        assert_eq!(bytes, vec![0; LEN * 4]);
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert!(done > 50, "{done} of 200 rounds found room");
    assert_eq!(sim.violations(), Vec::<String>::new());
    pool.drain(Instant::now() + Duration::from_secs(60)).unwrap();
    assert_eq!((pool.stats().reserved, sim.used_bytes()), (0, 0));
}
