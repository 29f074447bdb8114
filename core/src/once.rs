//! Single flight: one compile per key, whatever the threads (INV-9).
//!
//! The first thread that asks for a key compiles it, with no lock held; all others that ask meanwhile wait for that one
//! *flight* and share what comes of it. A failure reaches everybody who waited for that flight and nobody else: the
//! next call compiles again. (The idea is that of Go's `singleflight`; the bounded cache behind it is least recently used.)
//!
//! # What is kept
//!
//! Values report their size, and the cache drops the least recently used ones beyond its limit. A value that somebody
//! holds is not dropped from the cache, since that would free nothing: so what is cached is at most the limit, or what is in use plus
//! the newest. Values themselves are `Arc`s: dropping one from the cache never frees it under someone who runs it.
//!
//! All counters are written with the cache's lock held. A warm path does not come here: it keeps its own `Arc`.

use std::collections::HashMap;
use std::hash::Hash;

use crate::error::{Error, Result};
use crate::interrupt;
use crate::sync::{Arc, Condvar, Deadline, Mutex, StdArc, ThreadToken};

/// A cache of compiled values by key, bounded in bytes.
pub struct OnceCache<K, V: ?Sized> {
    state: Mutex<State<K, V>>,
}

struct State<K, V: ?Sized> {
    entries: HashMap<K, Entry<V>>,
    limit: usize,
    /// Sum over the `Ready` entries.
    bytes: usize,
    /// Grows with every use.
    now: u64,
    compiles: u64,
    failures: u64,
    hits: u64,
    joins: u64,
    evictions: u64,
}

/// `nothing -> Flight -> Ready -> nothing` (evicted), or `Flight -> nothing` (failed). Changes with the state locked. Only the
/// compiling thread ends its flight.
enum Entry<V: ?Sized> {
    Flight(Arc<Flight<V>>),
    Ready { value: StdArc<V>, bytes: usize, used: u64 },
}

/// One compile and those who wait for it.
struct Flight<V: ?Sized> {
    by: ThreadToken,
    /// Set once, after the entry left the state `Flight`: whoever reads a failure here and asks again starts anew.
    landed: Mutex<Option<Result<StdArc<V>>>>,
    done: Condvar,
}

/// What a cache has done and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Compiles that were started.
    pub compiles: u64,
    /// Compiles that failed.
    pub failures: u64,
    /// Calls answered by a value that was there.
    pub hits: u64,
    /// Calls that waited for another thread's compile.
    pub joins: u64,
    /// Values dropped to stay within the limit.
    pub evictions: u64,
    /// Values held.
    pub entries: usize,
    /// Their bytes.
    pub bytes: usize,
    /// The limit in bytes.
    pub limit: usize,
}

impl<K: Eq + Hash + Clone, V: ?Sized> OnceCache<K, V> {
    /// An empty cache that keeps at most `limit` bytes of values that are not in use.
    pub fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(State {
                entries: HashMap::new(),
                limit,
                bytes: 0,
                now: 0,
                compiles: 0,
                failures: 0,
                hits: 0,
                joins: 0,
                evictions: 0,
            }),
        }
    }

    /// The value of `key` if it is there; never waits for a compile.
    pub fn get(&self, key: &K) -> Option<StdArc<V>> {
        self.state.lock().hit(key)
    }

    /// The value of `key`: from the cache, or from the compile that another thread has begun, or from `compile`, which
    /// returns the value and its size in bytes. `compile` is called with no lock held.
    ///
    /// # Errors
    /// - what `compile` said, here or in the thread that ran it; the next call tries again;
    /// - `is_timeout` if another thread's compile was not done at `deadline`;
    /// - `is_internal` if another thread's compile panicked, or if `compile` asks this cache for the key it is
    ///   compiling (it would wait for itself).
    ///
    /// # Panics
    /// If `compile` does; the panic is passed on to the caller.
    pub fn get_or_compile(
        &self,
        key: &K,
        deadline: Deadline,
        compile: impl FnOnce() -> Result<(StdArc<V>, usize)>,
    ) -> Result<StdArc<V>> {
        let me = ThreadToken::current();
        let flight = {
            let mut state = self.state.lock();
            if let Some(value) = state.hit(key) {
                return Ok(value);
            }
            match state.entries.get(key) {
                Some(Entry::Flight(flight)) if flight.by == me => {
                    return Err(Error::internal("a compile asks for the very program it is compiling"));
                }
                Some(Entry::Flight(flight)) => {
                    let flight = flight.clone();
                    state.joins += 1;
                    drop(state);
                    return flight.wait(deadline);
                }
                _ => {}
            }
            let flight = Arc::new(Flight { by: me, landed: Mutex::new(None), done: Condvar::new() });
            state.entries.insert(key.clone(), Entry::Flight(flight.clone()));
            state.compiles += 1;
            flight
        };
        // Lands the flight as a failure if `compile` unwinds.
        let mut landing = Landing { cache: self, key, flight: &flight, landed: false };
        let compiled = compile();
        landing.land(compiled)
    }

    /// Drops values that nobody holds, the least recently used first, until at most `bytes` are cached.
    pub fn trim(&self, bytes: usize) {
        let evicted = self.state.lock().evict(bytes);
        drop(evicted);
    }

    /// Forgets all values, in use or not. Who holds one keeps it. Compiles that are under way land as usual.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        let ready: Vec<_> =
            state.entries.extract_if(|_, entry| matches!(entry, Entry::Ready { .. })).collect();
        state.bytes = 0;
        drop(state);
        drop(ready);
    }

    /// Changes the limit, and drops what no longer fits.
    pub fn set_limit(&self, limit: usize) {
        let mut state = self.state.lock();
        state.limit = limit;
        let evicted = state.evict(limit);
        drop(state);
        drop(evicted);
    }

    /// What the cache has done and holds.
    pub fn stats(&self) -> CacheStats {
        let state = self.state.lock();
        CacheStats {
            compiles: state.compiles,
            failures: state.failures,
            hits: state.hits,
            joins: state.joins,
            evictions: state.evictions,
            entries: state.entries.values().filter(|entry| matches!(entry, Entry::Ready { .. })).count(),
            bytes: state.bytes,
            limit: state.limit,
        }
    }
}

