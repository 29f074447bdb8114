//! Matrix products by cuBLASLt: an algorithm per shape, chosen once (in half widths and TF32 by timing a few), with bias and activation in the same call.

mod choose;
mod describe;

pub(crate) use describe::Gemm;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cudarc::cublaslt::{result as lt, sys};
use smallvec::SmallVec;
use streampool_core::op::{Activation, DType, Layout, MatMul, Operand};
use streampool_core::{Error, Result};

use crate::context::Context;

/// Most bytes of workspace that an algorithm may take: each stream that runs it has that much.
const WORKSPACE: usize = 8 << 20;

/// Algorithms that are timed.
const CANDIDATES: usize = 8;

/// How much an algorithm's share of the card counts beside its time: `time * share^CROWDING` is least for the chosen one. At 0 the quickest alone
/// wins, which spreads a small product over the whole card and leaves nothing for other streams: measured with MiniLM (batch 1, 128 tokens)
/// on an H100, 0.2 costs one thread about a tenth and gives 16 threads 1.7 times as much.
const CROWDING: f32 = 0.2;

/// Products of more batch entries than this that no stride describes are left to our own kernel.
const MOST_CALLS: usize = 64;

/// What an algorithm is chosen for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Shape {
    dtype: DType,
    tf32: bool,
    m: usize,
    n: usize,
    k: usize,
    /// Whether the factor is read transposed, and the distance of its rows (columns).
    a: (bool, usize),
    b: (bool, usize),
    batch: usize,
    steps: [usize; 2],
    /// From one result of a batch to the next, and from one bias.
    out_step: usize,
    bias_step: usize,
    relu: bool,
    gelu: bool,
    bias: bool,
    residual: bool,
    /// Bytes that the factors' addresses are multiples of.
    alignment: [u32; 2],
}

/// cuBLASLt on a device.
pub(crate) struct Blas {
    context: Arc<Context>,
    handle: sys::cublasLtHandle_t,
    chosen: Mutex<HashMap<Shape, Chosen>>,
    /// One timing at a time.
    timing: Mutex<()>,
}

// SAFETY: cuBLASLt's handle may be used by any thread at once.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

#[derive(Clone, Copy)]
struct Chosen {
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
    /// How much of the card it takes: 1 is all of it, once.
    waves: f32,
}

/// Which parts of what follows a product cuBLASLt does itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fused {
    pub(crate) bias: bool,
    pub(crate) residual: bool,
    pub(crate) activation: bool,
}

fn failed(what: &str, e: lt::CublasError) -> Error {
    Error::internal(format!("cuda: cuBLASLt {what}: {e:?}; please report this"))
}

impl Blas {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self> {
        context.enter()?;
        let handle = lt::create_handle().map_err(|e| failed("does not start", e))?;
        Ok(Self { context: context.clone(), handle, chosen: Mutex::default(), timing: Mutex::default() })
    }

