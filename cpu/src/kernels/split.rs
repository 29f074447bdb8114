//! Dividing work among cores: over output elements, never over a sum (INV-14).

use std::ops::Range;
use std::sync::Mutex;

use streampool_core::{Error, Result};

use crate::team::Team;

/// Least work of a task, in element-operations: some ten microseconds, against which waking a core is cheap.
const TASK: usize = 1 << 16;

/// Most tasks of one call: enough for load balance, few enough for their scratch memory.
const MOST: usize = 32;

/// Into how many tasks to divide work of this size.
pub(crate) fn tasks(work: usize) -> usize {
    (work / TASK).clamp(1, MOST)
}

/// Element-operations in the team's measure, which is multiply-adds of a matrix product.
pub(crate) fn team_work(work: usize) -> usize {
    work.saturating_mul(10)
}

/// The `i`-th of `tasks` nearly equal parts of `0..total`.
pub(crate) fn part(total: usize, tasks: usize, i: usize) -> Range<usize> {
    let (each, more) = (total / tasks, total % tasks);
    let start = i * each + i.min(more);
    start..start + each + usize::from(i < more)
}

/// Runs `task` on parts of `0..units` that together are all of it, with what cores there are. `work` is the size of the whole in
/// element-operations.
pub(crate) fn run(team: &Team, units: usize, work: usize, task: impl Fn(Range<usize>) + Sync) {
    let tasks = tasks(work).min(units);
    if tasks <= 1 {
        task(0..units);
    } else {
        team.run(tasks, team_work(work), &|i| task(part(units, tasks, i)));
    }
}

/// As [`run`] for tasks that may fail: the error of the first part that has one is returned, whichever part ended first.
pub(crate) fn try_run(
    team: &Team,
    units: usize,
    work: usize,
    task: impl Fn(Range<usize>) -> Result<()> + Sync,
) -> Result<()> {
    let tasks = tasks(work).min(units);
    if tasks <= 1 {
        return task(0..units);
    }
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    team.run(tasks, team_work(work), &|i| {
        if let Err(e) = task(part(units, tasks, i)) {
            let mut failed = failed.lock().expect("no panic under this lock");
            if failed.as_ref().is_none_or(|f| i < f.0) {
                *failed = Some((i, e));
            }
        }
    });
    match failed.into_inner().expect("no panic under this lock") {
        Some((_, e)) => Err(e),
        None => Ok(()),
    }
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
