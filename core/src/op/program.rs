//! What a driver compiles: operations in order, and where their operands live.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{DType, Layout, Op, TensorType};

/// Where mapped bytes come from, and can be had again.
pub trait Pages: std::fmt::Debug + Send + Sync {
    /// Lets go of the physical memory behind `data`, which stays readable: a later look brings it back. Does nothing with bytes that
    /// are not its own.
    fn release(&self, data: &[u8]);
}

/// Frozen bytes: a weight. Shared by all programs and streams; never written, never tracked.
#[derive(Debug)]
pub struct Constant {
    id: u64,
    ty: TensorType,
    data: Bytes,
    pages: Option<Arc<dyn Pages>>,
}

impl Constant {
    /// Row-major little-endian `data` of type `ty`. The bytes may be unaligned (a slice of a mapped file).
    ///
    /// # Panics
    /// If the length does not fit the type.
    pub fn new(ty: TensorType, data: Bytes) -> Arc<Self> {
        Self::make(ty, data, None)
    }

    /// The same with bytes that `pages` can let go of once a driver has its own form of them.
    ///
    /// # Panics
    /// As [`Constant::new`].
    pub fn mapped(ty: TensorType, data: Bytes, pages: Arc<dyn Pages>) -> Arc<Self> {
        Self::make(ty, data, Some(pages))
    }

    fn make(ty: TensorType, data: Bytes, pages: Option<Arc<dyn Pages>>) -> Arc<Self> {
        assert_eq!(ty.bytes(), data.len(), "a constant of type {ty} has {} bytes", data.len());
        // Taken at load time only, never on the hot path.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), ty, data, pages })
    }

    /// Unique in this process: the key under which a driver keeps its uploaded and packed forms.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Dtype and shape.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The bytes, row-major, little endian, possibly unaligned.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// For a driver that made its own form of the bytes: without this they would be in memory twice while a model loads.
    pub fn release_pages(&self) {
        if let Some(pages) = &self.pages {
            pages.release(&self.data);
        }
    }
}

/// What a caller binds: the least number of bytes from the bound address on, and the dtype that aligns it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// Element type.
    pub dtype: DType,
    /// Bytes that the program may touch.
    pub bytes: usize,
}

/// Which memory an operand lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The n-th bound input (read only).
    Input(u32),
    /// The n-th bound output.
    Output(u32),
    /// The n-th constant (read only).
    Constant(u32),
    /// The stream's arena, from this byte on (a multiple of [`crate::driver::ALIGNMENT`]).
    Arena(usize),
}

/// A view of some memory that an operation reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// The memory.
    pub place: Place,
    /// Element type.
    pub dtype: DType,
    /// Shape, strides and offset (in elements from the place's first byte).
    pub layout: Layout,
}

impl Operand {
    /// Its dtype and shape.
    pub fn ty(&self) -> TensorType {
        TensorType { dtype: self.dtype, shape: self.layout.shape.clone() }
    }
}

/// One operation on its operands.
#[derive(Clone, Debug)]
pub struct Step {
    /// For people and errors: the node or call it comes from.
    pub name: String,
    /// What to do.
    pub op: Op,
    /// What it reads. Strided only where [`Op::takes_strided_input`] says so, else contiguous.
    pub inputs: Vec<Operand>,
    /// What it writes: never overlapping its inputs, except in place as [`Op::in_place`] allows. Contiguous, but for
    /// [`Op::Copy`] and [`Op::Fill`], whose output may be strided (a region of a larger tensor).
    pub outputs: Vec<Operand>,
}

/// What a driver compiles.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// For people and errors.
    pub name: String,
    /// What the caller binds to be read.
    pub inputs: Vec<Port>,
    /// What the caller binds to be written.
    pub outputs: Vec<Port>,
    /// Weights.
    pub constants: Vec<Arc<Constant>>,
    /// Bytes of scratch memory that steps share.
    pub arena_bytes: usize,
    /// In order of execution.
    pub steps: Vec<Step>,
}
