//! Kernels by NVRTC: the ones of a program that nobody compiled yet, in one go.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{self, CUfunction, CUmodule};
use cudarc::nvrtc::sys as nvrtc;
use smallvec::SmallVec;
use streampool_core::once::OnceCache;
use streampool_core::sync::Deadline;
use streampool_core::{Error, Result};
use streampool_kernels::{Dialect, Kernel, Target, prelude};

use crate::context::Context;
use crate::leaving;
use crate::library::check;

/// Bytes of machine code that are kept though no program uses them.
const KEPT: usize = 256 << 20;

/// Machine code on the device; unloaded when dropped.
struct Module {
    context: Arc<Context>,
    raw: CUmodule,
}

// SAFETY: a handle that any thread may use.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: loaded once, unloaded once; whoever runs its functions holds it.
            let _ = unsafe { sys::cuModuleUnload(self.raw) };
        }
    }
}

/// An entry point.
pub(crate) struct Function {
    raw: CUfunction,
    module: Arc<Module>,
}

impl Function {
    /// Submits a launch. On devices that can, it may get ready while the kernel before it ends: all our kernels wait for earlier work before they
    /// touch memory.
    ///
    /// # Safety
    /// `params` points to the kernel's parameters, whose memory stays valid until the work is done.
    pub(crate) unsafe fn launch(
        &self,
        (grid, threads): (u32, u32),
        (shared, cluster): (u32, u32),
        stream: sys::CUstream,
        params: *mut *mut c_void,
    ) -> sys::CUresult {
        let mut attributes: SmallVec<[sys::CUlaunchAttribute; 2]> = SmallVec::new();
        // SAFETY: plain data, for which all zero is a value.
        let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
        if self.module.context.has_clusters() {
            attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attribute.value.programmaticStreamSerializationAllowed = 1;
            attributes.push(attribute);
        }
        if cluster > 1 {
            attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attribute.value.clusterDim =
                sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: cluster, y: 1, z: 1 };
            attributes.push(attribute);
        }
        let config = sys::CUlaunchConfig {
            gridDimX: grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared,
            hStream: stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: the function lives with `self`; the caller answers for the parameters.
        unsafe { sys::cuLaunchKernelEx(&raw const config, self.raw, params, std::ptr::null_mut()) }
    }
}

// SAFETY: a handle that any thread may use.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// The kernels of a device.
pub(crate) struct Compiler {
    context: Arc<Context>,
    functions: OnceCache<String, Function>,
    /// Machine code on disk, if the user wants it.
    folder: Option<PathBuf>,
    /// Kernels that NVRTC is made to refuse, for tests: those whose description contains this.
    broken: Option<String>,
}

impl Compiler {
    pub(crate) fn new(context: &Arc<Context>, folder: Option<PathBuf>, broken: Option<String>) -> Self {
        Self { context: context.clone(), functions: OnceCache::new(KEPT), folder, broken }
    }

    /// What kernels are made for: with clusters where the device has them and NVRTC knows how their blocks send each other what they add up
    /// (`st.async`, since CUDA 12.1).
    pub(crate) fn target(&self) -> Target {
        let clusters = self.context.has_clusters() && nvrtc_version() >= (12, 1);
        Target { shared: self.context.shared_bytes, clusters }
    }

    /// The entry points of `kernels`, in order.
    pub(crate) fn functions(&self, kernels: &[Kernel]) -> Result<Vec<Arc<Function>>> {
        let mut missing: Vec<&Kernel> = Vec::new();
        for kernel in kernels {
            if self.functions.get(&kernel.name).is_none() && missing.iter().all(|k| k.name != kernel.name) {
                missing.push(kernel);
            }
        }
        let mut made: Vec<(String, Arc<Function>)> = Vec::new();
        if !missing.is_empty() {
            let (module, bytes) = self.module(&missing)?;
            let bytes = bytes / missing.len();
            for kernel in missing {
                let function = self.entry(&module, &kernel.name, kernel.shared)?;
                // Another thread may have been quicker: then its function serves.
                let function = self.functions.get_or_compile(
                    &kernel.name,
                    Deadline::after(Duration::from_secs(60)),
                    || Ok((function.clone(), bytes)),
                )?;
                made.push((kernel.name.clone(), function));
            }
        }
        kernels
            .iter()
            .map(|k| {
                let found = made.iter().find(|(name, _)| *name == k.name).map(|(_, f)| f.clone());
                match found.or_else(|| self.functions.get(&k.name)) {
                    Some(function) => Ok(function),
                    // Dropped from the cache in between: once more, alone.
                    None => {
                        let (module, _) = self.module(&[k])?;
                        self.entry(&module, &k.name, k.shared)
                    }
                }
            })
            .collect()
    }

