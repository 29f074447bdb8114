//! Recording streams under loom: no block is reused before every recorded ticket is done (INV-6), whatever the order in which the streams
//! end, the block is recorded on, dropped and asked for.
#![cfg(loom)]

mod model;

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;
use model::explore;
use model::memory::{BYTES, expect_all_back, setup, ticket};

#[test]
fn a_block_waits_for_both_of_two_streams() {
    explore("record stream: two readers, 3 threads, 2 blocks", 4, || {
        let (device, pool, mut a, _b) = setup(2, false);
        let block = a.alloc(BYTES).unwrap();
        block.record(ticket(1, 1));
        block.record(ticket(2, 1));
        assert_eq!(block.tickets_kept(), 2);
        let bytes = Arc::new([UnsafeCell::new(()), UnsafeCell::new(())]);
        let works = [1, 2].map(|stream: u32| {
            let (device, bytes) = (device.clone(), bytes.clone());
            thread::spawn(move || {
                bytes[stream as usize - 1].with_mut(|_| ());
                device.complete(stream, 1);
            })
        });
        let address = block.address();
        drop(block);
        let next = a.alloc(BYTES).unwrap();
        if next.address() == address {
            // loom fails here if either access is not known to be over.
            bytes.iter().for_each(|byte| byte.with_mut(|_| ()));
        }
        drop(next);
        works.into_iter().for_each(|work| work.join().unwrap());
        expect_all_back(&device, &pool);
    });
}

#[test]
fn a_stream_that_records_on_anothers_thread_withholds_the_block() {
    explore("record stream: recorded and dropped by another thread, 3 threads, 2 blocks", 3, || {
        let (device, pool, mut a, _b) = setup(2, false);
        let block = a.alloc(BYTES).unwrap();
        let address = block.address();
        let bytes = Arc::new(UnsafeCell::new(()));
        // The other stream's thread: submits, records, drops.
        let user = thread::spawn({
            let (device, bytes) = (device.clone(), bytes.clone());
            move || {
                let work = thread::spawn({
                    let device = device.clone();
                    move || {
                        bytes.with_mut(|_| ());
                        device.complete(1, 1);
                    }
                });
                block.record(ticket(1, 1));
                drop(block);
                work
            }
        });
        let next = a.alloc(BYTES).unwrap();
        if next.address() == address {
            bytes.with_mut(|_| ());
        }
        drop(next);
        user.join().unwrap().join().unwrap();
        expect_all_back(&device, &pool);
    });
}

#[test]
fn use_on_the_home_stream_keeps_no_ticket_and_withholds_from_others_only() {
    explore("record stream: the home stream's own work, 2 threads, 1 block for 2 streams", 5, || {
        let (device, pool, mut a, mut b) = setup(1, false);
        let block = a.alloc(BYTES).unwrap();
        for number in 1..=2 {
            block.record(ticket(0, number));
        }
        assert_eq!(block.tickets_kept(), 0, "no ticket is kept of the own stream");
        let bytes = Arc::new(UnsafeCell::new(()));
        let address = block.address();
        let work = thread::spawn({
            let (device, bytes) = (device.clone(), bytes.clone());
            move || {
                device.complete(0, 1);
                bytes.with_mut(|_| ());
                device.complete(0, 2);
            }
        });
        drop(block);
        // The home stream has it at once: what it submits comes after its own work.
        let own = a.alloc(BYTES).unwrap();
        assert_eq!(own.address(), address);
        drop(own);
        // Another stream has its memory when the work is done, and is never refused because of it.
        let other = b.alloc(BYTES).unwrap();
        bytes.with_mut(|_| ());
        drop(other);
        work.join().unwrap();
        expect_all_back(&device, &pool);
    });
}
