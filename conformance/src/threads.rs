//! Many threads on one device.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use streampool_core::driver::Driver;
use streampool_core::timeline::StreamId;

use crate::bench::{Bench, Chain};

const THREADS: u32 = 8;

pub(crate) fn threads_on_queues_of_their_own_do_not_meet(driver: Arc<dyn Driver>) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|stream| {
                let driver = &driver;
                scope.spawn(move || {
                    let mut bench = Bench::new(driver, stream);
                    for round in 0..10 {
                        let mut chain = Chain::new(&mut bench, 100 + stream as usize, round);
                        for i in 0..10 {
                            chain.step(&mut bench, i + stream as usize);
                        }
                        chain.expect(&mut bench);
                        bench.finish();
                    }
                })
            })
            .collect();
        let (poller_driver, over) = (&driver, &over);
        scope.spawn(move || {
            let mut seen = [0; THREADS as usize];
            while !over.load(Ordering::Relaxed) {
                for (stream, seen) in seen.iter_mut().enumerate() {
                    let completed = poller_driver.completed(StreamId(stream as u32));
                    assert!(completed >= *seen);
                    *seen = completed;
                }
                thread::yield_now();
            }
        });
        let failed = workers.into_iter().filter_map(|w| w.join().err()).count();
        over.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "threads failed");
    });
}

pub(crate) fn a_queue_moves_between_threads(driver: Arc<dyn Driver>) {
    let mut bench = Bench::new(&driver, 0);
    let mut chain = Chain::new(&mut bench, 64, 51);
    for i in 0..20 {
        (bench, chain) = thread::spawn(move || {
            chain.step(&mut bench, i);
            (bench, chain)
        })
        .join()
        .expect("the thread ends well");
    }
    chain.expect(&mut bench);
}

pub(crate) fn a_result_moves_between_threads(driver: Arc<dyn Driver>) {
    // A producer hands over a ticket and memory, and does not wait for its work.
    for round in 0..50 {
        let producer = {
            let driver = driver.clone();
            thread::spawn(move || {
                let mut bench = Bench::new(&driver, 2 * round);
                let mut chain = Chain::new(&mut bench, 64, u64::from(round));
                let ticket = chain.step(&mut bench, 1);
                (chain, ticket)
            })
        };
        let (mut chain, ticket) = producer.join().expect("the thread ends well");
        let mut bench = Bench::new(&driver, 2 * round + 1);
        bench.queue().wait_for(ticket).expect("the ticket is of submitted work");
        chain.step(&mut bench, 2);
        chain.expect(&mut bench);
        bench.finish();
    }
}