    /// The entry point of a text of the driver's own.
    pub(crate) fn text(&self, name: &str, text: &str) -> Result<Arc<Function>> {
        let (module, _) = self.module_of(&(prelude(Dialect::Cuda) + text), name)?;
        self.entry(&module, name, 0)
    }

    fn module(&self, kernels: &[&Kernel]) -> Result<(Arc<Module>, usize)> {
        let mut text = prelude(Dialect::Cuda);
        for kernel in kernels {
            text.push_str(&kernel.source(Dialect::Cuda));
            if self.broken.as_ref().is_some_and(|part| kernel.what.contains(part.as_str())) {
                text.push_str("\n#error refused as asked\n");
            }
        }
        let some: Vec<&str> = kernels.iter().take(4).map(|k| k.what.as_str()).collect();
        let more = if kernels.len() > some.len() { ", ..." } else { "" };
        self.module_of(&text, &format!("{}{more}", some.join(", ")))
    }

    /// Machine code of `text`, loaded, and its bytes. `what` names it in errors.
    fn module_of(&self, text: &str, what: &str) -> Result<(Arc<Module>, usize)> {
        let path = self.folder.as_ref().map(|folder| {
            let mut hash = 0xcbf2_9ce4_8422_2325u64;
            for b in text.bytes() {
                hash = (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
            }
            let ((major, minor), (a, b)) = (nvrtc_version(), self.context.capability);
            folder.join(format!("{hash:016x}-{}-sm{a}{b}-nvrtc{major}.{minor}.cubin", text.len()))
        });
        // A file that is damaged is as good as none: it is made anew.
        if let Some(found) = path.as_ref().and_then(|p| std::fs::read(p).ok()).filter(|f| is_whole(f))
            && let Ok(module) = self.load(&found, what)
        {
            return Ok((module, found.len()));
        }
        let image = leaving::counted(|| self.compile(text, what))?;
        if let (Some(path), Some(folder)) = (&path, &self.folder) {
            // A cache that cannot be written is no cache; the program runs all the same. Renamed into place, so that readers see whole files.
            let part = path.with_extension(format!("{}.part", std::process::id()));
            let kept = [&image[..], &checksum(&image)].concat();
            if std::fs::create_dir_all(folder).is_ok() && std::fs::write(&part, &kept).is_ok() {
                let _ = std::fs::rename(&part, path);
            }
        }
        Ok((self.load(&image, what)?, image.len()))
    }

    fn compile(&self, text: &str, what: &str) -> Result<Vec<u8>> {
        let source = CString::new(text)
            .map_err(|e| Error::internal(format!("cuda: NVRTC cannot read the kernels of {what}: {e}")))?;
        let (major, minor) = self.context.capability;
        let options: Vec<CString> = [
            format!("--gpu-architecture=sm_{major}{minor}"),
            "--std=c++17".into(),
            // Where a kernel wants a fused multiply-add, it says so: results are those of the other devices.
            "--fmad=false".into(),
            "--disable-warnings".into(),
        ]
        .into_iter()
        .map(|o| CString::new(o).expect("options have no zero"))
        .collect();
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program: nvrtc::nvrtcProgram = std::ptr::null_mut();
        let refused = |code, log: &str| refusal(code, log, what, nvrtc_version(), self.context.capability);
        // SAFETY: strings live and end with zeros; buffers have the sizes that NVRTC told; the program is destroyed once.
        unsafe {
            let ok = nvrtc::nvrtcResult::NVRTC_SUCCESS;
            let made = nvrtc::nvrtcCreateProgram(
                &mut program,
                source.as_ptr(),
                c"streampool.cu".as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            );
            if made != ok {
                return Err(refused(made, ""));
            }
            let compiled = nvrtc::nvrtcCompileProgram(program, pointers.len() as i32, pointers.as_ptr());
            let result = if compiled == ok {
                let mut size = 0;
                nvrtc::nvrtcGetCUBINSize(program, &mut size);
                let mut image = vec![0u8; size];
                nvrtc::nvrtcGetCUBIN(program, image.as_mut_ptr().cast());
                Ok(image)
            } else {
                let mut size = 0;
                nvrtc::nvrtcGetProgramLogSize(program, &mut size);
                let mut log = vec![0u8; size.max(1)];
                nvrtc::nvrtcGetProgramLog(program, log.as_mut_ptr().cast());
                let log = CStr::from_bytes_until_nul(&log)
                    .map(|l| l.to_string_lossy().into_owned())
                    .unwrap_or_default();
                Err(refused(compiled, &log))
            };
            nvrtc::nvrtcDestroyProgram(&mut program);
            result
        }
    }

    fn load(&self, image: &[u8], what: &str) -> Result<Arc<Module>> {
        self.context.enter()?;
        let mut raw: CUmodule = std::ptr::null_mut();
        // SAFETY: the image is whole machine code, which names its own length.
        let result = unsafe { sys::cuModuleLoadData(&mut raw, image.as_ptr().cast::<c_void>()) };
        self.context.noted(check(&format!("loading the kernels of {what}"), result))?;
        Ok(Arc::new(Module { context: self.context.clone(), raw }))
    }

    fn entry(&self, module: &Arc<Module>, name: &str, shared: u32) -> Result<Arc<Function>> {
        let name = CString::new(name).map_err(|e| Error::internal(e.to_string()))?;
        let mut raw: CUfunction = std::ptr::null_mut();
        // SAFETY: the module lives; the name ends with a zero.
        check("finding a kernel", unsafe { sys::cuModuleGetFunction(&mut raw, module.raw, name.as_ptr()) })?;
        // Without asking, a block gets 48 KiB, what the kernel itself declares included.
        if shared > 32 << 10 {
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function lives with its module.
            let result = unsafe { sys::cuFuncSetAttribute(raw, which, shared as i32) };
            check("making room for a kernel's shared memory", result)?;
        }
        Ok(Arc::new(Function { raw, module: module.clone() }))
    }
}

/// Which NVRTC was loaded.
fn nvrtc_version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two integers.
    unsafe { nvrtc::nvrtcVersion(&mut major, &mut minor) };
    (major, minor)
}

