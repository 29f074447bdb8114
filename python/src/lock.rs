//! The interpreter lock: let go of around everything that may wait or compute; and Ctrl-C during long waits.
//!
//! Python runs signal handlers in its main thread only, and only while that holds the interpreter lock. So while the main thread waits in
//! native code, it asks now and then ([`streampool_core::interrupt`]) whether a handler raised something; then the wait ends, and what
//! was raised becomes the error of the call.

use std::cell::{Cell, RefCell};

use pyo3::prelude::*;

use crate::errors::to_py;

thread_local! {
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
    let result = py.detach(work);
    if ANY_RAISED.get() {
        ANY_RAISED.set(false);
        if let Some(raised) = RAISED.take() {
            return Err(raised);
        }
    }
    result.map_err(to_py)
}
