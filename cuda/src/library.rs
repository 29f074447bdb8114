//! The libraries that are loaded at run time, and their errors.

use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUresult};
use streampool_core::{Error, Result};

/// What to say when something is not there.
fn missing(what: &str, way_out: &str) -> Error {
    Error::unsupported(format!("cuda: {what} was not found on this machine; {way_out}"))
}

/// What of NVIDIA's a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    driver: bool,
    nvrtc: bool,
    blas: bool,
}

impl Found {
    fn here() -> Self {
        // SAFETY: only tries to open libraries by name.
        unsafe {
            Self {
                driver: sys::is_culib_present(),
                nvrtc: cudarc::nvrtc::sys::is_culib_present(),
                blas: cudarc::cublaslt::sys::is_culib_present(),
            }
        }
    }

    /// The first that is missing, and how to get it.
    fn check(self) -> Result<()> {
        if !self.driver {
            return Err(missing(
                "NVIDIA's driver (libcuda.so.1)",
                "install NVIDIA's driver, 580 or newer, or use the device 'cpu'",
            ));
        }
        if !self.nvrtc {
            return Err(missing(
                "NVRTC (libnvrtc.so)",
                "install CUDA 13's runtime libraries (pip install nvidia-cuda-nvrtc, or the package cuda-nvrtc-13-0) and put them on LD_LIBRARY_PATH",
            ));
        }
        if !self.blas {
            return Err(missing(
                "cuBLASLt (libcublasLt.so)",
                "install CUDA 13's runtime libraries (pip install nvidia-cublas, or the package libcublas-13-0) and put them on LD_LIBRARY_PATH",
            ));
        }
        Ok(())
    }
}

/// Whether the driver supports the CUDA that this is written for: its version is 1000 times the major plus 10 times the minor.
fn new_enough(version: i32) -> Result<()> {
    if version >= 13_000 {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "cuda: the driver supports CUDA {}.{}, needs 13.0; install NVIDIA's driver, 580 or newer",
        version / 1000,
        version % 1000 / 10
    )))
}

/// Whether the driver shows a GPU of this number.
pub(crate) fn has_ordinal(ordinal: usize, there: usize) -> Result<()> {
    if ordinal < there {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "cuda: GPU {ordinal} was asked for, the driver sees {there}; number them from 0, and look at CUDA_VISIBLE_DEVICES"
    )))
}

/// Whether a GPU of this compute capability can run our kernels.
pub(crate) fn has_capability(ordinal: usize, (major, minor): (i32, i32)) -> Result<()> {
    if (major, minor) >= (8, 0) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "cuda: GPU {ordinal} has compute capability {major}.{minor}, needs 8.0 (Ampere) or newer; use the device 'cpu'"
    )))
}

/// Whether process `own` may use a driver that process `by` started (0: nobody did yet).
fn started_here(by: u32, own: u32) -> Result<()> {
    if by == 0 || by == own {
        return Ok(());
    }
    Err(Error::forked(
        "cuda: this process was forked from one that had started the driver, which does not work in forked processes; use the 'spawn' or \
         'forkserver' start method, or fork before a GPU is opened",
    ))
}

