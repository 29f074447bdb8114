//! Descriptions of products for cuBLASLt, and their calls.

use std::ffi::c_void;

use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::sys as cu;
use streampool_core::Result;
use streampool_core::op::DType;

use super::{Blas, Chosen, Shape, failed};

/// A product ready to run. Immutable.
pub(crate) struct Gemm {
    handle: sys::cublasLtHandle_t,
    pub(super) description: sys::cublasLtMatmulDesc_t,
    pub(super) layouts: [sys::cublasLtMatrixLayout_t; 3],
    pub(super) chosen: Chosen,
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

impl Blas {
    pub(super) fn describe(&self, s: &Shape, alpha: f64, bias: Option<u64>) -> Result<Gemm> {
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

    pub(super) fn call(
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
