//! Threads that call at once, with the clock on them.

use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use streampool::Result;

use crate::stats::Histogram;

/// What many threads together did.
pub(crate) struct Outcome {
    /// From the common start until the last thread ended.
    pub(crate) wall: Duration,
    /// Processor time of the whole process meanwhile.
    pub(crate) cpu: Duration,
    pub(crate) latencies: Histogram,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.wall.as_secs_f64().max(1e-9)
    }

    /// How many cores were busy for us.
    pub(crate) fn cores(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }
}

/// A thread's own side of a run: it makes itself ready in `new`, outside the clock.
pub(crate) trait Caller {
    /// Makes call number `i`.
    fn call(&mut self, i: usize) -> Result<()>;
}

impl<F: FnMut(usize) -> Result<()>> Caller for F {
    fn call(&mut self, i: usize) -> Result<()> {
        self(i)
    }
}

/// Makes the calls `0..requests`, each once, from `threads` threads. `done` hears of progress now and then.
///
/// # Errors
/// The first error of any call; the other threads stop soon after.
pub(crate) fn share_out<C: Caller>(
    threads: usize,
    requests: usize,
    new: impl Fn(usize) -> Result<C> + Sync,
    done: impl Fn(usize) + Sync,
) -> Result<Outcome> {
    let next = AtomicUsize::new(0);
    // Several at a time, so that the counter is no bottleneck; few enough that threads end together.
    let chunk = (requests / (threads * 16)).clamp(1, 64);
    at_once(threads, new, |caller, latencies, stop| {
        while !stop.load(Ordering::Relaxed) {
            let start = next.fetch_add(chunk, Ordering::Relaxed);
            if start >= requests {
                break;
            }
            let range: Range<usize> = start..(start + chunk).min(requests);
            let n = range.len();
            for i in range {
                let begin = Instant::now();
                caller.call(i)?;
                latencies.record(begin.elapsed());
            }
            done(n);
        }
        Ok(())
    })
}

/// Calls for about `time` from `threads` threads.
///
/// # Errors
/// The first error of any call; the other threads stop soon after.
pub(crate) fn for_a_while<C: Caller>(
    threads: usize,
    time: Duration,
    new: impl Fn(usize) -> Result<C> + Sync,
) -> Result<Outcome> {
    at_once(threads, new, |caller, latencies, stop| {
        let start = Instant::now();
        let mut now = start;
        let mut i = 0;
        // One look at the clock per call: the end of one is the begin of the next.
        while now.duration_since(start) < time && !stop.load(Ordering::Relaxed) {
            caller.call(i)?;
            let end = Instant::now();
            latencies.record(end.duration_since(now));
            now = end;
            i += 1;
        }
        Ok(())
    })
}

fn at_once<C: Caller>(
    threads: usize,
    new: impl Fn(usize) -> Result<C> + Sync,
    work: impl Fn(&mut C, &mut Histogram, &AtomicBool) -> Result<()> + Sync,
) -> Result<Outcome> {
    let ready = Barrier::new(threads + 1);
    let begin = Barrier::new(threads + 1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                let (ready, begin, stop, new, work) = (&ready, &begin, &stop, &new, &work);
                scope.spawn(move || {
                    let caller = new(t);
                    let mut latencies = Histogram::new();
                    ready.wait();
                    begin.wait();
                    let result = caller.and_then(|mut c| work(&mut c, &mut latencies, stop));
                    let end = Instant::now();
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    result.map(|()| (latencies, end))
                })
            })
            .collect();
        ready.wait();
        let (start, cpu) = (Instant::now(), ProcessTime::now());
        begin.wait();
        let mut latencies = Histogram::new();
        let mut last = start;
        let mut failure = None;
        for worker in workers {
            match worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok((own, end)) => {
                    latencies.merge(&own);
                    last = last.max(end);
                }
                Err(e) => failure = failure.or(Some(e)),
            }
        }
        match failure {
            Some(e) => Err(e),
            None => Ok(Outcome { wall: last.duration_since(start), cpu: cpu.elapsed(), latencies }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use streampool::Error;

    #[test]
    fn every_request_is_made_once() {
        for (threads, requests) in [(1, 0), (1, 5), (3, 1000), (8, 7), (4, 100_000)] {
            let made: Vec<_> = (0..requests).map(|_| AtomicUsize::new(0)).collect();
            let progress = AtomicUsize::new(0);
            let outcome = share_out(
                threads,
                requests,
                |_| {
                    Ok(|i: usize| {
                        made[i].fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    })
                },
                |n| {
                    progress.fetch_add(n, Ordering::Relaxed);
                },
            )
            .unwrap();
            assert!(made.iter().all(|m| m.load(Ordering::Relaxed) == 1));
            assert_eq!(outcome.latencies.count() as usize, requests);
            assert_eq!(progress.into_inner(), requests);
        }
    }

    #[test]
    fn an_error_stops_all_and_is_returned() {
        let e = share_out(
            4,
            usize::MAX / 2,
            |_| {
                Ok(|i| match i {
                    100 => Err(Error::timeout("the hundredth")),
                    _ => Ok(()),
                })
            },
            |_| {},
        )
        .err()
        .unwrap();
        assert!(e.is_timeout());
        let e = for_a_while(2, Duration::from_secs(60), |t| match t {
            0 => Ok(|_| Ok(())),
            _ => Err(Error::out_of_memory("no room to get ready")),
        })
        .err()
        .unwrap();
        assert!(e.is_out_of_memory());
    }

    #[test]
    fn threads_run_at_once_for_the_time_given() {
        let seen = Mutex::new(std::collections::HashSet::new());
        let outcome = for_a_while(3, Duration::from_millis(50), |t| {
            let seen = &seen;
            Ok(move |_| {
                seen.lock().unwrap().insert(t);
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            })
        })
        .unwrap();
        assert_eq!(seen.into_inner().unwrap().len(), 3);
        assert!(outcome.wall >= Duration::from_millis(50));
        // One after another, 50 ms would have room for 50 calls at most.
        assert!(outcome.latencies.count() > 60, "{}", outcome.latencies.count());
    }
}
