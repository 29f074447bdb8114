//! Pool, memory and timeline composed, under shuttle: ten threads on three streams with room for five blocks, a device thread for each stream,
//! blocks handed from thread to thread, dropped anywhere, and sometimes a shutdown in the midst.
//!
//! The device checks for itself that no two pieces of work on the same bytes overlap (INV-5, INV-6).
#![cfg(all(shuttle, not(loom)))]

mod schedules;
mod system;

use std::collections::BTreeMap;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use streampool_core::hazard::{Access, Hazards};
use streampool_core::memory::{Block, MemoryConfig, MemoryPool};
use streampool_core::slot::{Policy, PoolOptions, SlotPool};
use streampool_core::sync::{Arc, Deadline, Mutex};
use streampool_core::timeline::{StreamId, Submissions};
use system::{BYTES, Bytes, Device, Handle, Stream};

const THREADS: usize = 10;
const STREAMS: usize = 3;
const BLOCKS: usize = 5;
const SCHEDULES: usize = 2_000;

/// Who touches an address just now: -1 a writer, n readers.
#[derive(Default)]
struct Users(std::sync::Mutex<BTreeMap<u64, i32>>);

impl Bytes for Users {
    fn reserve(&self) {
        thread::yield_now();
    }

    fn touch(&self, address: u64, access: Access) {
        let change = |begin: bool| {
            let mut touched = self.0.lock().unwrap();
            let users = touched.entry(address).or_default();
            match (access, begin) {
                (Access::Write, true) => {
                    assert_eq!(*users, 0, "INV-5/INV-6: written while in use");
                    *users = -1;
                }
                (Access::Read, true) => {
                    assert!(*users >= 0, "INV-5/INV-6: read while written");
                    *users += 1;
                }
                (Access::Write, false) => *users = 0,
                (Access::Read, false) => *users -= 1,
            }
        };
        change(true);
        thread::yield_now();
        change(false);
    }
}

fn random_program(close: bool) {
    let device = Device::new(STREAMS, BLOCKS, Users::default());
    let memory = MemoryPool::new(
        Handle(device.clone()),
        MemoryConfig { limit: Some(BLOCKS * BYTES), ..MemoryConfig::default() },
    );
    let options =
        PoolOptions::default().with_size(STREAMS).with_policy(Policy::Wait { deadline: Duration::MAX });
    let factory = {
        let (device, memory) = (device.clone(), memory.clone());
        move |stream| {
            let cache = memory.stream_cache(stream)?;
            Ok(Stream { device: device.clone(), cache, submissions: Submissions::new(stream) })
        }
    };
    let pool = Arc::new(SlotPool::new(options, factory).unwrap());
    let workers: Vec<_> = (0..STREAMS as u32)
        .map(|stream| {
            let (device, progress) = (device.clone(), device.board.progress(StreamId(stream)).unwrap());
            thread::spawn(move || device.work(progress))
        })
        .collect();
    let mailbox: Arc<Mutex<Vec<(Block, Hazards)>>> = Arc::new(Mutex::new(Vec::new()));
    let users: Vec<_> = (0..THREADS)
        .map(|_| {
            let (pool, mailbox) = (pool.clone(), mailbox.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    let mut run = match pool.enter() {
                        Ok(run) => run,
                        Err(error) => {
                            assert!(close && error.is_shut_down());
                            return;
                        }
                    };
                    let given = mailbox.lock().pop();
                    if let Some((block, mut hazards)) = given {
                        let access = if thread_rng().gen_bool(0.5) { Access::Read } else { Access::Write };
                        run.submit(&block, &mut hazards, access);
                        continue; // Dropped before the section ends or after: `block` goes first.
                    }
                    match run.cache.alloc(BYTES) {
                        Ok(block) => {
                            let mut hazards = Hazards::new();
                            run.submit(&block, &mut hazards, Access::Write);
                            drop(run);
                            if thread_rng().gen_bool(0.5) {
                                mailbox.lock().push((block, hazards));
                            }
                        }
                        Err(error) => assert!(error.is_out_of_memory(), "INV-8: {error}"),
                    }
                }
            })
        })
        .collect();
    let drained = close.then(|| pool.close(Duration::MAX).unwrap());
    users.into_iter().for_each(|user| user.join().unwrap());
    mailbox.lock().clear();
    let stats = pool.stats().unwrap();
    assert_eq!((stats.running, stats.leased, stats.waiting), (0, 0, 0), "INV-2: {stats:?}");
    let rest = pool.close(Duration::MAX).unwrap();
    memory.check();
    for (_, stream) in drained.into_iter().flat_map(|d| d.payloads).chain(rest.payloads) {
        if let Some(ticket) = stream.submissions.last() {
            device.board.wait(ticket, Deadline::NEVER).unwrap();
        }
    }
    for queue in &device.queues {
        queue.jobs.lock().1 = true;
        queue.more.notify_all();
    }
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    memory.empty_cache();
    assert_eq!((memory.stats().live, memory.stats().reserved), (0, 0), "INV-7");
    assert_eq!(device.used(), 0);
}

#[test]
fn ten_threads_on_three_streams_overlap_nowhere_and_lose_nothing() {
    schedules::sample("full system, 10 threads on 3 streams", SCHEDULES, || random_program(false));
}

#[test]
fn shutting_the_whole_down_ends_and_leaves_nothing() {
    schedules::sample("full system shut down beside 10 threads", SCHEDULES, || random_program(true));
}
