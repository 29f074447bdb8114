//! Idle cores lent to one large call.
//!
//! Threads bring the parallelism; a kernel uses more than one core only while fewer large calls run than there are cores.
//! Work is split over output elements, never over a sum, so the bits of a result do not depend on who helped (INV-14).
//!
//! A *call* is one [`Team::run`] with at least [`LARGE_WORK`]; smaller ones stay on their thread and touch nothing that is
//! shared. The rule that keeps N callers from oversubscribing the machine is one number, `State`: calls and helpers together
//! are never more than cores, except that calls may always come, and then helpers leave before their next task.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Work (multiply-adds, or elements moved times ten) from which other cores are asked: some 30 microseconds of one core. Waking a
/// sleeping thread costs about a third of that.
pub const LARGE_WORK: usize = 2 * 1024 * 1024;

/// How long a helper looks for more work before it sleeps: the small steps between two large ones of a model take about as long.
const SPIN: Duration = Duration::from_micros(50);

/// The cores of one device.
#[derive(Debug, Default)]
pub struct Team {
    /// None if there is one core.
    crew: Option<Arc<Crew>>,
    started: OnceLock<Vec<JoinHandle<()>>>,
}

/// Nobody but the caller.
pub(crate) static ALONE: Team = Team { crew: None, started: OnceLock::new() };

/// What a task is given to: `(task, member)`.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

impl Team {
    /// A team of `cores` cores: that of the caller and `cores - 1` helpers, which are started by the first large call.
    pub fn new(cores: usize) -> Self {
        let crew = (cores > 1).then(|| {
            Arc::new(Crew {
                cores: cores.min(u32::MAX as usize),
                pid: std::process::id(),
                state: State::default(),
                news: AtomicU64::new(0),
                open: Mutex::new(Vec::new()),
                offers: AtomicUsize::new(0),
                wake: Condvar::new(),
                closed: AtomicBool::new(false),
            })
        });
        Self { crew, started: OnceLock::new() }
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.crew.as_ref().map_or(1, |c| c.cores)
    }

    /// Runs `task(i)` for every `i` in `0..tasks`, on this thread and on idle cores, and returns when all are done. `work` is the
    /// estimated multiply-adds of the whole; small work stays on this thread. Tasks are claimed one by one in ascending order.
    ///
    /// # Panics
    /// With the panic of a task, once no task runs any more.
    #[inline]
    pub fn run(&self, tasks: usize, work: usize, task: &(dyn Fn(usize) + Sync)) {
        self.run_members(tasks, work, usize::MAX, &|i, _| task(i));
    }

    /// [`Team::run`] with at most `members` cores. `task(i, member)` also learns who runs it: a number below `members` that no two
    /// tasks have at the same time (0 is the caller), for scratch memory of its own.
    ///
    /// # Panics
    /// With the panic of a task, once no task runs any more.
    #[inline]
    pub fn run_members(&self, tasks: usize, work: usize, members: usize, task: &Task<'_>) {
        match &self.crew {
            Some(crew) if work >= LARGE_WORK && tasks > 1 && crew.pid == std::process::id() => {
                self.large(crew, tasks, members.min(crew.cores).min(64), task);
            }
            _ => (0..tasks).for_each(|i| task(i, 0)),
        }
    }

    #[cold]
    fn large(&self, crew: &Arc<Crew>, tasks: usize, members: usize, task: &Task<'_>) {
        let room = crew.state.call_begins(crew.cores);
        let _call = Call { crew };
        if members <= 1 || !room {
            return (0..tasks).for_each(|i| task(i, 0));
        }
        self.started.get_or_init(|| Crew::start(crew));
        // SAFETY: only the lifetime is changed. The job is closed before this function returns or unwinds (`Opened::drop` waits until
        // no helper is in it), and a helper calls `task` only while it is in the job.
        let task: &'static Task<'static> =
            unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(task) };
        let job = Arc::new(Job {
            task,
            tasks,
            next: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            members: AtomicU64::new(u64::MAX >> (64 - members) & !1),
            caller: std::thread::current(),
            panic: Mutex::new(None),
        });
        let opened = crew.offer(&job);
        job.work(0, || true);
        drop(opened);
        let panic = lock(&job.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        let (Some(crew), Some(threads)) = (&self.crew, self.started.take()) else { return };
        if crew.pid != std::process::id() {
            // The child of a fork: the helpers are the parent's, there is nothing to join (INV-10).
            threads.into_iter().for_each(std::mem::forget);
            return;
        }
        {
            let _open = lock(&crew.open);
            crew.closed.store(true, Ordering::Release);
            crew.wake.notify_all();
        }
        for thread in threads {
            // A helper catches the panics of tasks and has none of its own.
            let _ = thread.join();
        }
    }
}