/// What ends a file of machine code, so that a damaged one is noticed.
fn checksum(image: &[u8]) -> [u8; 8] {
    let hash =
        image.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    hash.to_le_bytes()
}

/// Whether a file of the cache is what was written. The sum behind the image does no harm: an image names its own length.
fn is_whole(file: &[u8]) -> bool {
    file.split_last_chunk::<8>().is_some_and(|(image, sum)| !image.is_empty() && checksum(image) == *sum)
}

/// What NVRTC's refusal means: who can mend it, and how.
fn refusal(
    code: nvrtc::nvrtcResult,
    log: &str,
    what: &str,
    (major, minor): (i32, i32),
    (a, b): (i32, i32),
) -> Error {
    use nvrtc::nvrtcResult as R;
    let text = format!("cuda: NVRTC {major}.{minor} cannot compile the kernels of {what}: {code:?}");
    match code {
        R::NVRTC_ERROR_OUT_OF_MEMORY => {
            Error::out_of_memory(format!("{text}; free memory of this machine, not of the GPU"))
        }
        R::NVRTC_ERROR_BUILTIN_OPERATION_FAILURE => Error::unsupported(format!(
            "{text}; it did not find libnvrtc-builtins.so: install it beside libnvrtc.so (pip install nvidia-cuda-nvrtc has both)"
        )),
        R::NVRTC_ERROR_INVALID_OPTION => Error::unsupported(format!(
            "{text}; this NVRTC does not know compute capability {a}.{b}: install a newer one (pip install nvidia-cuda-nvrtc)"
        )),
        _ => {
            let log: String = log.trim().chars().take(2000).collect();
            Error::internal(format!(
                "{text}: {log}; please report this, and use the device 'cpu' until it is mended"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use nvrtc::nvrtcResult as R;

    use super::*;

    #[test]
    fn a_refusal_names_the_kernels_and_who_can_mend_it() {
        let judged = |code| {
            refusal(code, "streampool.cu(7): error: no such thing\n", "softmax of 9", (13, 0), (12, 1))
        };
        let wrong = judged(R::NVRTC_ERROR_COMPILATION);
        assert!(wrong.is_internal(), "{wrong:?}");
        for part in ["softmax of 9", "13.0", "streampool.cu(7): error: no such thing", "report", "'cpu'"] {
            assert!(wrong.to_string().contains(part), "{wrong}");
        }
        let old = judged(R::NVRTC_ERROR_INVALID_OPTION);
        assert!(old.is_unsupported() && old.to_string().contains("12.1"), "{old:?}");
        let parts = judged(R::NVRTC_ERROR_BUILTIN_OPERATION_FAILURE);
        assert!(parts.is_unsupported() && parts.to_string().contains("libnvrtc-builtins"), "{parts:?}");
        assert!(judged(R::NVRTC_ERROR_OUT_OF_MEMORY).is_out_of_memory());
    }

    #[test]
    fn the_log_of_a_refusal_is_bounded() {
        let long = refusal(R::NVRTC_ERROR_COMPILATION, &"x".repeat(1 << 20), "k", (13, 0), (9, 0));
        assert!(long.to_string().len() < 3000);
    }

    #[test]
    fn damaged_files_of_the_cache_are_noticed() {
        let image = [7u8; 100];
        let whole = [&image[..], &checksum(&image)].concat();
        assert!(is_whole(&whole));
        for n in [0, 3, 8, 50, whole.len() - 1] {
            assert!(!is_whole(&whole[..n]), "cut to {n} bytes");
        }
        for i in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[i] ^= 4;
            assert!(!is_whole(&flipped), "a bit of byte {i}");
        }
    }
}