/// Checks that the driver's library and the two libraries that programs need can be loaded, and starts the driver.
///
/// # Errors
/// `is_unsupported` naming what is missing and how to get it.
pub(crate) fn start() -> Result<()> {
    // The driver does not survive a fork: the child has its handles and none of its threads.
    static STARTED_BY: AtomicU32 = AtomicU32::new(0);
    started_here(STARTED_BY.load(Ordering::Acquire), std::process::id())?;
    Found::here().check()?;
    // SAFETY: may be called any number of times, by any thread.
    check("starting the driver", unsafe { sys::cuInit(0) })?;
    STARTED_BY.store(std::process::id(), Ordering::Release);
    let mut version = 0;
    // SAFETY: writes one integer.
    check("asking for the driver's version", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    new_enough(version)
}

/// How many GPUs there are; 0 without a driver.
pub fn count() -> usize {
    if start().is_err() {
        return 0;
    }
    let mut n = 0;
    // SAFETY: the driver was started; writes one integer.
    match unsafe { sys::cuDeviceGetCount(&mut n) } {
        CUresult::CUDA_SUCCESS => usize::try_from(n).unwrap_or(0),
        _ => 0,
    }
}

/// Why no GPU can be used here; `None` if one can.
pub fn describe_missing() -> Option<String> {
    match start() {
        Err(e) => Some(e.to_string()),
        Ok(()) if count() == 0 => Some("cuda: the driver is there and sees no GPU".into()),
        Ok(()) => None,
    }
}

/// The error of a driver call, by what it was for.
pub(crate) fn check(what: &str, result: CUresult) -> Result<()> {
    use CUresult::*;
    let code = match result {
        CUDA_SUCCESS => return Ok(()),
        code => code,
    };
    let text = format!("cuda: {what} failed: {code:?}");
    Err(match code {
        CUDA_ERROR_OUT_OF_MEMORY => Error::out_of_memory(format!(
            "{text}; release tensors, use smaller ones, or set a lower memory limit"
        )),
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_LAUNCH_FAILED
        | CUDA_ERROR_LAUNCH_TIMEOUT
        | CUDA_ERROR_ASSERT
        | CUDA_ERROR_ECC_UNCORRECTABLE
        | CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUDA_ERROR_DEINITIALIZED => Error::device_lost(format!(
            "{text}; the device will not work again in this process, start a new one"
        )),
        CUDA_ERROR_NO_DEVICE | CUDA_ERROR_INVALID_DEVICE | CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            Error::unsupported(text)
        }
        _ => Error::internal(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_way_to_get_it() {
        let all = Found { driver: true, nvrtc: true, blas: true };
        assert!(all.check().is_ok());
        for (found, parts) in [
            (Found { driver: false, ..all }, ["libcuda.so.1", "install NVIDIA's driver", "'cpu'"]),
            (Found { nvrtc: false, ..all }, ["libnvrtc.so", "nvidia-cuda-nvrtc", "LD_LIBRARY_PATH"]),
            (Found { blas: false, ..all }, ["libcublasLt.so", "nvidia-cublas", "LD_LIBRARY_PATH"]),
            // Of several the driver comes first: without it the others are of no use.
            (Found { driver: false, nvrtc: false, blas: false }, ["libcuda.so.1", "580", "not found"]),
        ] {
            let error = found.check().expect_err("something is missing");
            assert!(error.is_unsupported(), "{error:?}");
            let text = error.to_string();
            assert!(parts.iter().all(|p| text.contains(p)), "{text}");
        }
    }

    #[test]
    fn an_old_driver_or_gpu_and_a_wrong_number_say_what_there_is_and_what_is_needed() {
        assert!(new_enough(13_000).is_ok() && has_ordinal(1, 2).is_ok() && has_capability(0, (9, 0)).is_ok());
        for (result, parts) in [
            (new_enough(12_080), ["12.8", "13.0", "580"]),
            (has_ordinal(3, 2), ["GPU 3", "sees 2", "CUDA_VISIBLE_DEVICES"]),
            (has_capability(1, (7, 5)), ["7.5", "8.0", "'cpu'"]),
        ] {
            let error = result.expect_err("not enough");
            assert!(error.is_unsupported(), "{error:?}");
            assert!(parts.iter().all(|p| error.to_string().contains(p)), "{error}");
        }
    }

    #[test]
    fn a_forked_child_is_refused_as_such() {
        assert!(started_here(0, 5).is_ok() && started_here(5, 5).is_ok());
        let error = started_here(5, 6).expect_err("another process");
        assert!(error.is_forked() && error.to_string().contains("spawn"), "{error:?}");
    }

    #[test]
    fn codes_of_the_driver_become_the_errors_that_callers_act_on() {
        use CUresult::*;
        assert!(check("x", CUDA_SUCCESS).is_ok());
        let memory = check("allocating 5 bytes", CUDA_ERROR_OUT_OF_MEMORY).expect_err("an error");
        assert!(memory.is_out_of_memory() && memory.to_string().contains("allocating 5 bytes"), "{memory}");
        for code in [CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_LAUNCH_FAILED, CUDA_ERROR_ECC_UNCORRECTABLE] {
            let lost = check("waiting", code).expect_err("an error");
            assert!(lost.is_device_lost() && lost.to_string().contains("start a new one"), "{lost}");
        }
        assert!(check("x", CUDA_ERROR_NO_DEVICE).expect_err("an error").is_unsupported());
        assert!(check("x", CUDA_ERROR_INVALID_VALUE).expect_err("an error").is_internal());
    }
}