    /// A plan for `op`, with the address of its bias if that is one dense row that never moves. `None` if no strides describe it.
    ///
    /// `aligned` tells what the address of an operand's first byte is a multiple of.
    pub(crate) fn plan(
        &self,
        op: &MatMul,
        inputs: &[Operand],
        output: &Operand,
        tf32: bool,
        bias: Option<u64>,
        aligned: impl Fn(&Operand) -> u32,
    ) -> Result<Option<(Gemm, Fused)>> {
        let dtype = output.dtype;
        let (a, b, y) = (&inputs[0].layout, &inputs[1].layout, &output.layout.shape);
        let rank = y.rank();
        let (mut m, n, k) = (y[rank - 2], y[rank - 1], a.shape[a.shape.rank() - 1]);
        if !dtype.is_float() || k == 0 {
            return Ok(None);
        }
        let Some((at, lda)) = orientation(a, m, k) else { return Ok(None) };
        let Some((bt, ldb)) = orientation(b, k, n) else { return Ok(None) };
        // Leading axes: into rows if one weight serves all; else a stride; else several calls.
        let mut axes: Vec<(usize, [isize; 3])> = Vec::new();
        let mut out = (m * n) as isize;
        let lead = &y[..rank - 2];
        let (sa, sb) = (leading(a, lead), leading(b, lead));
        for i in (0..lead.len()).rev() {
            if lead[i] != 1 {
                let steps = [sa[i], sb[i], out];
                match axes.last_mut() {
                    Some((d, inner)) if (0..3).all(|x| steps[x] == inner[x] * *d as isize) => *d *= lead[i],
                    _ => axes.push((lead[i], steps)),
                }
            }
            out *= lead[i] as isize;
        }
        let mut lda = lda;
        if let [(d, [step, 0, _])] = axes[..]
            && !at
        {
            // The rows of all entries follow one another.
            let ld = if m == 1 { step } else { lda as isize };
            if step == m as isize * ld && ld >= k as isize {
                (m, lda) = (m * d, ld as usize);
                axes.clear();
            }
        }
        self.finish(op, inputs, output, tf32, bias, aligned, (m, n, k), (at, lda), (bt, ldb), &axes)
    }

    #[allow(clippy::too_many_arguments)]
    fn finish(
        &self,
        op: &MatMul,
        inputs: &[Operand],
        output: &Operand,
        tf32: bool,
        bias: Option<u64>,
        aligned: impl Fn(&Operand) -> u32,
        (m, n, k): (usize, usize, usize),
        a: (bool, usize),
        b: (bool, usize),
        axes: &[(usize, [isize; 3])],
    ) -> Result<Option<(Gemm, Fused)>> {
        // The innermost leading axis is the batch.
        let (batch, steps) = match axes.first() {
            Some(&(d, s)) if s[0] >= 0 && s[1] >= 0 => (d, s),
            Some(_) => return Ok(None),
            None => (1, [0, 0, (m * n) as isize]),
        };
        let calls: usize = axes.iter().skip(1).map(|x| x.0).product();
        if calls > MOST_CALLS || m > i32::MAX as usize || n > i32::MAX as usize || k > i32::MAX as usize {
            return Ok(None);
        }
        let dtype = output.dtype;
        let several = axes.len() > 1;
        let residual = op.residual && !several;
        let last = inputs.last().expect("two at least");
        if op.residual && !last.layout.is_contiguous() {
            return Ok(None);
        }
        // cuBLASLt adds bias after the residual and before the activation, as the operation says; a part it does not do leaves all later ones to us.
        let row = op.bias
            && inputs[2].layout.shape.len() == n
            && inputs[2].layout.shape.last() == Some(&n)
            && inputs[2].layout.is_contiguous();
        let fuse_bias = row && bias.is_some() && (residual || !op.residual) && dtype != DType::F64;
        let tail_done = (fuse_bias || !op.bias) && (residual || !op.residual);
        let relu = tail_done && op.activation == Some(Activation::Relu) && dtype != DType::F64;
        let gelu = tail_done && op.activation == Some(Activation::GeluTanh) && dtype != DType::F64;
        let fused = Fused { bias: fuse_bias, residual, activation: relu || gelu };
        let mut alignment = [aligned(&inputs[0]), aligned(&inputs[1])];
        let size = dtype.size();
        // Later entries of a batch lie at multiples of the step.
        for (i, align) in alignment.iter_mut().enumerate() {
            for axis in axes {
                while !(axis.1[i].unsigned_abs() * size).is_multiple_of(*align as usize) {
                    *align /= 2;
                }
            }
        }
        let shape = Shape {
            dtype,
            tf32: tf32 && dtype == DType::F32,
            m,
            n,
            k,
            a,
            b,
            batch,
            steps: [steps[0] as usize, steps[1] as usize],
            out_step: m * n,
            bias_step: 0,
            relu,
            gelu,
            bias: fuse_bias,
            residual,
            alignment,
        };
        let mut gemm = self.describe(&shape, f64::from(op.alpha.get()), bias)?;
        let Some(chosen) = self.choose(&shape, &gemm)? else { return Ok(None) };
        gemm.chosen = chosen;
        gemm.calls = vec![[0; 3]];
        for &(d, s) in axes.iter().skip(1) {
            gemm.calls = (0..d as isize)
                .flat_map(|i| {
                    gemm.calls.iter().map(move |c| [c[0] + i * s[0], c[1] + i * s[1], c[2] + i * s[2]])
                })
                .collect();
        }
        gemm.what = format!(
            "cuBLASLt {m}x{n}x{k}{}{}{}{}{}",
            if batch > 1 { format!(" batch {batch}") } else { String::new() },
            if shape.tf32 { " tf32" } else { "" },
            if fused.bias { " + bias" } else { "" },
            if fused.residual { " + residual" } else { "" },
            if relu {
                " + relu"
            } else if gelu {
                " + gelu"
            } else {
                ""
            },
        );
        Ok(Some((gemm, fused)))
    }

