//! How many streams are at work: whether a queue's kernels should be quick, or leave room to others.
//!
//! Nothing is counted for it. Once in [`EVERY`] submissions a queue looks which tickets of other streams went on since it looked last: a warm launch
//! writes nothing that other threads read.

/// Submissions from one look to the next, and up to the first.
const EVERY: u64 = 64;
const FIRST: u64 = 8;

/// With so many streams at work, its own included, a queue's kernels should be quick. Measured with MiniLM on an H100 (docs/benchmarks/h100.md).
const FEW: usize = 2;

/// What one queue knows of the others.
pub(crate) struct Company {
    /// The last completed ticket of each stream when this queue looked.
    seen: Vec<u64>,
    /// Submission at which to look again.
    next: u64,
    few: bool,
}

impl Company {
    /// Before the first submission; `completed` are the streams' last completed tickets.
    pub(crate) fn new(completed: impl Iterator<Item = u64>) -> Self {
        Self { seen: completed.collect(), next: FIRST, few: true }
    }

    /// Whether few streams are at work, at submission `number` of stream `own`; `completed` is asked now and then.
    pub(crate) fn is_small<I: Iterator<Item = u64>>(
        &mut self,
        number: u64,
        own: usize,
        completed: impl FnOnce() -> I,
    ) -> bool {
        if number >= self.next {
            self.next = number + EVERY;
            let mut at_work = 1;
            for (stream, now) in completed().enumerate() {
                if stream == self.seen.len() {
                    self.seen.push(0);
                }
                let before = std::mem::replace(&mut self.seen[stream], now);
                at_work += usize::from(stream != own && now != before);
            }
            self.few = at_work <= FEW;
        }
        self.few
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Submits `count` times while `busy` streams complete something each time; what was said last.
    fn submit(company: &mut Company, words: &mut [u64], busy: std::ops::Range<usize>, count: u64) -> bool {
        let mut said = false;
        for _ in 0..count {
            words[busy.clone()].iter_mut().for_each(|w| *w += 1);
            words[0] += 1;
            said = company.is_small(words[0], 0, || words.iter().copied());
        }
        said
    }

    #[test]
    fn streams_that_complete_nothing_are_no_company() {
        let mut words = [0, 70, 80, 90];
        let mut company = Company::new(words.iter().copied());
        assert!(submit(&mut company, &mut words, 0..0, 1000), "alone");
        assert!(submit(&mut company, &mut words, 1..2, 200), "two are few");
        assert!(!submit(&mut company, &mut words, 1..3, EVERY), "three are many, after one look");
        assert!(submit(&mut company, &mut words, 0..0, 2 * EVERY), "alone again");
    }

    #[test]
    fn streams_that_were_opened_later_count() {
        let mut words = vec![0];
        let mut company = Company::new(words.iter().copied());
        words.extend([0, 0, 0]);
        assert!(!submit(&mut company, &mut words, 1..4, FIRST));
    }

    #[test]
    fn it_looks_once_in_a_while() {
        let mut company = Company::new(std::iter::empty());
        let mut looks = 0;
        for number in 1..=1000 {
            company.is_small(number, 0, || {
                looks += 1;
                std::iter::empty()
            });
        }
        assert_eq!(looks, 1 + (1000 - FIRST) / EVERY);
    }
}
