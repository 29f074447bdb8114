//! The end of the process: nobody may be inside NVIDIA's libraries when they take themselves apart.
//!
//! A process that leaves while threads compute runs the libraries' exit handlers beside those threads, which then use what is gone. So a handler of our
//! own, which runs before theirs as it is registered after them, tells all threads to stop where they would enter a library next, and waits until
//! those that are inside have come out. Such threads sleep until the process ends, which is at once.

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use streampool_core::{Error, Result};

/// How long calls that nobody counts may take: submissions, copies, looks at a ticket.
const SHORT: Duration = Duration::from_millis(30);

/// How long is waited for calls that are counted.
const LONG: Duration = Duration::from_secs(5);

static LEAVING: AtomicBool = AtomicBool::new(false);
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// Who registered the handler.
static PROCESS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Whether this is the thread that ends the process.
    static LAST: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "C" {
    fn atexit(handler: extern "C" fn()) -> i32;
}

extern "C" fn leave() {
    // A forked child has no threads but this one, whatever was counted before.
    if PROCESS.load(Ordering::SeqCst) != std::process::id() {
        return;
    }
    let _ = LAST.try_with(|last| last.set(true));
    LEAVING.store(true, Ordering::SeqCst);
    std::thread::sleep(SHORT);
    let begin = Instant::now();
    while INSIDE.load(Ordering::SeqCst) > 0 && begin.elapsed() < LONG {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Registers the handler, once; called when the libraries have registered theirs.
pub(crate) fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        PROCESS.store(std::process::id(), Ordering::SeqCst);
        // SAFETY: the handler lives as long as the process and does not unwind. If there is no room for it, exits are as before.
        let _ = unsafe { atexit(leave) };
    });
}

/// Before anything of NVIDIA's is used: does not return while the process ends, but to the thread that ends it.
///
/// # Errors
/// `is_shut_down` on that thread.
pub(crate) fn check() -> Result<()> {
    if !LEAVING.load(Ordering::Relaxed) {
        return Ok(());
    }
    if LAST.try_with(Cell::get).unwrap_or(true) {
        return Err(Error::shut_down("cuda: the process is ending"));
    }
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Runs a call that may take long, which the end of the process waits for.
pub(crate) fn counted<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    struct Count;
    impl Drop for Count {
        fn drop(&mut self) {
            INSIDE.fetch_sub(1, Ordering::SeqCst);
        }
    }
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let _count = Count;
    if LEAVING.load(Ordering::SeqCst) {
        drop(_count);
        check()?;
        return Err(Error::shut_down("cuda: the process is ending"));
    }
    call()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_while_they_last_even_if_they_fail() {
        assert!(check().is_ok());
        let seen = counted(|| Ok(INSIDE.load(Ordering::SeqCst))).expect("nobody leaves");
        assert!(seen >= 1);
        assert!(counted(|| Err::<(), _>(Error::timeout("x"))).is_err());
        let panicked = std::panic::catch_unwind(|| counted(|| -> Result<()> { panic!("on purpose") }));
        assert!(panicked.is_err());
        assert_eq!(INSIDE.load(Ordering::SeqCst), 0);
    }

    /// In a process of its own, as it ends it: this test's executable, asked for this test, with a variable set.
    #[test]
    fn a_process_that_leaves_stops_threads_before_they_enter_and_waits_for_those_inside() {
        const NAME: &str = "STREAMPOOL_TEST_LEAVING";
        if std::env::var_os(NAME).is_some() {
            prepare();
            let (inside, entered) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                counted(|| {
                    inside.send(()).expect("somebody waits");
                    std::thread::sleep(Duration::from_millis(300));
                    println!("came out");
                    Ok(())
                })
                .expect("it was inside before");
                // Not again.
                let _ = counted(|| {
                    println!("entered late");
                    Ok(())
                });
                println!("returned late");
            });
            entered.recv().expect("the thread enters");
            std::process::exit(7);
        }
        let own = std::env::current_exe().expect("this test has a file");
        let begin = Instant::now();
        let name = "a_process_that_leaves_stops_threads_before_they_enter_and_waits_for_those_inside";
        let output = std::process::Command::new(own)
            .args([name, "--nocapture"])
            .env(NAME, "1")
            .output()
            .expect("the test runs itself");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.contains("came out") && !said.contains("late"), "{said}");
        assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
    }
}
