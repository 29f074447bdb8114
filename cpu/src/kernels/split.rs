//! Dividing work among cores: over output elements, never over a sum (INV-14).

use std::ops::Range;

/// Least work of a task, in element-operations: some ten microseconds, against which waking a core is cheap.
const TASK: usize = 1 << 16;

/// Most tasks of one call: enough for load balance, few enough for their scratch memory.
const MOST: usize = 32;

/// Into how many tasks to divide work of this size.
pub(crate) fn tasks(work: usize) -> usize {
    (work / TASK).clamp(1, MOST)
}

/// The `i`-th of `tasks` nearly equal parts of `0..total`.
pub(crate) fn part(total: usize, tasks: usize, i: usize) -> Range<usize> {
    let (each, more) = (total / tasks, total % tasks);
    let start = i * each + i.min(more);
    start..start + each + usize::from(i < more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (total, tasks) in [(0, 1), (5, 3), (3, 5), (64, 8), (1000, 7)] {
            let mut next = 0;
            for i in 0..tasks {
                let r = part(total, tasks, i);
                assert_eq!(r.start, next);
                next = r.end;
            }
            assert_eq!(next, total);
        }
    }
}
