//! Compiled programs of eager operations, shared by all streams of a device.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use streampool_core::driver::Executable;
use streampool_core::once::OnceCache;
use streampool_core::op::{DType, Layout, Op};
use streampool_core::sync::Deadline;

use crate::Result;

/// Bytes of programs that a device keeps.
const BYTES: usize = 64 << 20;

/// How long a call waits for a program that another thread compiles.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program was compiled for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ProgramKey {
    pub(crate) recipe: Recipe,
    pub(crate) args: SmallVec<[OperandKey; 3]>,
}

/// What a program does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Recipe {
    /// One operation.
    Op(Op),
    /// Joins its operands along an axis.
    Concat(usize),
}

/// What an operand looks like.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum OperandKey {
    /// A bound tensor, its layout counted from its lowest element.
    Tensor(DType, Layout),
    /// A frozen weight, by identity.
    Constant(u64),
    /// A frozen matrix, read transposed.
    Transposed(u64),
}

/// The device's programs: one compile per key, however many threads ask.
pub(crate) struct Programs {
    cache: OnceCache<ProgramKey, dyn Executable>,
}

impl Programs {
    pub(crate) fn new() -> Self {
        Self { cache: OnceCache::new(BYTES) }
    }

    /// The program for `key`, compiled by `compile` if nobody did.
    pub(crate) fn get_or_compile(
        &self,
        key: &ProgramKey,
        compile: impl FnOnce() -> Result<Arc<dyn Executable>>,
    ) -> Result<Arc<dyn Executable>> {
        self.cache.get_or_compile(key, Deadline::after(PATIENCE), || {
            let program = compile()?;
            let bytes = program.bytes();
            Ok((program, bytes))
        })
    }

    pub(crate) fn compile_count(&self) -> u64 {
        self.cache.stats().compiles
    }

    pub(crate) fn clear(&self) {
        self.cache.clear();
    }
}
