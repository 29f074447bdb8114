//! Matrix products by cuBLASLt: an algorithm per shape, chosen once by timing a few, with bias and activation in the same call.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::sys as cu;
use smallvec::SmallVec;
use streampool_core::op::{Activation, DType, Layout, MatMul, Operand};
use streampool_core::{Error, Result};

use crate::context::Context;
use crate::library::check;
use crate::memory::DeviceMemory;

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

/// A product ready to run. Immutable.
pub(crate) struct Gemm {
    handle: sys::cublasLtHandle_t,
    description: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    chosen: Chosen,
    alpha: f64,
    dtype: DType,
    residual: bool,
    /// Element offsets of the calls beyond what a batch describes: of a, b, output.
    pub(crate) calls: Vec<[isize; 3]>,
    pub(crate) what: String,
}

// SAFETY: descriptions are only read after `new`.
unsafe impl Send for Gemm {}
// SAFETY: as above.
unsafe impl Sync for Gemm {}

impl Drop for Gemm {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        unsafe {
            let _ = lt::destroy_matmul_desc(self.description);
            for layout in self.layouts {
                let _ = lt::destroy_matrix_layout(layout);
            }
        }
    }
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
        let found = self.chosen.lock().unwrap_or_else(PoisonError::into_inner).get(&shape).copied();
        gemm.chosen = match found {
            Some(chosen) => chosen,
            None => {
                let Some(chosen) = self.choose(&shape, &gemm)? else { return Ok(None) };
                self.chosen.lock().unwrap_or_else(PoisonError::into_inner).insert(shape.clone(), chosen);
                chosen
            }
        };
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
        let found = self.chosen.lock().unwrap_or_else(PoisonError::into_inner).get(&shape).copied();
        gemm.chosen = match found {
            Some(chosen) => chosen,
            None => {
                let Some(chosen) = self.choose(&shape, &gemm)? else { return Ok(None) };
                self.chosen.lock().unwrap_or_else(PoisonError::into_inner).insert(shape, chosen);
                chosen
            }
        };
        gemm.calls = vec![[0; 3]];
        gemm.what = format!(
            "cuBLASLt {rows}x{n}x{k}, {count} weights at once{}",
            if bias.is_some() { " + bias" } else { "" }
        );
        Ok(Some(gemm))
    }

    fn describe(&self, s: &Shape, alpha: f64, bias: Option<u64>) -> Result<Gemm> {
        use sys::cublasComputeType_t as C;
        use sys::cudaDataType as T;
        let (compute, scale, ty) = match s.dtype {
            DType::F32 if s.tf32 => (C::CUBLAS_COMPUTE_32F_FAST_TF32, T::CUDA_R_32F, T::CUDA_R_32F),
            DType::F32 => (C::CUBLAS_COMPUTE_32F, T::CUDA_R_32F, T::CUDA_R_32F),
            DType::F16 => (C::CUBLAS_COMPUTE_32F, T::CUDA_R_32F, T::CUDA_R_16F),
            DType::BF16 => (C::CUBLAS_COMPUTE_32F, T::CUDA_R_32F, T::CUDA_R_16BF),
            _ => (C::CUBLAS_COMPUTE_64F, T::CUDA_R_64F, T::CUDA_R_64F),
        };
        let description =
            lt::create_matmul_desc(compute, scale).map_err(|e| failed("describes no product", e))?;
        // Row-major y = a b is column-major y^T = b^T a^T: our b is its first factor.
        let first = if s.b.0 { (s.k, s.n) } else { (s.n, s.k) };
        let second = if s.a.0 { (s.m, s.k) } else { (s.k, s.m) };
        let layout = |(rows, columns): (usize, usize), ld: usize, step: usize| {
            let layout = lt::create_matrix_layout(ty, rows as u64, columns as u64, ld as i64)?;
            let (count, step) = (s.batch as i32, step as i64);
            use sys::cublasLtMatrixLayoutAttribute_t as A;
            // SAFETY: the layout lives, and the values have the attributes' sizes.
            unsafe {
                let at: *const c_void = (&raw const count).cast();
                lt::set_matrix_layout_attribute(layout, A::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, at, 4)?;
                let at: *const c_void = (&raw const step).cast();
                lt::set_matrix_layout_attribute(
                    layout,
                    A::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                    at,
                    8,
                )?;
            }
            Ok(layout)
        };
        let made = |e| failed("describes no matrix", e);
        let layouts = [
            layout(first, s.b.1, s.steps[1]).map_err(made)?,
            layout(second, s.a.1, s.steps[0]).map_err(made)?,
            layout((s.n, s.m), s.n, s.out_step).map_err(made)?,
        ];
        let gemm = Gemm {
            handle: self.handle,
            description,
            layouts,
            chosen: Chosen {
                algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
                workspace: 0,
                waves: 1.0,
            },
            alpha,
            dtype: s.dtype,
            residual: s.residual,
            calls: Vec::new(),
            what: String::new(),
        };
        use sys::cublasLtEpilogue_t as E;
        use sys::cublasLtMatmulDescAttributes_t as A;
        let epilogue = match (s.bias, s.relu, s.gelu) {
            (false, false, false) => E::CUBLASLT_EPILOGUE_DEFAULT,
            (true, false, false) => E::CUBLASLT_EPILOGUE_BIAS,
            (false, true, _) => E::CUBLASLT_EPILOGUE_RELU,
            (true, true, _) => E::CUBLASLT_EPILOGUE_RELU_BIAS,
            (false, _, true) => E::CUBLASLT_EPILOGUE_GELU,
            (true, _, true) => E::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        let set = |attribute, at: *const c_void, bytes| {
            // SAFETY: the description lives, and each value below has its attribute's size.
            unsafe { lt::set_matmul_desc_attribute(description, attribute, at, bytes) }
                .map_err(|e| failed("refuses an attribute", e))
        };
        let (ta, tb) = (i32::from(s.b.0), i32::from(s.a.0));
        set(A::CUBLASLT_MATMUL_DESC_TRANSA, (&raw const ta).cast(), 4)?;
        set(A::CUBLASLT_MATMUL_DESC_TRANSB, (&raw const tb).cast(), 4)?;
        set(A::CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const epilogue).cast(), 4)?;
        if let (true, Some(address)) = (s.bias, bias) {
            set(A::CUBLASLT_MATMUL_DESC_BIAS_POINTER, (&raw const address).cast(), 8)?;
            let step = s.bias_step as i64;
            if step > 0 {
                set(A::CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, (&raw const step).cast(), 8)?;
            }
        }
        Ok(gemm)
    }

    /// The fastest of the algorithms that cuBLASLt proposes, by running them on memory of the same extents. `None` if there is none.
    fn choose(&self, s: &Shape, gemm: &Gemm) -> Result<Option<Chosen>> {
        let _one = self.timing.lock().unwrap_or_else(PoisonError::into_inner);
        self.context.enter()?;
        let preference = lt::create_matmul_pref().map_err(|e| failed("takes no preference", e))?;
        use sys::cublasLtMatmulPreferenceAttributes_t as A;
        let empty = sys::cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_INITIALIZED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut found = [empty; CANDIDATES];
        let mut count = 0;
        let workspace = WORKSPACE;
        let out_alignment = 16u32;
        let [d_first, d_second, d_out] = gemm.layouts;
        // SAFETY: all descriptions live; values have their attributes' sizes; `found` has room for the results asked for.
        let status = unsafe {
            let set = |attribute, at: *const c_void, bytes| {
                let _ = lt::set_matmul_pref_attribute(preference, attribute, at, bytes);
            };
            set(A::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), 8);
            set(A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (&raw const s.alignment[1]).cast(), 4);
            set(A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (&raw const s.alignment[0]).cast(), 4);
            set(A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (&raw const out_alignment).cast(), 4);
            set(A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (&raw const out_alignment).cast(), 4);
            let status = sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                gemm.description,
                d_first,
                d_second,
                d_out,
                d_out,
                preference,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &mut count,
            );
            let _ = lt::destroy_matmul_pref(preference);
            status
        };
        if status != sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
            return Ok(None);
        }
        let good: Vec<Chosen> = found[..count.max(0) as usize]
            .iter()
            .filter(|r| r.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && r.workspaceSize <= WORKSPACE)
            .map(|r| Chosen { algorithm: r.algo, workspace: r.workspaceSize, waves: r.wavesCount })
            .collect();
        if good.len() < 2 {
            return Ok(good.first().copied());
        }
        // Timing needs room; without it the first proposal is good enough.
        Ok(Some(self.fastest(s, gemm, &good).unwrap_or(good[0])))
    }

    fn fastest(&self, s: &Shape, gemm: &Gemm, candidates: &[Chosen]) -> Result<Chosen> {
        let size = s.dtype.size();
        let extent = |rows: usize, ld: usize, step: usize| (rows * ld + (s.batch - 1) * step) * size + 256;
        let a = DeviceMemory::new(&self.context, extent(if s.a.0 { s.k } else { s.m }, s.a.1, s.steps[0]))?;
        let b = DeviceMemory::new(&self.context, extent(if s.b.0 { s.n } else { s.k }, s.b.1, s.steps[1]))?;
        let y = DeviceMemory::new(&self.context, extent(s.m, s.n, s.out_step))?;
        let workspace = DeviceMemory::new(&self.context, WORKSPACE)?;
        let mut stream: cu::CUstream = std::ptr::null_mut();
        let mut events: [cu::CUevent; 2] = [std::ptr::null_mut(); 2];
        // SAFETY: handles are made here, used on this thread and destroyed below; memory has the extents that the layouts describe, and lives.
        unsafe {
            check(
                "making a stream",
                cu::cuStreamCreate(&mut stream, cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32),
            )?;
            for event in &mut events {
                check("making an event", cu::cuEventCreate(event, 0))?;
            }
            // Not denormal, not NaN: small numbers of both kinds.
            for memory in [&a, &b, &y] {
                cu::cuMemsetD32Async(memory.address(), 0x3c01_3c01, memory.bytes() / 4, stream);
            }
            let mut best = (f32::INFINITY, candidates[0]);
            for &candidate in candidates {
                let mut least = f32::INFINITY;
                let mut fine = true;
                for round in 0..4 {
                    let calls = if round == 0 { 1 } else { 8 };
                    cu::cuEventRecord(events[0], stream);
                    for _ in 0..calls {
                        fine &= gemm
                            .call(
                                candidate,
                                [a.address(), b.address(), y.address()],
                                y.address(),
                                workspace.address(),
                                stream,
                            )
                            .is_ok();
                    }
                    cu::cuEventRecord(events[1], stream);
                    fine &= cu::cuEventSynchronize(events[1]) == cu::CUresult::CUDA_SUCCESS;
                    let mut ms = f32::INFINITY;
                    cu::cuEventElapsedTime_v2(&mut ms, events[0], events[1]);
                    if round > 0 {
                        least = least.min(ms);
                    }
                }
                // A later proposal must be clearly faster, so that noise does not choose.
                let cost = least * candidate.waves.clamp(0.02, 1.0).powf(CROWDING);
                if fine && cost < best.0 * 0.97 {
                    best = (cost, candidate);
                }
            }
            for event in events {
                cu::cuEventDestroy_v2(event);
            }
            cu::cuStreamDestroy_v2(stream);
            Ok(best.1)
        }
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

impl Gemm {
    pub(crate) fn workspace(&self) -> usize {
        self.chosen.workspace
    }

    /// Bytes of an element.
    pub(crate) fn element_size(&self) -> usize {
        self.dtype.size()
    }

    /// Submits one product. `[a, b, y]` are addresses of first elements.
    pub(crate) fn run(
        &self,
        at: [u64; 3],
        residual: u64,
        workspace: u64,
        stream: cu::CUstream,
    ) -> Result<()> {
        self.call(self.chosen, at, residual, workspace, stream)
    }

    fn call(
        &self,
        chosen: Chosen,
        at: [u64; 3],
        residual: u64,
        workspace: u64,
        stream: cu::CUstream,
    ) -> Result<()> {
        let beta = if self.residual { 1.0f64 } else { 0.0 };
        let (wide, narrow) = ([self.alpha, beta], [self.alpha as f32, beta as f32]);
        let (alpha, beta): (*const c_void, *const c_void) = if self.dtype == DType::F64 {
            ((&raw const wide[0]).cast(), (&raw const wide[1]).cast())
        } else {
            ((&raw const narrow[0]).cast(), (&raw const narrow[1]).cast())
        };
        let [first, second, out] = self.layouts;
        // SAFETY: descriptions live; the addresses are device memory of the extents that the layouts describe, which the submitter keeps valid
        // until the work is done; the workspace has the size that the algorithm asked for.
        unsafe {
            lt::matmul(
                self.handle,
                self.description,
                alpha,
                beta,
                at[1] as *const c_void,
                first,
                at[0] as *const c_void,
                second,
                if self.residual { residual } else { at[2] } as *const c_void,
                out,
                at[2] as *mut c_void,
                out,
                &raw const chosen.algorithm,
                workspace as *mut c_void,
                chosen.workspace,
                stream.cast(),
            )
        }
        .map_err(|e| failed("refuses a product", e))
    }
}
