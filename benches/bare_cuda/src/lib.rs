//! The least that CUDA can cost: Rust calling cuBLASLt, a stream a thread, the host waiting after every call.
//!
//! No pool, no ordering, no memory management, no errors but panics: what streampool's cost is measured against.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::sys as cu;

/// What the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// float32, strictly.
    F32,
    /// float32 products in TF32.
    Tf32,
    /// bfloat16.
    Bf16,
}

/// Calls per second of `threads` threads that each make `call`s of their own for about `time`, after a warm-up.
pub fn rate<C: FnMut()>(threads: usize, time: Duration, new: impl Fn(usize) -> C + Sync) -> f64 {
    let (ready, stop, calls) = (Barrier::new(threads + 1), AtomicBool::new(false), AtomicU64::new(0));
    let mut wall = Duration::ZERO;
    std::thread::scope(|scope| {
        for t in 0..threads {
            let (new, ready, stop, calls) = (&new, &ready, &stop, &calls);
            scope.spawn(move || {
                let mut call = new(t);
                for _ in 0..200 {
                    call();
                }
                ready.wait();
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    call();
                    n += 1;
                }
                calls.fetch_add(n, Ordering::Relaxed);
            });
        }
        ready.wait();
        let start = Instant::now();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        wall = start.elapsed();
    });
    calls.into_inner() as f64 / wall.as_secs_f64()
}

fn ok(what: &str, result: cu::CUresult) {
    assert_eq!(result, cu::CUresult::CUDA_SUCCESS, "{what}");
}

/// One linear layer.
struct Layer {
    description: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulHeuristicResult_t,
    weight: u64,
}

/// A multi-layer perceptron on one stream.
pub struct Bare {
    handle: sys::cublasLtHandle_t,
    stream: cu::CUstream,
    layers: Vec<Layer>,
    buffers: Vec<u64>,
    workspace: u64,
    graph: Option<cu::CUgraphExec>,
}

// SAFETY: handles that any thread may use; one does at a time.
unsafe impl Send for Bare {}

const WORKSPACE: usize = 8 << 20;

