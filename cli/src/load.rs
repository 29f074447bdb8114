//! Threads that call at once, with the clock on them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
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

/// How many calls are made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    /// This many.
    Calls(usize),
    /// Whole rounds of `round` calls, one at least, until `time` is over.
    Rounds { round: usize, time: Duration },
}

/// The calls that may be claimed so far.
struct Quota {
    end: usize,
    /// Calls that came back, as far as threads have told.
    done: usize,
    /// Nothing is added any more.
    closed: bool,
    /// How many are claimed at once: so many that the counter is no bottleneck, so few that threads end together.
    chunk: usize,
}

impl Quota {
    fn new(amount: Amount, threads: usize) -> Self {
        let (end, closed) = match amount {
            Amount::Calls(n) => (n, true),
            Amount::Rounds { round, .. } => (round, false),
        };
        Self { end, done: 0, closed, chunk: Self::chunk(end, threads) }
    }

    fn chunk(calls: usize, threads: usize) -> usize {
        (calls / (threads * 16)).clamp(1, 64)
    }

    /// Adds rounds until call `wanted` is there or the time is over: for about a twentieth of `time` by the rate so far, and no
    /// more than there were already.
    fn extend(&mut self, wanted: usize, amount: Amount, threads: usize, elapsed: Duration) {
        let Amount::Rounds { round, time } = amount else { return };
        while !self.closed && self.end < wanted {
            if round == 0 || elapsed >= time {
                self.closed = true;
                break;
            }
            let rate = self.done as f64 / elapsed.as_secs_f64().max(1e-6);
            let share = (rate * time.as_secs_f64() / 20.0) as usize;
            let calls = (share.min(self.end) / round).max(1).saturating_mul(round);
            self.end = self.end.saturating_add(calls);
            self.chunk = Self::chunk(calls, threads);
        }
    }
}

/// Makes the calls 0, 1, ... of `amount`, each once, from `threads` threads. `done` hears of progress now and then.
///
/// # Errors
/// The first error of any call; the other threads stop soon after.
pub(crate) fn share_out<C: Caller>(
    threads: usize,
    amount: Amount,
    new: impl Fn(usize) -> Result<C> + Sync,
    done: impl Fn(usize) + Sync,
) -> Result<Outcome> {
    let next = AtomicUsize::new(0);
    let quota = Mutex::new(Quota::new(amount, threads));
    at_once(threads, new, |caller, latencies, stop| {
        // Each thread asks for the quota only when it comes to the end of what it knows.
        let ask = |wanted: usize, done: usize, elapsed: Duration| {
            let mut quota = quota.lock().unwrap_or_else(PoisonError::into_inner);
            quota.done += done;
            quota.extend(wanted, amount, threads, elapsed);
            (quota.end, quota.chunk)
        };
        let started = Instant::now();
        let mut untold = 0;
        let (mut known, mut chunk) = ask(0, 0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let start = next.fetch_add(chunk, Ordering::Relaxed);
            let end = start + chunk;
            if end > known {
                (known, chunk) = ask(end, std::mem::take(&mut untold), started.elapsed());
            }
            if start >= known {
                break;
            }
            let range: Range<usize> = start..end.min(known);
            let n = range.len();
            for i in range {
                let begin = Instant::now();
                caller.call(i)?;
                latencies.record(begin.elapsed());
            }
            untold += n;
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
    use std::sync::Condvar;
    use streampool::Error;

    #[test]
    fn rounds_are_whole_and_each_request_is_made_once_until_the_time_is_over() {
        for (threads, round) in [(1, 1), (3, 7), (8, 450), (4, 100_000)] {
            let (made, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let time = Duration::from_millis(30);
            let outcome = share_out(
                threads,
                Amount::Rounds { round, time },
                |_| {
                    Ok(|i: usize| {
                        made.fetch_add(1, Ordering::Relaxed);
                        sum.fetch_add(i, Ordering::Relaxed);
                        Ok(())
                    })
                },
                |_| {},
            )
            .unwrap();
            let n = made.into_inner();
            assert!(n >= round && n.is_multiple_of(round), "{n} calls in rounds of {round}");
            assert_eq!(sum.into_inner(), n * (n - 1) / 2, "the calls are 0 to {n}");
            assert_eq!(outcome.latencies.count() as usize, n);
            assert!(outcome.wall >= time);
        }
        // One round that takes longer than the time is made to its end, and no other is begun.
        let slow = |_| {
            Ok(|_: usize| {
                std::thread::sleep(Duration::from_millis(3));
                Ok(())
            })
        };
        let outcome =
            share_out(2, Amount::Rounds { round: 20, time: Duration::from_millis(5) }, slow, |_| {}).unwrap();
        assert_eq!(outcome.latencies.count(), 20);
    }

    #[test]
    fn every_request_is_made_once() {
        for (threads, requests) in [(1, 0), (1, 5), (3, 1000), (8, 7), (4, 100_000)] {
            let made: Vec<_> = (0..requests).map(|_| AtomicUsize::new(0)).collect();
            let progress = AtomicUsize::new(0);
            let outcome = share_out(
                threads,
                Amount::Calls(requests),
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
            Amount::Calls(usize::MAX / 2),
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
        // In its first call each thread waits for the others: one after another, they would not come.
        let (arrived, all) = (Mutex::new(0), Condvar::new());
        let outcome = for_a_while(3, Duration::from_millis(50), |_| {
            let (arrived, all) = (&arrived, &all);
            Ok(move |i| {
                if i > 0 {
                    std::thread::sleep(Duration::from_millis(1));
                    return Ok(());
                }
                let mut n = arrived.lock().unwrap();
                *n += 1;
                all.notify_all();
                let patience = Duration::from_secs(30);
                match all.wait_timeout_while(n, patience, |n| *n < 3).unwrap().1.timed_out() {
                    true => Err(Error::timeout("the other threads never called")),
                    false => Ok(()),
                }
            })
        })
        .unwrap();
        assert!(outcome.wall >= Duration::from_millis(50));
        assert!(outcome.latencies.count() >= 3);
    }
}
