//! A-B-A under loom: a slot or a block that went to somebody else and came back is not what it was. A handle of an older generation never
//! acts on the new owner (INV-3), and who looks twice sees every change between.
#![cfg(loom)]

mod model;

use std::sync::atomic::{AtomicU64 as Count, Ordering as StdOrdering};
use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::thread;
use model::explore;
use streampool_core::Result;
use streampool_core::driver::Segment;
use streampool_core::memory::{MemoryConfig, MemoryPool, Source};
use streampool_core::slot::{Policy, PoolOptions, SlotPool};
use streampool_core::timeline::{StreamId, Ticket};

fn pool(size: usize, policy: Policy) -> Arc<SlotPool<()>> {
    let options = PoolOptions::default().with_size(size).with_policy(policy);
    Arc::new(SlotPool::new(options, |_| Ok(())).unwrap())
}

const WAIT: Policy = Policy::Wait { deadline: Duration::MAX };

#[test]
fn a_slot_that_went_away_and_came_back_has_another_generation() {
    explore("aba detection: a slot away and back, 2 threads, 1 slot, 2 looks", 5, || {
        let pool = pool(1, WAIT);
        let before = pool.enter().unwrap().generation();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.enter().unwrap().generation())
        };
        let between = pool.current();
        let after = pool.enter().unwrap().generation();
        let theirs = other.join().unwrap();
        assert_ne!(theirs, before, "another owner, another generation");
        assert_ne!(theirs, after);
        // The slot is the same in both looks; only the generation tells whether somebody had it meanwhile.
        assert_eq!(before == after, theirs > after, "a change between two looks is seen");
        if let Some((stream, generation)) = between {
            assert_eq!(stream, StreamId(0));
            assert!(generation == before || generation == after, "a binding is never somebody else's");
        }
    });
}

#[test]
fn the_release_of_an_old_owner_frees_nothing_of_the_new_ones() {
    explore("aba detection: old owners let go while a lease holds the slot, 3 threads, 1 slot", 3, || {
        let pool = pool(1, WAIT);
        // Each of these threads binds the slot, loses it and releases its binding at its end: at any moment.
        let owners: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || drop(pool.enter().unwrap()))
            })
            .collect();
        let mut lease = pool.lease().unwrap();
        let generation = lease.generation();
        assert_eq!(lease.enter().unwrap().generation(), generation);
        assert!(pool.lease_deadline(Duration::ZERO).is_err(), "INV-1: the slot was freed under its owner");
        assert_eq!(lease.enter().unwrap().generation(), generation);
        drop(lease);
        owners.into_iter().for_each(|owner| owner.join().unwrap());
        let stats = pool.stats().unwrap();
        assert_eq!(stats.bound_idle + stats.free, 1, "INV-2: {stats:?}");
    });
}

#[test]
fn generations_count_every_owner() {
    explore("aba detection: every change of owner counts, 3 threads, 2 slots", 3, || {
        let pool = pool(2, WAIT);
        let leases: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || {
                    let lease = pool.lease().unwrap();
                    (lease.stream(), lease.generation())
                })
            })
            .collect();
        let mine = pool.lease().map(|lease| (lease.stream(), lease.generation())).unwrap();
        let mut owners: Vec<_> = leases.into_iter().map(|lease| lease.join().unwrap()).collect();
        owners.push(mine);
        // Slot 0 had an owner before: the opener's binding.
        owners.push((StreamId(0), 1));
        for (slot, last) in pool.stats().unwrap().generations.iter().enumerate() {
            let mut seen: Vec<u64> =
                owners.iter().filter(|(s, _)| s.index() == slot).map(|(_, generation)| *generation).collect();
            seen.sort_unstable();
            assert_eq!(seen, (1..=*last).collect::<Vec<_>>(), "each owner has a generation of its own");
        }
    });
}

/// A device without work.
struct Idle(Count);

impl Source for Idle {
    fn memory_bytes(&self) -> usize {
        1 << 30
    }
    fn allocate(&self, bytes: usize) -> Result<Segment> {
        Ok(Segment::new(self.0.fetch_add(bytes as u64, StdOrdering::Relaxed), bytes, Box::new(())))
    }
    fn completed(&self, _stream: StreamId) -> u64 {
        0
    }
    fn wait(&self, _ticket: Ticket, _deadline: Instant) -> Result<()> {
        Ok(())
    }
}

#[test]
fn memory_that_went_away_and_came_back_is_another_block() {
    explore("aba detection: a block's memory away and back, 2 threads, 3 blocks", 5, || {
        let memory = MemoryPool::new(Idle(Count::new(1 << 20)), MemoryConfig::default());
        let mut cache = memory.stream_cache(StreamId(0)).unwrap();
        let first = cache.alloc(64).unwrap();
        let (id, address) = (first.id(), first.address());
        let free = thread::spawn(move || drop(first));
        let second = cache.alloc(64).unwrap();
        let third = cache.alloc(64).unwrap();
        assert!(
            second.id() != id && third.id() != id && second.id() != third.id(),
            "an id is never used twice"
        );
        assert_ne!(second.address(), third.address(), "one block to two owners");
        // The same address with another id: whoever remembers the id knows.
        if second.address() == address {
            assert_ne!(third.address(), address);
        }
        free.join().unwrap();
        drop((second, third));
        memory.check();
        assert_eq!(memory.stats().live, 0);
    });
}
