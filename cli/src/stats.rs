//! Percentiles of latencies, and medians of repeats.

use std::time::Duration;

/// Buckets per power of two: a percentile is at most 1/32 (3 %) off.
const FINE: usize = 32;

/// How often each latency occurred, in a few kilobytes however many there were (log-linear buckets, as HdrHistogram has them).
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; (64 - 4) * FINE], total: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let ns = latency.as_nanos().min(u128::from(u64::MAX)) as u64;
        self.counts[bucket(ns)] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        self.total += other.total;
    }

    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    /// The least latency that at least `percent` of all do not exceed, rounded to its bucket's middle; zero without any.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        let rank = ((percent / 100.0 * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (i, &n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= rank && n > 0 {
                return Duration::from_nanos(middle(i));
            }
        }
        Duration::ZERO
    }
}

fn bucket(ns: u64) -> usize {
    if ns < FINE as u64 {
        return ns as usize;
    }
    let exponent = ns.ilog2() as usize; // at least 5
    (exponent - 4) * FINE + ((ns >> (exponent - 5)) as usize - FINE)
}

fn middle(bucket: usize) -> u64 {
    if bucket < FINE {
        return bucket as u64;
    }
    let (exponent, step) = (bucket / FINE + 4, (bucket % FINE + FINE) as u64);
    let width = 1_u64 << (exponent - 5);
    step * width + width / 2
}

/// Median, least and greatest of repeated measurements.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut v = values.to_vec();
        v.sort_by(f64::total_cmp);
        let n = v.len();
        let median = if n % 2 == 1 { v[n / 2] } else { (v[n / 2 - 1] + v[n / 2]) / 2.0 };
        Self { median, min: v[0], max: v[n - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        let mut last = 0;
        for e in 0..64 {
            for f in [0_u64, 1, 5] {
                let ns = (1_u64 << e).saturating_add(f << e >> 3);
                let b = bucket(ns);
                assert!(b >= last || f > 0, "{ns}");
                last = last.max(b);
                let error = middle(b).abs_diff(ns) as f64 / ns as f64;
                assert!(error <= 1.0 / 32.0, "{ns} lands in the middle {} of bucket {b}", middle(b));
            }
        }
        assert!(bucket(u64::MAX) < Histogram::new().counts.len());
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let mut h = Histogram::new();
        let mut other = Histogram::new();
        for us in 1..=1000 {
            if us % 3 == 0 { &mut other } else { &mut h }.record(Duration::from_micros(us));
        }
        h.merge(&other);
        assert_eq!(h.count(), 1000);
        for (percent, us) in [(50.0, 500.0), (99.0, 990.0), (100.0, 1000.0), (0.0, 1.0)] {
            let got = h.percentile(percent).as_secs_f64() * 1e6;
            assert!((got / us - 1.0).abs() < 0.04, "p{percent}: {got} us, expected {us}");
        }
        assert_eq!(Histogram::new().percentile(50.0), Duration::ZERO);
    }

    #[test]
    fn medians() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }
}
