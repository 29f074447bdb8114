//! What a warm entry costs: `cargo bench -p streampool-core --bench enter`.
//!
//! Prints nanoseconds for entering and ending a section together, for 1, 2, 4 and 8 threads, through a thread's binding and
//! through a lease: the median, least and most of ten runs. Where the system says how long a thread was on a
//! processor (Linux), that is the time, so that other programs do not count. Threads share nothing that is written, so
//! the figure stays what it is with one.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use streampool_core::slot::{PoolOptions, SlotPool};

const ENTRIES: u32 = 1_000_000;
const RUNS: usize = 10;

fn main() {
    println!("{:<10} {:>7} {:>10} {:>8} {:>8}", "through", "threads", "median ns", "least", "most");
    for threads in [1, 2, 4, 8] {
        report("binding", threads, |pool, barrier| {
            drop(pool.enter().expect("a slot for each thread"));
            time(barrier, || *pool.enter().expect("warm") += 1)
        });
        report("lease", threads, |pool, barrier| {
            let mut lease = pool.lease().expect("a slot for each thread");
            drop(lease.enter().expect("open"));
            time(barrier, || *lease.enter().expect("warm") += 1)
        });
    }
}

fn time(barrier: &Barrier, mut entry: impl FnMut()) -> f64 {
    barrier.wait();
    let (start, on_processor) = (Instant::now(), nanoseconds_on_processor());
    for _ in 0..ENTRIES {
        black_box(&mut entry)();
    }
    let wall = start.elapsed().as_nanos() as f64;
    let spent = on_processor.zip(nanoseconds_on_processor()).map_or(wall, |(before, after)| after - before);
    spent / f64::from(ENTRIES)
}

fn nanoseconds_on_processor() -> Option<f64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

fn report(through: &str, threads: usize, entry: impl Fn(&SlotPool<u64>, &Barrier) -> f64 + Sync) {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let pool = SlotPool::new(PoolOptions::default(), |_| Ok(0u64)).expect("a valid size");
        let barrier = Barrier::new(threads);
        let run = || entry(&pool, &barrier);
        let mean = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum::<f64>() / threads as f64
        });
        times.push(mean);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{through:<10} {threads:>7} {:>10.1} {:>8.1} {:>8.1}",
        times[RUNS / 2],
        times[0],
        times[RUNS - 1]
    );
}
