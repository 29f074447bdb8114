//! The interpreter lock: let go of around everything that may wait or compute; and Ctrl-C during long waits.
//!
//! Python runs signal handlers in its main thread only, and only while that holds the interpreter lock. So while the main thread waits in
//! native code, it asks now and then ([`streampool_core::interrupt`]) whether a handler raised something; then the wait ends, and what
//! was raised becomes the error of the call.
//!
//! Who comes back for the lock goes through a turnstile ([`streampool_core::turnstile`]). Without it a thread that finds the lock taken sleeps, and each that lets
//! go of the lock wakes one, which finds it taken again: at a hundred thousand calls a second threads do little else.

use std::cell::{Cell, RefCell};
use std::sync::OnceLock;

use pyo3::prelude::*;
use streampool_core::turnstile::{Turnstile, Visitor};

use crate::errors::to_py;

/// The way back to the interpreter lock, if this interpreter has one.
static TURNSTILE: OnceLock<Turnstile> = OnceLock::new();

/// How many threads spin for it. Measured with 2, 4 and 8 on 16 processors: two are too few where many threads come at once, and eight slow each other down.
const SPINNERS: u32 = 4;

/// When the module is made.
pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let enabled = m.py().import("sys")?.getattr_opt("_is_gil_enabled")?;
    if enabled.map_or(Ok(true), |ask| ask.call0()?.is_truthy())? {
        TURNSTILE.get_or_init(|| Turnstile::new(SPINNERS));
    }
    Ok(())
}

thread_local! {
    static VISITOR: Visitor = Visitor::new();
    /// What a signal handler raised while this thread waited.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
    static ANY_RAISED: Cell<bool> = const { Cell::new(false) };
    static KNOWN: Cell<bool> = const { Cell::new(false) };
}

/// The check of the main thread. No lock is held when it is called.
fn check() -> bool {
    Python::attach(|py| match py.check_signals() {
        Ok(()) => false,
        Err(raised) => {
            RAISED.set(Some(raised));
            ANY_RAISED.set(true);
            true
        }
    })
}

/// Sets the check if this is the interpreter's main thread. Once a thread.
#[cold]
fn look_at_thread(py: Python<'_>) {
    KNOWN.set(true);
    let main = || {
        let threading = py.import("threading")?;
        let main = threading.call_method0("main_thread")?.getattr("ident")?.extract::<u64>()?;
        PyResult::Ok(main == threading.call_method0("get_ident")?.extract::<u64>()?)
    };
    if main().unwrap_or(false) {
        streampool_core::interrupt::set_check(Some(check));
    }
}

/// Runs `work` without the interpreter lock. An exception that a signal handler raised meanwhile goes before its result.
#[inline]
pub(crate) fn released<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> streampool::Result<T> + Send,
) -> PyResult<T> {
    if !KNOWN.get() {
        look_at_thread(py);
    }
    let result = match TURNSTILE.get() {
        Some(turnstile) => {
            let result = py.detach(|| {
                VISITOR.with(|visitor| turnstile.leave(visitor));
                let result = work();
                VISITOR.with(|visitor| turnstile.take(visitor));
                result
            });
            VISITOR.with(|visitor| turnstile.entered(visitor));
            result
        }
        None => py.detach(work),
    };
    if ANY_RAISED.get() {
        ANY_RAISED.set(false);
        if let Some(raised) = RAISED.take() {
            return Err(raised);
        }
    }
    result.map_err(to_py)
}
