//! Fork: the child must not use its parent's devices (INV-10).

use std::sync::Once;

/// Registers, once per process, a handler that runs in the child of every later fork.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(unix)]
        // SAFETY: the handler is a plain function that lives for ever and does only what is allowed after fork: an atomic store.
        // A failure (no memory for the registration) leaves the process without the check, which is no worse than not asking.
        unsafe {
            libc::pthread_atfork(None, None, Some(in_child));
        }
    });
}

/// Runs in the child, before `fork` returns there.
#[cfg(unix)]
extern "C" fn in_child() {
    streampool_core::gate::forked_in_child();
}
