//! Random programs, and threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use proptest::prelude::*;

use super::*;

#[test]
fn threads_that_allocate_hand_over_and_free_keep_the_books() {
    let (device, pool) = pool(3 * MIB, 3 * MIB);
    let (send, receive) = std::sync::mpsc::channel::<Block>();
    let receive = std::sync::Mutex::new(receive);
    let live: Mutex<std::collections::BTreeMap<u64, u64>> = Mutex::default();
    let served = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for stream in 0..STREAMS as u32 {
            let (device, pool, send, receive) = (&device, &pool, send.clone(), &receive);
            let (live, served) = (&live, &served);
            scope.spawn(move || {
                let mut cache = cache(pool, stream);
                let mut random = u64::from(stream) + 1;
                for i in 0..2000 {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let bytes = [200, 3000, 70_000, 300_000, MIB][(random >> 33) as usize % 5];
                    match cache.alloc(bytes) {
                        Ok(block) => {
                            let (from, end) = (block.address(), block.address() + block.capacity() as u64);
                            device.expect_unused(from, block.capacity(), Some(StreamId(stream)));
                            let mut live = live.lock().unwrap();
                            assert!(live.range(..end).next_back().is_none_or(|(_, &e)| e <= from), "overlap");
                            live.insert(from, end);
                            drop(live);
                            device.launch(stream, &[&block]);
                            served.fetch_add(1, Ordering::Relaxed);
                            send.send(block).unwrap();
                        }
                        Err(error) => assert!(error.is_out_of_memory(), "{error}"),
                    }
                    if random >> 62 != 0
                        && let Ok(block) = receive.lock().unwrap().try_recv()
                    {
                        device.launch(stream, &[&block]);
                        live.lock().unwrap().remove(&block.address());
                        drop(block);
                    }
                    if i % 100 == 0 {
                        pool.check();
                        assert!(pool.stats().reserved <= pool.limit());
                        // Done work is forgotten, or the list of uses would grow for ever.
                        let mut uses = device.uses.lock().unwrap();
                        uses.retain(|u| {
                            device.completed[u.2.stream.0 as usize].load(Ordering::SeqCst) < u.2.number
                        });
                    }
                }
            });
        }
    });
    drop(receive);
    assert!(served.into_inner() > 1000);
    assert!(device.most_used.load(Ordering::SeqCst) <= 3 * MIB);
    pool.drain(Instant::now()).unwrap();
    pool.check();
    assert_eq!((pool.stats().reserved, device.used.load(Ordering::SeqCst)), (0, 0));
}

/// One step of a random program. Numbers choose among what there is at that moment.
#[derive(Clone, Debug)]
enum Step {
    Alloc {
        stream: u32,
        bytes: usize,
    },
    Use {
        stream: u32,
        block: usize,
    },
    Free {
        block: usize,
    },
    /// Some of a stream's work ends.
    Complete {
        stream: u32,
        some: u64,
    },
    EmptyCache,
    Limit {
        bytes: usize,
    },
    Refuse {
        next: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..STREAMS as u32;
    let bytes = prop_oneof![0_usize..300, 4000_usize..5000, 100_000_usize..200_000, 300_000_usize..900_000];
    prop_oneof![
        6 => (stream.clone(), bytes).prop_map(|(stream, bytes)| Step::Alloc { stream, bytes }),
        6 => (stream.clone(), any::<usize>()).prop_map(|(stream, block)| Step::Use { stream, block }),
        5 => any::<usize>().prop_map(|block| Step::Free { block }),
        3 => (stream, 1_u64..4).prop_map(|(stream, some)| Step::Complete { stream, some }),
        1 => Just(Step::EmptyCache),
        1 => (500_000_usize..3_000_000).prop_map(|bytes| Step::Limit { bytes }),
        1 => (1_u64..3).prop_map(|next| Step::Refuse { next }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_reuse_nothing_early_and_lose_nothing(steps in prop::collection::vec(step(), 1..200)) {
        let (device, pool) = pool(8 * MIB, 2 * MIB);
        let mut caches: Vec<_> = (0..STREAMS as u32).map(|s| cache(&pool, s)).collect();
        let mut blocks: Vec<Block> = Vec::new();
        let mut ids = std::collections::HashSet::new();
        for step in steps {
            match step {
                Step::Alloc { stream, bytes } => match caches[stream as usize].alloc(bytes) {
                    Ok(block) => {
                        prop_assert!(ids.insert(block.id()));
                        prop_assert!(block.bytes() == bytes && block.capacity() >= bytes && block.address() % 64 == 0);
                        let (from, capacity) = (block.address(), block.capacity() as u64);
                        prop_assert!(bytes == 0 || blocks.iter().all(|b| {
                            b.address() + b.capacity() as u64 <= from || from + capacity <= b.address()
                        }), "live blocks overlap");
                        device.expect_unused(from, block.capacity(), Some(StreamId(stream)));
                        blocks.push(block);
                    }
                    Err(error) => {
                        prop_assert!(error.is_out_of_memory());
                        // Every wait ends on this device, so nothing that could make room was left.
                        let stats = pool.stats();
                        let refused = error.to_string().contains("refused");
                        prop_assert!(refused || stats.reserved + bytes + bytes / 8 + 64 > stats.limit, "{error}");
                    }
                },
                Step::Use { stream, block } if !blocks.is_empty() => {
                    device.launch(stream, &[&blocks[block % blocks.len()]]);
                }
                Step::Free { block } if !blocks.is_empty() => drop(blocks.swap_remove(block % blocks.len())),
                Step::Complete { stream, some } => {
                    let (submitted, completed) = (&device.submitted[stream as usize], &device.completed[stream as usize]);
                    let upto = completed.load(Ordering::SeqCst) + some;
                    completed.store(upto.min(submitted.load(Ordering::SeqCst)), Ordering::SeqCst);
                }
                Step::EmptyCache => {
                    pool.empty_cache();
                }
                Step::Limit { bytes } => pool.set_limit(bytes),
                Step::Refuse { next } => {
                    let call = device.calls.load(Ordering::SeqCst) + next;
                    device.refuse.lock().unwrap().push(call);
                }
                Step::Use { .. } | Step::Free { .. } => {}
            }
            pool.check();
            let stats = pool.stats();
            prop_assert_eq!(stats.live + stats.cached + stats.retired, stats.reserved);
            prop_assert_eq!(stats.reserved, device.used.load(Ordering::SeqCst));
            prop_assert_eq!(stats.live, blocks.iter().map(Block::capacity).sum::<usize>());
        }
        drop(blocks);
        device.complete_all();
        pool.empty_cache();
        prop_assert_eq!(pool.stats().reserved, 0);
        prop_assert_eq!(device.used.load(Ordering::SeqCst), 0);
    }
}