    /// Several products of one left factor with weights that lie one behind the other, as one batch: what asks for queries, keys and values.
    /// `a` is dense, of `rows` rows; `b` is the first weight; `out_step` elements lie between results. `None` if cuBLASLt has no way.
    pub(crate) fn siblings(
        &self,
        count: usize,
        rows: usize,
        (b, dtype): (&Layout, DType),
        tf32: bool,
        bias: Option<u64>,
        out_step: usize,
    ) -> Result<Option<Gemm>> {
        let (k, n) = (b.shape[0], b.shape[1]);
        let Some(b) = orientation(b, k, n) else { return Ok(None) };
        let shape = Shape {
            dtype,
            tf32: tf32 && dtype == DType::F32,
            m: rows,
            n,
            k,
            a: (false, k),
            b,
            batch: count,
            steps: [0, k * n],
            out_step,
            bias_step: if bias.is_some() { n } else { 0 },
            relu: false,
            gelu: false,
            bias: bias.is_some(),
            residual: false,
            alignment: [16, 16],
        };
        let mut gemm = self.describe(&shape, 1.0, bias)?;
        let Some(chosen) = self.choose(&shape, &gemm)? else { return Ok(None) };
        gemm.chosen = chosen;
        gemm.calls = vec![[0; 3]];
        gemm.what = format!(
            "cuBLASLt {rows}x{n}x{k}, {count} weights at once{}",
            if bias.is_some() { " + bias" } else { "" }
        );
        Ok(Some(gemm))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made in `new`, destroyed once, after the programs that use it.
            let _ = unsafe { lt::destroy_handle(self.handle) };
        }
    }
}

/// Whether a matrix (its last two axes) is read transposed, and its leading dimension; `None` if neither axis is dense.
fn orientation(l: &Layout, rows: usize, columns: usize) -> Option<(bool, usize)> {
    let r = l.shape.rank();
    let (sr, sc) = (l.strides[r - 2], l.strides[r - 1]);
    // Axes of length 1 may have any stride.
    if (sc == 1 || columns == 1) && (rows == 1 || sr >= columns as isize) {
        return Some((false, if rows == 1 { columns } else { sr as usize }));
    }
    if (sr == 1 || rows == 1) && (columns == 1 || sc >= rows as isize) {
        return Some((true, if columns == 1 { rows } else { sc as usize }));
    }
    None
}

/// Strides of the leading axes broadcast to `lead`.
fn leading(l: &Layout, lead: &[usize]) -> SmallVec<[isize; 6]> {
    let r = l.shape.rank() - 2;
    (0..lead.len())
        .map(|i| match (i + r).checked_sub(lead.len()) {
            Some(j) if l.shape[j] != 1 || lead[i] == 1 => l.strides[j],
            _ => 0,
        })
        .collect()
}
