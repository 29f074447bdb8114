//! The libraries that are loaded at run time, and their errors.

use cudarc::driver::sys::{self, CUresult};
use streampool_core::{Error, Result};

/// What to say when something is not there.
fn missing(what: &str, way_out: &str) -> Error {
    Error::unsupported(format!("cuda: {what} was not found on this machine; {way_out}"))
}

/// Checks that the driver's library and the two libraries that programs need can be loaded, and starts the driver.
///
/// # Errors
/// `is_unsupported` naming what is missing and how to get it.
pub(crate) fn start() -> Result<()> {
    // SAFETY: only tries to open libraries by name.
    let (driver, nvrtc, blas) = unsafe {
        (
            sys::is_culib_present(),
            cudarc::nvrtc::sys::is_culib_present(),
            cudarc::cublaslt::sys::is_culib_present(),
        )
    };
    if !driver {
        return Err(missing(
            "NVIDIA's driver (libcuda.so.1)",
            "install NVIDIA's driver, 580 or newer, or use the device 'cpu'",
        ));
    }
    if !nvrtc {
        return Err(missing(
            "NVRTC (libnvrtc.so)",
            "install CUDA 13's runtime libraries (pip install nvidia-cuda-nvrtc, or the package cuda-nvrtc-13-0) and put them on LD_LIBRARY_PATH",
        ));
    }
    if !blas {
        return Err(missing(
            "cuBLASLt (libcublasLt.so)",
            "install CUDA 13's runtime libraries (pip install nvidia-cublas, or the package libcublas-13-0) and put them on LD_LIBRARY_PATH",
        ));
    }
    // SAFETY: may be called any number of times, by any thread.
    check("starting the driver", unsafe { sys::cuInit(0) })?;
    let mut version = 0;
    // SAFETY: writes one integer.
    check("asking for the driver's version", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    if version < 13_000 {
        return Err(Error::unsupported(format!(
            "cuda: the driver supports CUDA {}.{}, needs 13.0; install NVIDIA's driver, 580 or newer",
            version / 1000,
            version % 1000 / 10
        )));
    }
    Ok(())
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