/// Ends the call in [`State`] however the function is left.
struct Call<'a> {
    crew: &'a Crew,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.crew.state.call_ends();
        if self.crew.offers.load(Ordering::Relaxed) > 0 {
            // A call that lost its helper to this one may have it back.
            drop(lock(&self.crew.open));
            self.crew.wake.notify_one();
        }
    }
}

/// How many calls and helpers are running: two halves of one word, so that they change together.
#[derive(Debug, Default)]
struct State(AtomicU64);

const CALL: u64 = 1 << 32;

impl State {
    fn sum(state: u64) -> u64 {
        (state >> 32) + (state & (CALL - 1))
    }
    /// Whether a helper may join now.
    fn call_begins(&self, cores: usize) -> bool {
        let calls = (self.0.fetch_add(CALL, Ordering::Relaxed) >> 32) + 1;
        calls < cores as u64
    }
    fn call_ends(&self) {
        self.0.fetch_sub(CALL, Ordering::Relaxed);
    }
    /// Joins if calls and helpers are fewer than cores.
    fn join(&self, cores: usize) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |s| {
                (Self::sum(s) < cores as u64).then_some(s + 1)
            })
            .is_ok()
    }
    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
    /// Whether calls have come for which helpers must leave.
    fn crowded(&self, cores: usize) -> bool {
        Self::sum(self.0.load(Ordering::Relaxed)) > cores as u64
    }
    fn room(&self, cores: usize) -> bool {
        Self::sum(self.0.load(Ordering::Relaxed)) < cores as u64
    }
}

/// What callers and helpers share.
#[derive(Debug)]
struct Crew {
    cores: usize,
    /// The process whose helpers these are.
    pid: u32,
    state: State,
    /// Grows when a job is offered: what a helper that does not sleep yet looks at.
    news: AtomicU64,
    /// Jobs that helpers may join, oldest first.
    open: Mutex<Vec<Arc<Job>>>,
    /// How many those are.
    offers: AtomicUsize,
    wake: Condvar,
    closed: AtomicBool,
}

/// One large call.
struct Job {
    task: &'static Task<'static>,
    tasks: usize,
    /// The next task to claim. Beyond `tasks` once all are claimed or one panicked.
    next: AtomicUsize,
    /// Helpers that may call `task`. Grows only under the lock of `Crew::open` while the job is in it.
    inside: AtomicUsize,
    /// Bits of the member numbers that are free; changed only under the lock of `Crew::open`.
    members: AtomicU64,
    caller: Thread,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("tasks", &self.tasks).finish_non_exhaustive()
    }
}

/// No code panics while it holds a lock of this file; a poisoned one is used all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    /// Claims and runs tasks while there are any and `go_on()`.
    fn work(&self, member: usize, go_on: impl Fn() -> bool) {
        while go_on() {
            // Relaxed: what a task reads was published by the lock of `Crew::open`, what it wrote is by `inside`.
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.tasks {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.task)(i, member))) {
                self.next.store(self.tasks, Ordering::Relaxed);
                lock(&self.panic).get_or_insert(panic);
            }
        }
    }
}

/// A job that helpers may join until this is dropped.
struct Opened<'a> {
    crew: &'a Crew,
    job: &'a Arc<Job>,
}

impl Drop for Opened<'_> {
    /// Closes the job and waits until no helper is in it.
    fn drop(&mut self) {
        lock(&self.crew.open).retain(|j| !Arc::ptr_eq(j, self.job));
        self.crew.offers.fetch_sub(1, Ordering::Relaxed);
        // Tasks are short: a helper is about to be done, unless the system has taken its core away.
        let start = Instant::now();
        // Acquire: what the helpers wrote is visible to the caller.
        while self.job.inside.load(Ordering::Acquire) > 0 {
            if start.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                // The helper that leaves last unparks.
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    }
}

