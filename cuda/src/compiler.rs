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
use streampool_kernels::{Dialect, Kernel, prelude};

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
}

impl Compiler {
    pub(crate) fn new(context: &Arc<Context>, folder: Option<PathBuf>) -> Self {
        Self { context: context.clone(), functions: OnceCache::new(KEPT), folder }
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
            let image = self.image(&missing)?;
            let bytes = image.len() / missing.len();
            let module = self.load(&image)?;
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
                        let module = self.load(&self.image(&[k])?)?;
                        self.entry(&module, &k.name, k.shared)
                    }
                }
            })
            .collect()
    }

    /// The entry point of a text of the driver's own.
    pub(crate) fn text(&self, name: &str, text: &str) -> Result<Arc<Function>> {
        let module = self.load(&self.image_of(prelude(Dialect::Cuda) + text)?)?;
        self.entry(&module, name, 0)
    }

    fn image(&self, kernels: &[&Kernel]) -> Result<Vec<u8>> {
        let mut text = prelude(Dialect::Cuda);
        for kernel in kernels {
            text.push_str(&kernel.source(Dialect::Cuda));
        }
        self.image_of(text)
    }

    fn image_of(&self, text: String) -> Result<Vec<u8>> {
        let path = self.folder.as_ref().map(|folder| {
            let mut hash = 0xcbf2_9ce4_8422_2325u64;
            for b in text.bytes() {
                hash = (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
            }
            let (mut major, mut minor) = (0, 0);
            // SAFETY: writes two integers.
            unsafe { nvrtc::nvrtcVersion(&mut major, &mut minor) };
            let (a, b) = self.context.capability;
            folder.join(format!("{hash:016x}-{}-sm{a}{b}-nvrtc{major}.{minor}.cubin", text.len()))
        });
        if let Some(found) = path.as_ref().and_then(|p| std::fs::read(p).ok()) {
            return Ok(found);
        }
        let image = leaving::counted(|| self.compile(&text))?;
        if let (Some(path), Some(folder)) = (&path, &self.folder) {
            // A cache that cannot be written is no cache; the program runs all the same. Renamed into place, so that readers see whole files.
            let part = path.with_extension(format!("{}.part", std::process::id()));
            if std::fs::create_dir_all(folder).is_ok() && std::fs::write(&part, &image).is_ok() {
                let _ = std::fs::rename(&part, path);
            }
        }
        Ok(image)
    }

    fn compile(&self, text: &str) -> Result<Vec<u8>> {
        let failed = |what: &str, why: String| {
            Error::internal(format!("cuda: NVRTC {what}: {why}; please report this"))
        };
        let source = CString::new(text).map_err(|e| failed("cannot read the kernels", e.to_string()))?;
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
                return Err(failed("cannot start", format!("{made:?}")));
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
                let log: String = log.chars().take(2000).collect();
                Err(failed("refuses the kernels", format!("{compiled:?}: {log}")))
            };
            nvrtc::nvrtcDestroyProgram(&mut program);
            result
        }
    }

    fn load(&self, image: &[u8]) -> Result<Arc<Module>> {
        self.context.enter()?;
        let mut raw: CUmodule = std::ptr::null_mut();
        // SAFETY: the image is whole machine code, which names its own length.
        let result = unsafe { sys::cuModuleLoadData(&mut raw, image.as_ptr().cast::<c_void>()) };
        check("loading kernels", result)?;
        Ok(Arc::new(Module { context: self.context.clone(), raw }))
    }

    fn entry(&self, module: &Arc<Module>, name: &str, shared: u32) -> Result<Arc<Function>> {
        let name = CString::new(name).map_err(|e| Error::internal(e.to_string()))?;
        let mut raw: CUfunction = std::ptr::null_mut();
        // SAFETY: the module lives; the name ends with a zero.
        check("finding a kernel", unsafe { sys::cuModuleGetFunction(&mut raw, module.raw, name.as_ptr()) })?;
        if shared > 48 << 10 {
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function lives with its module.
            let result = unsafe { sys::cuFuncSetAttribute(raw, which, shared as i32) };
            check("making room for a kernel's shared memory", result)?;
        }
        Ok(Arc::new(Function { raw, module: module.clone() }))
    }
}
