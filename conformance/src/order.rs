//! Tickets, and the order of work.

use std::sync::Arc;
use std::time::Instant;

use streampool_core::driver::Driver;
use streampool_core::timeline::StreamId;

use crate::bench::{Bench, Chain, soon};

pub(crate) fn tickets_of_a_stream_complete_in_order(driver: Arc<dyn Driver>) {
    let mut bench = Bench::new(&driver, 0);
    assert_eq!(driver.completed(StreamId(0)), 0, "nothing was submitted");
    let mut chain = Chain::new(&mut bench, 100, 1);
    let tickets: Vec<_> = (0..20).map(|i| chain.step(&mut bench, i)).collect();
    for ticket in [tickets[3], tickets[10], tickets[19]] {
        driver.wait(ticket, soon()).expect("the work ends");
        assert!(driver.completed(StreamId(0)) >= ticket.number, "INV-4: a wait ended before its ticket");
    }
    assert_eq!(driver.completed(StreamId(0)), tickets[19].number, "no more is done than was submitted");
    chain.expect(&mut bench);
}

pub(crate) fn a_completed_count_never_goes_back(driver: Arc<dyn Driver>) {
    let mut benches: Vec<_> = (0..3).map(|s| Bench::new(&driver, s)).collect();
    let mut chains: Vec<_> = benches.iter_mut().map(|b| Chain::new(b, 10, 2)).collect();
    let mut seen = [0; 3];
    for i in 0..100 {
        chains[i % 3].step(&mut benches[i % 3], i);
        for (s, seen) in seen.iter_mut().enumerate() {
            let completed = driver.completed(StreamId(s as u32));
            assert!(completed >= *seen, "stream {s} went from {seen} back to {completed}");
            assert!(completed <= benches[s].ticket().number, "stream {s} did work that was not submitted");
            *seen = completed;
        }
    }
    // A loop of polls ends without anybody waiting.
    let end = soon();
    for bench in &benches {
        while driver.completed(bench.ticket().stream) < bench.ticket().number {
            assert!(Instant::now() < end, "polls make no progress");
            std::thread::yield_now();
        }
    }
    for (chain, bench) in chains.iter().zip(&mut benches) {
        chain.expect(bench);
    }
}

pub(crate) fn wait_for_orders_two_queues(driver: Arc<dyn Driver>) {
    let mut benches = [Bench::new(&driver, 0), Bench::new(&driver, 1)];
    let mut chain = Chain::new(&mut benches[0], 50, 3);
    let mut last = benches[0].ticket();
    // One value goes to and fro, and the host waits for nothing.
    for i in 0..100 {
        let bench = &mut benches[(i + 1) % 2];
        bench.queue().wait_for(last).expect("the ticket is of submitted work");
        last = chain.step(bench, i * 7);
    }
    let reader = &mut benches[usize::from(last.stream == StreamId(0))];
    reader.queue().wait_for(last).expect("the ticket is of submitted work");
    chain.expect(reader);
}

pub(crate) fn wait_for_is_transitive(driver: Arc<dyn Driver>) {
    let mut benches: Vec<_> = (0..4).map(|s| Bench::new(&driver, s)).collect();
    for round in 0..20 {
        let mut chain = Chain::new(&mut benches[0], 20, round);
        let mut last = benches[0].ticket();
        for (s, bench) in benches.iter_mut().enumerate() {
            bench.queue().wait_for(last).expect("the ticket is of submitted work");
            last = chain.step(bench, s);
        }
        // Stream 0 waits for stream 3 only, which waited for 2, which waited for 1.
        benches[0].queue().wait_for(last).expect("the ticket is of submitted work");
        chain.step(&mut benches[0], 1);
        chain.expect(&mut benches[0]);
        benches[0].finish();
    }
}

pub(crate) fn a_wait_for_done_work_ends_at_once(driver: Arc<dyn Driver>) {
    let mut bench = Bench::new(&driver, 2);
    let mut chain = Chain::new(&mut bench, 5, 4);
    let ticket = chain.step(&mut bench, 0);
    bench.finish();
    let past = Instant::now();
    driver.wait(ticket, past).expect("done work needs no time, even after the deadline");
    bench.queue().wait_for(ticket).expect("a wait for the own stream is nothing to do");
    chain.step(&mut bench, 1);
    chain.expect(&mut bench);
}

pub(crate) fn more_submissions_than_the_queue_is_deep(driver: Arc<dyn Driver>) {
    let depth = driver.info().queue_depth;
    assert!(depth > 0, "a queue takes at least one submission");
    let mut bench = Bench::new(&driver, 0);
    let mut chain = Chain::new(&mut bench, 3, 5);
    for i in 0..depth.min(1000) * 3 {
        chain.step(&mut bench, i);
    }
    chain.expect(&mut bench);
}
