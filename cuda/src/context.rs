//! A GPU's context in this process.

use std::ffi::CStr;
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUevent};
use streampool_core::{Error, Result};
use streampool_kernels::Target;

use crate::leaving;
use crate::library::{check, has_capability, has_ordinal, start};

/// The primary context of a GPU: the one that other libraries of the process (PyTorch, CuPy) use too, so that memory can be shared.
pub(crate) struct Context {
    raw: CUcontext,
    device: CUdevice,
    pub(crate) name: String,
    pub(crate) memory_bytes: usize,
    /// Compute capability, major and minor.
    pub(crate) capability: (i32, i32),
    pub(crate) processors: i32,
    /// Bytes of shared memory that a block can ask for.
    pub(crate) shared_bytes: usize,
    /// Whether streams can wait for 64-bit words.
    pub(crate) waits: bool,
    /// Never recorded: asking it tells whether the context still works, and nothing else.
    probe: CUevent,
    lost: OnceLock<Error>,
}

// SAFETY: contexts and events are handles that the driver lets any thread use.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn new(ordinal: usize) -> Result<Self> {
        start()?;
        has_ordinal(ordinal, crate::count())?;
        let mut device: CUdevice = 0;
        let mut raw: CUcontext = std::ptr::null_mut();
        let mut name = [0; 128];
        let mut memory_bytes = 0;
        let mut probe: CUevent = std::ptr::null_mut();
        // SAFETY: the driver was started; each call writes what its pointer points to, which lives.
        unsafe {
            check("finding the GPU", sys::cuDeviceGet(&mut device, ordinal as i32))?;
            check("naming the GPU", sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device))?;
            check("asking for the GPU's memory", sys::cuDeviceTotalMem_v2(&mut memory_bytes, device))?;
            check("making the GPU's context", sys::cuDevicePrimaryCtxRetain(&mut raw, device))?;
            check("entering the GPU's context", sys::cuCtxSetCurrent(raw))?;
            check(
                "making an event",
                sys::cuEventCreate(&mut probe, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32),
            )?;
        }
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: writes one integer.
            check("asking for an attribute", unsafe {
                sys::cuDeviceGetAttribute(&mut value, which, device)
            })?;
            Ok::<i32, Error>(value)
        };
        use CUdevice_attribute as A;
        let capability = (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        has_capability(ordinal, capability)?;
        let waits = attribute(A::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS)? != 0;
        let processors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        // The driver never says less than this; should it, kernels would be refused when they are loaded.
        let shared_bytes = attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let shared_bytes = usize::try_from(shared_bytes).unwrap_or(0).max(Target::LEAST.shared);
        leaving::prepare();
        // SAFETY: the driver ended the name with a zero.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        Ok(Self {
            raw,
            device,
            name,
            memory_bytes,
            capability,
            processors,
            shared_bytes,
            waits,
            probe,
            lost: OnceLock::new(),
        })
    }

    /// Whether blocks of a grid can form clusters and read each other's shared memory, and launches may overlap.
    pub(crate) fn has_clusters(&self) -> bool {
        self.capability >= (9, 0)
    }

    /// Makes this context the calling thread's. Cheap; done before every use, as other libraries may have changed it.
    pub(crate) fn enter(&self) -> Result<()> {
        leaving::check()?;
        if let Some(lost) = self.lost.get() {
            return Err(lost.clone());
        }
        // SAFETY: the context lives as long as `self`.
        check("entering the GPU's context", unsafe { sys::cuCtxSetCurrent(self.raw) })
    }

    /// Notes that the device is lost, if `result` says so.
    pub(crate) fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(e) = &result
            && e.is_device_lost()
        {
            let _ = self.lost.set(e.clone());
        }
        result
    }

    /// Whether the device still works.
    pub(crate) fn alive(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the event lives as long as `self`.
        match unsafe { sys::cuEventQuery(self.probe) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(()),
            code => self.noted(check("running submitted work", code)),
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Where the process ends, the driver may be gone.
        if leaving::check().is_err() {
            return;
        }
        // SAFETY: both were made in `new` and are given back once. Errors at process exit, when the driver is gone already, are of no use.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.raw);
            let _ = sys::cuEventDestroy_v2(self.probe);
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}
