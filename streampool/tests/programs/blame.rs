//! Which error may reach whom: an error belongs to the call that caused it, never to the next unrelated one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use streampool::Error;

/// The calls that a value comes from.
pub(crate) type Deps = Arc<BTreeSet<u64>>;

/// What was injected so far, and what was seen of it. Shared by all workers.
#[derive(Default)]
pub(crate) struct Blame {
    pub(crate) submissions: BTreeSet<u64>,
    pub(crate) executions: BTreeSet<u64>,
    pub(crate) compiles: BTreeSet<u64>,
    pub(crate) allocations: BTreeSet<u64>,
    /// Whether the budget was made small.
    pub(crate) limited: bool,
    pub(crate) lost: bool,
    pub(crate) closed: bool,
    /// Whether several threads run: then one failed compile may reach several that waited for it.
    threads: bool,
    seen: BTreeSet<(&'static str, u64)>,
    /// Calls whose work is proven to have succeeded.
    good: BTreeSet<u64>,
    /// For each failed execution, the calls that can have caused all the failures seen of it.
    suspects: BTreeMap<u64, BTreeSet<u64>>,
}

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call<'a> {
    /// Allocates, compiles, submits.
    Submit,
    /// Reads a value: meets the failures of the work that it comes from.
    Read(&'a Deps),
    /// Waits for whatever is last on a stream.
    Wait,
    /// Takes a stream and does nothing with it.
    Acquire,
}

/// What the programs of a suite met, so that a suite that exercises nothing fails.
#[derive(Default)]
pub(crate) struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    pub(crate) fn count(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// All of `expected` happened.
    pub(crate) fn expect(&self, suite: &str, programs: u32, expected: &[&str]) {
        let counts = self.0.lock().unwrap();
        let met: Vec<String> = counts.iter().map(|(what, n)| format!("{n} x {what}")).collect();
        eprintln!("{suite}: {programs} programs, {}", met.join(", "));
        for what in expected {
            assert!(
                counts.contains_key(what),
                "{suite}: not one '{what}' in {programs} programs: {counts:?}"
            );
        }
    }
}

impl Blame {
    pub(crate) fn new(threads: bool) -> Self {
        Self { threads, ..Self::default() }
    }

    /// A value was read and is right: all that it comes from succeeded.
    pub(crate) fn succeeded(&mut self, deps: &Deps) {
        self.good.extend(deps.iter());
        self.check();
    }

    /// Panics if `error` is none that this call may meet. `exhausted`: whether there is no stream to have.
    pub(crate) fn accept(&mut self, call: Call<'_>, error: &Error, exhausted: bool) -> &'static str {
        let text = error.to_string();
        if error.is_shut_down() {
            assert!(self.closed, "shut down, but nobody closed it: {text}");
            "shut down"
        } else if error.is_device_lost() {
            assert!(self.lost, "lost, but nobody lost it: {text}");
            "device lost"
        } else if error.is_pool_exhausted() {
            assert!(exhausted, "there is a stream: {text}");
            "pool exhausted"
        } else if error.is_out_of_memory() {
            assert!(call == Call::Submit, "a call that needs no memory: {text}");
            assert!(self.limited || !self.allocations.is_empty(), "INV-8: there is memory: {text}");
            "out of memory"
        } else if let Some(n) = injected(&text, "submission") {
            assert!(call == Call::Submit && self.submissions.contains(&n), "{text}");
            assert!(self.seen.insert(("submission", n)), "one refusal, one call: {text}");
            "refused submission"
        } else if let Some(n) = injected(&text, "compile") {
            assert!(call == Call::Submit && self.compiles.contains(&n), "{text}");
            assert!(self.threads || self.seen.insert(("compile", n)), "INV-9: one failure, one call: {text}");
            "failed compile"
        } else if let Some(n) = injected(&text, "execution") {
            assert!(self.executions.contains(&n), "{text}");
            match call {
                Call::Read(deps) => {
                    let suspects = self.suspects.entry(n).or_insert_with(|| (**deps).clone());
                    suspects.retain(|op| deps.contains(op));
                    self.check();
                }
                Call::Wait => {}
                Call::Submit | Call::Acquire => panic!("a failure of earlier work met another call: {text}"),
            }
            "failed execution"
        } else {
            panic!("no call may meet this: {text}");
        }
    }

    /// Each failed execution has a call that explains all failures seen of it, and nothing that succeeded.
    fn check(&self) {
        for (n, suspects) in &self.suspects {
            assert!(
                suspects.iter().any(|op| !self.good.contains(op)),
                "the failure of execution {n} reached values that have no failed call in common"
            );
        }
    }
}

/// The number of an injected fault of this kind.
fn injected(text: &str, kind: &str) -> Option<u64> {
    let start = format!("injected fault: {kind} ");
    let rest = &text[text.find(&start)? + start.len()..];
    rest.split(' ').next()?.parse().ok()
}
