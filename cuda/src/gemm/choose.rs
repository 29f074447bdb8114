//! Which algorithm: cuBLASLt proposes, a stopwatch decides.

use std::ffi::c_void;
use std::sync::PoisonError;

use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::sys as cu;
use streampool_core::Result;
use streampool_core::op::DType;

use super::describe::Gemm;
use super::{Blas, CANDIDATES, CROWDING, Chosen, Shape, WORKSPACE, failed};
use crate::library::check;
use crate::memory::DeviceMemory;

impl Blas {
    /// The fastest of the algorithms that cuBLASLt proposes, by running them on memory of the same extents; once a shape. `None` if there
    /// is none.
    pub(super) fn choose(&self, s: &Shape, gemm: &Gemm) -> Result<Option<Chosen>> {
        let chosen = || self.chosen.lock().unwrap_or_else(PoisonError::into_inner).get(s).copied();
        if let Some(chosen) = chosen() {
            return Ok(Some(chosen));
        }
        let _one = self.timing.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have chosen meanwhile, and a second stopwatch may choose another: all must have the same bits.
        if let Some(chosen) = chosen() {
            return Ok(Some(chosen));
        }
        let found = self.find(s, gemm)?;
        if let Some(chosen) = found {
            self.chosen.lock().unwrap_or_else(PoisonError::into_inner).insert(s.clone(), chosen);
        }
        Ok(found)
    }

    fn find(&self, s: &Shape, gemm: &Gemm) -> Result<Option<Chosen>> {
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
        // In full precision the first proposal, which is the same in every process, and so are the bits of the result; where speed was asked for by
        // the choice of a dtype, the stopwatch decides.
        let exact = matches!(s.dtype, DType::F32 | DType::F64) && !s.tf32;
        if good.len() < 2 || exact {
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
