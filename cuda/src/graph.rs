//! Programs as CUDA graphs: one launch instead of one a kernel.
//!
//! A graph is made for a program *and* the addresses that it was launched on. A stream that runs one program again and again gets the same blocks
//! from its cache again and again, so a few graphs serve; nothing is copied to fixed places and no parameter is updated. A set of addresses earns its
//! graph when it comes a second time.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use cudarc::driver::sys;
use smallvec::SmallVec;

use crate::context::Context;
use crate::program::CudaExecutable;

/// Graphs that a queue keeps for one program, and for all.
const PER_PROGRAM: usize = 16;
const PROGRAMS: usize = 64;

/// Addresses of inputs, outputs and arena, and which form of its kernels is meant.
pub(crate) type Addresses = SmallVec<[u64; 8]>;

/// An instantiated graph; destroyed when dropped.
pub(crate) struct Graph {
    context: Arc<Context>,
    pub(crate) raw: sys::CUgraphExec,
}

// SAFETY: a handle that one queue owns and uses on one thread at a time.
unsafe impl Send for Graph {}

impl Graph {
    pub(crate) fn new(context: &Arc<Context>, raw: sys::CUgraphExec) -> Self {
        Self { context: context.clone(), raw }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: instantiated once, destroyed once. The driver lets a launch that is under way end first.
            let _ = unsafe { sys::cuGraphExecDestroy(self.raw) };
        }
    }
}

/// What a queue knows of one program.
struct Known {
    program: Weak<CudaExecutable>,
    /// Most recently used last.
    graphs: Vec<(Addresses, Graph)>,
    /// Addresses that came once, oldest first.
    seen: Vec<Addresses>,
    used: u64,
}

/// The graphs of a queue.
#[derive(Default)]
pub(crate) struct Graphs {
    known: HashMap<u64, Known>,
    now: u64,
}

/// What to do with a launch.
pub(crate) enum Way {
    /// Launch this graph.
    Graph(sys::CUgraphExec),
    /// Capture one: these addresses come again.
    Capture,
    /// Submit step by step.
    Plain,
}

impl Graphs {
    pub(crate) fn way(&mut self, program: &Arc<CudaExecutable>, addresses: &Addresses) -> Way {
        self.now += 1;
        if !self.known.contains_key(&program.id) {
            self.make_room();
        }
        let known = self.known.entry(program.id).or_insert_with(|| Known {
            program: Arc::downgrade(program),
            graphs: Vec::new(),
            seen: Vec::new(),
            used: 0,
        });
        known.used = self.now;
        if let Some(i) = known.graphs.iter().rposition(|(a, _)| a == addresses) {
            if i + 1 < known.graphs.len() {
                let found = known.graphs.remove(i);
                known.graphs.push(found);
            }
            return known.graphs.last().map_or(Way::Plain, |(_, g)| Way::Graph(g.raw));
        }
        if let Some(i) = known.seen.iter().position(|a| a == addresses) {
            known.seen.remove(i);
            return Way::Capture;
        }
        if known.seen.len() >= 2 * PER_PROGRAM {
            known.seen.remove(0);
        }
        known.seen.push(addresses.clone());
        Way::Plain
    }

    /// Keeps a graph; the least recently used one of the program goes if there are too many.
    pub(crate) fn insert(&mut self, program: &Arc<CudaExecutable>, addresses: Addresses, graph: Graph) {
        if let Some(known) = self.known.get_mut(&program.id) {
            if known.graphs.len() >= PER_PROGRAM {
                known.graphs.remove(0);
            }
            known.graphs.push((addresses, graph));
        }
    }

    /// Lets go of programs that are no more, then of the least recently used one if there are too many.
    fn make_room(&mut self) {
        self.known.retain(|_, k| k.program.strong_count() > 0);
        if self.known.len() >= PROGRAMS
            && let Some(oldest) = self.known.iter().min_by_key(|(_, k)| k.used).map(|(&id, _)| id)
        {
            self.known.remove(&oldest);
        }
    }

    /// Lets go of all: their workspace moves.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }
}