impl Crew {
    /// Starts the helpers. Fewer than wished is no error: callers do all the work that nobody else does.
    fn start(crew: &Arc<Crew>) -> Vec<JoinHandle<()>> {
        (1..crew.cores)
            .map_while(|i| {
                let crew = Arc::clone(crew);
                std::thread::Builder::new()
                    .name(format!("streampool-core-{i}"))
                    .spawn(move || crew.help())
                    .ok()
            })
            .collect()
    }

    fn offer<'a>(&'a self, job: &'a Arc<Job>) -> Opened<'a> {
        lock(&self.open).push(Arc::clone(job));
        self.offers.fetch_add(1, Ordering::Relaxed);
        self.news.fetch_add(1, Ordering::Release);
        if job.tasks > 2 && self.cores > 2 {
            self.wake.notify_all();
        } else {
            self.wake.notify_one();
        }
        Opened { crew: self, job }
    }

    /// The life of a helper.
    fn help(&self) {
        let mut open = lock(&self.open);
        loop {
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            let seen = self.news.load(Ordering::Acquire);
            if let Some((job, member)) = self.join(&open) {
                drop(open);
                job.work(member, || !self.state.crowded(self.cores));
                open = lock(&self.open);
                job.members.fetch_or(1 << member, Ordering::Relaxed);
                self.state.leave();
                // Release: the caller sees what this helper's tasks wrote. Afterwards the task may be gone; the job itself is counted.
                if job.inside.fetch_sub(1, Ordering::Release) == 1 {
                    job.caller.unpark();
                }
                drop(job);
                drop(open);
                self.spin(seen);
                open = lock(&self.open);
            } else {
                open = self.wake.wait(open).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// A job with tasks and a free member number, if there is room for a helper.
    fn join(&self, open: &[Arc<Job>]) -> Option<(Arc<Job>, usize)> {
        let job = open
            .iter()
            .find(|j| j.next.load(Ordering::Relaxed) < j.tasks && j.members.load(Ordering::Relaxed) != 0)?;
        if !self.state.join(self.cores) {
            return None;
        }
        let free = job.members.load(Ordering::Relaxed);
        job.members.store(free & (free - 1), Ordering::Relaxed);
        job.inside.fetch_add(1, Ordering::Relaxed);
        Some((Arc::clone(job), free.trailing_zeros() as usize))
    }

    /// Waits a little for a job that was offered after `seen`, while nobody else needs the core.
    fn spin(&self, seen: u64) {
        let start = Instant::now();
        while self.news.load(Ordering::Acquire) == seen
            && self.state.room(self.cores)
            && !self.closed.load(Ordering::Relaxed)
            && start.elapsed() < SPIN
        {
            for _ in 0..32 {
                std::hint::spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = LARGE_WORK;

    fn busy(us: u64) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(us) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn every_task_runs_once() {
        for cores in [1, 2, 3, 7] {
            let team = Team::new(cores);
            for tasks in [0, 1, 2, 5, 100] {
                for work in [0, LARGE] {
                    let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    team.run(tasks, work, &|i| {
                        runs[i].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(runs.iter().all(|r| r.load(Ordering::Relaxed) == 1), "{cores} {tasks} {work}");
                }
            }
        }
    }

    #[test]
    fn helpers_take_part_in_large_work_only() {
        let team = Team::new(2);
        let me = std::thread::current().id();
        team.run(50, LARGE - 1, &|_| assert_eq!(std::thread::current().id(), me));
        assert!(team.started.get().is_none(), "no thread for small work");
        let helped = (0..50).any(|_| {
            let others = AtomicUsize::new(0);
            team.run(50, LARGE, &|_| {
                busy(100);
                if std::thread::current().id() != me {
                    others.fetch_add(1, Ordering::Relaxed);
                }
            });
            others.into_inner() > 0
        });
        assert!(helped);
    }

    #[test]
    fn member_numbers_are_never_used_twice_at_once() {
        let team = Team::new(4);
        for members in [1, 2, 3, 4] {
            let used: Vec<AtomicBool> = (0..members).map(|_| AtomicBool::new(false)).collect();
            for _ in 0..20 {
                team.run_members(40, LARGE, members, &|_, m| {
                    assert!(!used[m].swap(true, Ordering::AcqRel), "member {m} twice");
                    busy(20);
                    used[m].store(false, Ordering::Release);
                });
            }
        }
    }

    #[test]
    fn calls_and_helpers_are_never_more_than_cores_once_helpers_have_left() {
        // Two callers on two cores: each runs alone, once the helper of the one that came first has done the task that it had begun.
        let team = Team::new(2);
        let (begin, end) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        let (helped, together) = (AtomicBool::new(false), AtomicBool::new(false));
        let others = AtomicUsize::new(0);
        let call = || {
            let me = std::thread::current().id();
            let met = AtomicBool::new(false);
            team.run(40, LARGE, &|i| {
                if std::thread::current().id() != me {
                    helped.store(true, Ordering::SeqCst);
                    others.fetch_add(usize::from(together.load(Ordering::SeqCst)), Ordering::SeqCst);
                }
                if !met.swap(true, Ordering::SeqCst) {
                    begin.wait();
                    together.store(true, Ordering::SeqCst);
                }
                busy(1000);
                if i == 39 {
                    // No call ends, and makes room, while the other has tasks.
                    end.wait();
                }
            });
        };
        std::thread::scope(|s| {
            s.spawn(call);
            // Whoever does the first task waits for the second call, so the other one comes to do the second.
            let start = Instant::now();
            while !helped.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
            call();
        });
        assert!(helped.into_inner(), "no helper came");
        let others = others.into_inner();
        assert!(others <= 1, "helpers began {others} tasks beside two calls on two cores");
        assert_eq!(team.crew.as_ref().unwrap().state.0.load(Ordering::Relaxed), 0, "all left");
        let state = State::default();
        assert!(state.call_begins(2) && state.join(2) && !state.join(2) && !state.crowded(2));
        assert!(!state.call_begins(2) && state.crowded(2), "a second caller makes the helper leave");
        state.leave();
        assert!(!state.crowded(2) && !state.join(2));
        state.call_ends();
        assert!(state.join(2));
    }

    #[test]
    fn a_panic_of_any_task_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(3);
        for bad in [0, 1, 17, 39] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(40, LARGE, &|i| {
                    busy(10);
                    assert!(i != bad, "task {bad} failed");
                });
            }));
            let text = caught.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(*text, format!("task {bad} failed"));
            let sum = AtomicUsize::new(0);
            team.run(10, LARGE, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn what_tasks_write_is_seen_by_the_caller_from_many_threads_at_once() {
        let team = Team::new(3);
        std::thread::scope(|s| {
            for t in 0..4 {
                let team = &team;
                s.spawn(move || {
                    for round in 0..200 {
                        let cells: Vec<Mutex<usize>> = (0..16).map(|_| Mutex::new(0)).collect();
                        team.run(16, LARGE, &|i| *lock(&cells[i]) = i * round + t);
                        assert!(cells.iter().enumerate().all(|(i, c)| *lock(c) == i * round + t));
                    }
                });
            }
        });
    }

    #[test]
    fn a_large_call_inside_a_task_works() {
        let team = Team::new(2);
        let sum = AtomicUsize::new(0);
        team.run(4, LARGE, &|_| {
            team.run(4, LARGE, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 24);
    }

    #[cfg(unix)]
    #[test]
    fn a_forked_child_does_its_work_alone() {
        let team = Team::new(2);
        team.run(8, LARGE, &|_| busy(20));
        // SAFETY: the child calls no allocator-locking or thread function before `_exit` but the code under test, which
        // must be free of them.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let sum = AtomicUsize::new(0);
            team.run(8, LARGE, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            drop(team);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if sum.into_inner() == 28 { 0 } else { 1 }) };
        }
        let mut status = 0;
        let start = Instant::now();
        loop {
            // SAFETY: `status` is valid for the write.
            let done = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
            if done == pid {
                break;
            }
            if start.elapsed() > Duration::from_secs(20) {
                // SAFETY: the child is ours and not yet waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                panic!("the child hangs");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(status, 0);
    }
}