impl Bare {
    /// Layers of these widths on `batch` rows, bias and ReLU between them; as a CUDA graph if `graph`. Weights are random numbers.
    ///
    /// # Panics
    /// If CUDA refuses anything.
    pub fn new(widths: &[usize], batch: usize, kind: Kind, graph: bool) -> Self {
        let (compute, ty, size) = match kind {
            Kind::F32 => (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F, 4),
            Kind::Tf32 => {
                (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32, sys::cudaDataType::CUDA_R_32F, 4)
            }
            Kind::Bf16 => (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_16BF, 2),
        };
        // SAFETY: one thread makes all handles and memory here, and the shapes that the descriptions state are those of the memory.
        unsafe {
            ok("init", cu::cuInit(0));
            let mut context = null_mut();
            ok("context", cu::cuDevicePrimaryCtxRetain(&mut context, 0));
            ok("context", cu::cuCtxSetCurrent(context));
            let mut stream = null_mut();
            ok("stream", cu::cuStreamCreate(&mut stream, 1));
            let handle = lt::create_handle().expect("cuBLASLt");
            let memory = |elements: usize| {
                let mut at = 0;
                ok("memory", cu::cuMemAlloc_v2(&mut at, elements * size + 256));
                let mut state = elements as u64;
                let host: Vec<u8> = (0..elements)
                    .flat_map(|_| {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let v = ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.1;
                        v.to_le_bytes()[4 - size..].to_vec()
                    })
                    .collect();
                ok("upload", cu::cuMemcpyHtoD_v2(at, host.as_ptr().cast(), host.len()));
                at
            };
            let mut workspace = 0;
            ok("memory", cu::cuMemAlloc_v2(&mut workspace, WORKSPACE));
            let buffers: Vec<u64> = widths.iter().map(|w| memory(w * batch)).collect();
            let layers = widths
                .windows(2)
                .enumerate()
                .map(|(i, w)| {
                    let [k, n] = [w[0], w[1]];
                    let description =
                        lt::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F).expect("description");
                    use sys::cublasLtMatmulDescAttributes_t as A;
                    let set = |a, at: *const c_void, bytes| {
                        lt::set_matmul_desc_attribute(description, a, at, bytes).expect("attribute");
                    };
                    let (transposed, bias) = (1i32, memory(n));
                    let epilogue = if i + 2 < widths.len() {
                        sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS
                    } else {
                        sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS
                    };
                    set(A::CUBLASLT_MATMUL_DESC_TRANSA, (&raw const transposed).cast(), 4);
                    set(A::CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const epilogue).cast(), 4);
                    set(A::CUBLASLT_MATMUL_DESC_BIAS_POINTER, (&raw const bias).cast(), 8);
                    let layout = |r: usize, c: usize| {
                        lt::create_matrix_layout(ty, r as u64, c as u64, r as i64).expect("layout")
                    };
                    let layouts = [layout(k, n), layout(k, batch), layout(n, batch)];
                    let preference = lt::create_matmul_pref().expect("preference");
                    let most = WORKSPACE;
                    lt::set_matmul_pref_attribute(
                        preference,
                        sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                        (&raw const most).cast(),
                        8,
                    )
                    .expect("preference");
                    let algorithm = lt::get_matmul_algo_heuristic(
                        handle,
                        description,
                        layouts[0],
                        layouts[1],
                        layouts[2],
                        layouts[2],
                        preference,
                    )
                    .expect("algorithm");
                    Layer { description, layouts, algorithm, weight: memory(k * n) }
                })
                .collect();
            let mut bare = Self { handle, stream, layers, buffers, workspace, graph: None };
            bare.submit();
            ok("first call", cu::cuStreamSynchronize(stream));
            if graph {
                let mode = cu::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
                ok("capture", cu::cuStreamBeginCapture_v2(stream, mode));
                bare.submit();
                let (mut captured, mut instance) = (null_mut(), null_mut());
                ok("capture", cu::cuStreamEndCapture(stream, &mut captured));
                ok("graph", cu::cuGraphInstantiateWithFlags(&mut instance, captured, 0));
                bare.graph = Some(instance);
            }
            bare
        }
    }

    fn submit(&self) {
        let (alpha, beta) = (1.0f32, 0.0f32);
        for (i, layer) in self.layers.iter().enumerate() {
            // SAFETY: as in `new`.
            unsafe {
                lt::matmul(
                    self.handle,
                    layer.description,
                    (&raw const alpha).cast(),
                    (&raw const beta).cast(),
                    layer.weight as *const c_void,
                    layer.layouts[0],
                    self.buffers[i] as *const c_void,
                    layer.layouts[1],
                    self.buffers[i + 1] as *const c_void,
                    layer.layouts[2],
                    self.buffers[i + 1] as *mut c_void,
                    layer.layouts[2],
                    &raw const layer.algorithm.algo,
                    self.workspace as *mut c_void,
                    WORKSPACE,
                    self.stream.cast(),
                )
                .expect("a product");
            }
        }
    }

    /// One call, waited for.
    ///
    /// # Panics
    /// If CUDA refuses it.
    pub fn call(&self) {
        match self.graph {
            // SAFETY: the graph and the stream live as long as `self`.
            Some(graph) => ok("graph launch", unsafe { cu::cuGraphLaunch(graph, self.stream) }),
            None => self.submit(),
        }
        // SAFETY: as above.
        ok("wait", unsafe { cu::cuStreamSynchronize(self.stream) });
    }
}

/// Runs a kernel that writes where nothing is, in the context that streampool uses too: the GPU is lost to this process.
///
/// # Panics
/// If the kernel cannot be loaded.
pub fn write_to_nowhere() {
    const TEXT: &std::ffi::CStr = c".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry nowhere() {\n.reg .b64 %a;\nmov.u64 %a, 64;\nst.global.u64 [%a], %a;\nret;\n}\n";
    // SAFETY: one thread makes, uses and leaves all handles; the text ends with a zero and has the entry that is asked for.
    unsafe {
        ok("init", cu::cuInit(0));
        let (mut context, mut module, mut function) = (null_mut(), null_mut(), null_mut());
        ok("context", cu::cuDevicePrimaryCtxRetain(&mut context, 0));
        ok("enter", cu::cuCtxSetCurrent(context));
        ok("loading", cu::cuModuleLoadData(&mut module, TEXT.as_ptr().cast()));
        ok("finding", cu::cuModuleGetFunction(&mut function, module, c"nowhere".as_ptr()));
        let launched = cu::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), null_mut());
        ok("launching", launched);
        assert_ne!(cu::cuCtxSynchronize(), cu::CUresult::CUDA_SUCCESS, "a write to nowhere went well");
    }
}