impl<K: Eq + Hash + Clone, V: ?Sized> State<K, V> {
    fn hit(&mut self, key: &K) -> Option<StdArc<V>> {
        self.now += 1;
        match self.entries.get_mut(key) {
            Some(Entry::Ready { value, used, .. }) => {
                *used = self.now;
                self.hits += 1;
                Some(value.clone())
            }
            _ => None,
        }
    }

    /// Takes out what must go, for the caller to drop after it let the lock go: freeing may call a driver.
    fn evict(&mut self, limit: usize) -> Vec<StdArc<V>> {
        let mut evicted = Vec::new();
        while self.bytes > limit {
            // Only the cache holds it, and only with the cache locked can that change.
            let idle = self.entries.iter().filter_map(|(key, entry)| match entry {
                Entry::Ready { value, used, .. } if StdArc::strong_count(value) == 1 => Some((*used, key)),
                _ => None,
            });
            let Some((_, key)) = idle.min_by_key(|(used, _)| *used) else {
                break;
            };
            let key = key.clone();
            if let Some(Entry::Ready { value, bytes, .. }) = self.entries.remove(&key) {
                self.bytes -= bytes;
                self.evictions += 1;
                evicted.push(value);
            }
        }
        evicted
    }
}

impl<V: ?Sized> Flight<V> {
    fn wait(&self, deadline: Deadline) -> Result<StdArc<V>> {
        loop {
            let (slice, last) = interrupt::slice(deadline);
            let mut landed = self.landed.lock();
            let mut passed = false;
            loop {
                match &*landed {
                    Some(result) => return result.clone(),
                    None if passed => break,
                    None => (landed, passed) = self.done.wait_until(landed, slice),
                }
            }
            drop(landed);
            if last || interrupt::interrupted() {
                return Err(Error::timeout(
                    "another thread's compile of the same program was not done in time",
                ));
            }
        }
    }
}

/// The duty to end a flight.
struct Landing<'a, K: Eq + Hash + Clone, V: ?Sized> {
    cache: &'a OnceCache<K, V>,
    key: &'a K,
    flight: &'a Flight<V>,
    landed: bool,
}

impl<K: Eq + Hash + Clone, V: ?Sized> Landing<'_, K, V> {
    fn land(&mut self, compiled: Result<(StdArc<V>, usize)>) -> Result<StdArc<V>> {
        self.landed = true;
        let mut evicted = Vec::new();
        let mut state = self.cache.state.lock();
        let flight = state.entries.remove(self.key);
        debug_assert!(matches!(flight, Some(Entry::Flight(_))), "a flight is ended by its own thread alone");
        let result = match compiled {
            Ok((value, bytes)) => {
                let used = state.now;
                let entry = Entry::Ready { value: value.clone(), bytes, used };
                state.entries.insert(self.key.clone(), entry);
                state.bytes += bytes;
                let limit = state.limit;
                evicted = state.evict(limit);
                Ok(value)
            }
            Err(error) => {
                state.failures += 1;
                Err(error)
            }
        };
        drop(state);
        *self.flight.landed.lock() = Some(result.clone());
        self.flight.done.notify_all();
        drop((flight, evicted));
        result
    }
}

impl<K: Eq + Hash + Clone, V: ?Sized> Drop for Landing<'_, K, V> {
    fn drop(&mut self) {
        if !self.landed {
            let _ = self.land(Err(Error::internal("the compile of this program panicked in another thread")));
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
#[path = "once_tests.rs"]
mod tests;
