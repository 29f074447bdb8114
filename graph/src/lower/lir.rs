//! The lowered graph: primitive operations on views of buffers.
//!
//! Transposes, slices, reshapes and broadcasts are no operations here: they change the [`View`] through which a buffer is read. Passes rewrite
//! this graph; the memory plan turns it into a program.

use std::sync::Arc;

use streampool_core::op::{Constant, DType, Layout, Op, Shape, TensorType};

/// Index of a buffer.
pub(crate) type BufId = u32;

/// Where a buffer's bytes come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The n-th input of the model.
    Input(u32),
    /// Frozen. `pure` if it derives from the file alone, so that it is the same for every plan.
    Constant { constant: Arc<Constant>, pure: bool },
    /// One or more nodes write it.
    Nodes,
}

/// Row-major memory for one tensor.
#[derive(Clone, Debug)]
pub(crate) struct Buf {
    pub(crate) ty: TensorType,
    pub(crate) source: Source,
}

/// A strided view of a buffer: what operations read and write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    pub(crate) buf: BufId,
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
}

impl View {
    /// All of a buffer.
    pub(crate) fn whole(buf: BufId, ty: &TensorType) -> Self {
        Self { buf, dtype: ty.dtype, layout: Layout::contiguous(ty.shape.clone()) }
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.layout.shape
    }

    pub(crate) fn rank(&self) -> usize {
        self.layout.shape.rank()
    }

    pub(crate) fn ty(&self) -> TensorType {
        TensorType { dtype: self.dtype, shape: self.layout.shape.clone() }
    }

    pub(crate) fn with(&self, layout: Layout) -> Self {
        Self { buf: self.buf, dtype: self.dtype, layout }
    }
}

/// One primitive operation.
#[derive(Clone, Debug)]
pub(crate) struct LNode {
    pub(crate) name: String,
    pub(crate) op: Op,
    pub(crate) inputs: Vec<View>,
    pub(crate) outputs: Vec<View>,
}

/// The lowered graph of one plan. Nodes are in order of execution; passes leave `None` where they took one away.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lir {
    pub(crate) bufs: Vec<Buf>,
    pub(crate) nodes: Vec<Option<LNode>>,
    pub(crate) outputs: Vec<View>,
}

impl Lir {
    pub(crate) fn add_buf(&mut self, ty: TensorType, source: Source) -> View {
        let buf = self.bufs.len() as BufId;
        let view = View::whole(buf, &ty);
        self.bufs.push(Buf { ty, source });
        view
    }

    /// The constant behind a view, if it is one.
    pub(crate) fn constant(&self, v: &View) -> Option<&Arc<Constant>> {
        match &self.bufs[v.buf as usize].source {
            Source::Constant { constant, .. } => Some(constant),
            _ => None,
        }
    }

    pub(crate) fn is_pure(&self, v: &View) -> bool {
        matches!(self.bufs[v.buf as usize].source, Source::Constant { pure: true, .. })
    }

    /// Whether the view covers its whole buffer in row-major order (under any shape).
    pub(crate) fn is_whole(&self, v: &View) -> bool {
        v.layout.offset == 0
            && v.layout.is_contiguous()
            && v.shape().len() == self.bufs[v.buf as usize].ty.shape.len()
    }

    /// Nodes that are left.
    pub(crate) fn live(&self) -> impl Iterator<Item = (usize, &LNode)> {
        self.nodes.iter().enumerate().filter_map(|(i, n)| n.as_ref().map(|n| (i, n)))
    }
}

/// Who writes and who reads each buffer, for passes.
#[derive(Debug)]
pub(crate) struct Uses {
    /// Node that writes the buffer; `None` if several or none.
    pub(crate) writer: Vec<Option<usize>>,
    /// Nodes that read it, each once, ascending.
    pub(crate) readers: Vec<Vec<usize>>,
    /// Whether a graph output reads it.
    pub(crate) is_output: Vec<bool>,
}

impl Uses {
    pub(crate) fn of(lir: &Lir) -> Self {
        let n = lir.bufs.len();
        let mut uses =
            Self { writer: vec![None; n], readers: vec![Vec::new(); n], is_output: vec![false; n] };
        let mut several = vec![false; n];
        for (i, node) in lir.live() {
            for o in &node.outputs {
                let b = o.buf as usize;
                several[b] |= uses.writer[b].is_some();
                uses.writer[b] = if several[b] { None } else { Some(i) };
            }
            for v in &node.inputs {
                let readers = &mut uses.readers[v.buf as usize];
                if readers.last() != Some(&i) {
                    readers.push(i);
                }
            }
        }
        for o in &lir.outputs {
            uses.is_output[o.buf as usize] = true;
        }
        uses
    }

    /// The one node that reads what `buf` holds, if nothing else does.
    pub(crate) fn only_reader(&self, buf: BufId) -> Option<usize> {
        match (self.readers[buf as usize].as_slice(), self.is_output[buf as usize]) {
            ([one], false) => Some(*one),
            _ => None,
        }
    }
}
