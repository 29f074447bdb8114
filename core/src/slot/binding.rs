//! A thread's bindings: which slot of which pool it used last.

use std::cell::RefCell;

use super::shared::{Keep, Shared};
use super::waiter::Grant;
use crate::sync::{Arc, thread_local};

thread_local! {
    static BINDINGS: Bindings = Bindings::default();
}

/// One entry for each pool that the thread used. Dropped when the thread ends, also by a panic: that releases them.
#[derive(Default)]
struct Bindings {
    entries: RefCell<Vec<Entry>>,
}

struct Entry {
    pool_id: u64,
    /// A cache, checked against the slot at each use: it may be out of date (INV-3).
    grant: Grant,
    /// How many [`Scope`]s are open. While there is one, `grant` is a lease's: it is used, never replaced or released.
    scopes: u32,
    /// Keeps the slots' memory, not their payloads, until the thread ends. Cloned once, when the thread first binds.
    pool: Box<dyn Bound>,
}

/// A pool of any payload.
trait Bound {
    fn release(&self, grant: Grant);
    /// Whether nothing can ever be done with it again.
    fn is_over(&self) -> bool;
}

impl<T: Send + 'static> Bound for Keep<T> {
    fn release(&self, grant: Grant) {
        Shared::release(self, grant);
    }
    fn is_over(&self) -> bool {
        self.gate.check().is_err()
    }
}

/// The calling thread's slot of this pool. Finds nothing while the thread's locals are being destroyed.
#[inline]
pub(super) fn find(pool_id: u64) -> Option<Grant> {
    BINDINGS
        .try_with(|bindings| {
            bindings.entries.borrow().iter().find(|entry| entry.pool_id == pool_id).map(|entry| entry.grant)
        })
        .ok()
        .flatten()
}

/// Makes `grant` the calling thread's slot of this pool. What it was bound to before is released.
///
/// Inside a [`Scope`] and while the thread's locals are being destroyed nothing is remembered: after its section the
/// slot stays bound to nobody, and whoever needs one takes it over.
pub(super) fn bind<T: Send + 'static>(pool: &Arc<Shared<T>>, grant: Grant) {
    let mut over = Vec::new();
    let before = BINDINGS.try_with(|bindings| {
        let mut entries = bindings.entries.borrow_mut();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.pool_id == pool.id) {
            return (entry.scopes == 0).then(|| std::mem::replace(&mut entry.grant, grant));
        }
        over.extend(entries.extract_if(.., |entry| entry.pool.is_over()));
        entries.push(Entry { pool_id: pool.id, grant, scopes: 0, pool: Box::new(Keep::new(pool)) });
        None
    });
    drop(over);
    if let Ok(Some(before)) = before {
        pool.release(before);
    }
}

/// For as long as it lives, the calling thread's slot of a pool is one that a lease owns.
pub(crate) struct Scope {
    pool_id: u64,
    before: Option<Grant>,
    /// Stays on its thread.
    thread: std::marker::PhantomData<*const ()>,
}

impl Scope {
    pub(crate) fn new<T: Send + 'static>(pool: &Arc<Shared<T>>, grant: Grant) -> Self {
        let before = BINDINGS
            .try_with(|bindings| {
                let mut entries = bindings.entries.borrow_mut();
                if let Some(entry) = entries.iter_mut().find(|entry| entry.pool_id == pool.id) {
                    entry.scopes += 1;
                    return Some(std::mem::replace(&mut entry.grant, grant));
                }
                entries.push(Entry { pool_id: pool.id, grant, scopes: 1, pool: Box::new(Keep::new(pool)) });
                None
            })
            .ok()
            .flatten();
        Self { pool_id: pool.id, before, thread: std::marker::PhantomData }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // The leased slot is not released: it is the lease's. What is let go of is dropped after the borrow ended.
        let _over = BINDINGS.try_with(|bindings| {
            let mut entries = bindings.entries.borrow_mut();
            match self.before {
                Some(before) => {
                    if let Some(entry) = entries.iter_mut().find(|entry| entry.pool_id == self.pool_id) {
                        entry.scopes -= 1;
                        entry.grant = before;
                    }
                    None
                }
                None => {
                    let at = entries.iter().position(|entry| entry.pool_id == self.pool_id);
                    at.map(|at| entries.swap_remove(at))
                }
            }
        });
    }
}

impl Drop for Bindings {
    fn drop(&mut self) {
        for entry in self.entries.take() {
            // A scope that is still open was leaked with its lease.
            if entry.scopes == 0 && !entry.pool.is_over() {
                entry.pool.release(entry.grant);
            }
        }
    }
}
