//! Kernels, compiled for the host and loaded.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use streampool_core::op::{HostTensor, Operand, Place};
use streampool_kernels::{Binding, Dialect, Kernel, prelude};

/// Many kernels in one library.
pub(crate) struct Library {
    library: libloading::Library,
    /// Its text and its machine code, for as long as a sanitizer may want to name lines.
    folder: PathBuf,
}

/// A tensor's bytes in memory of their own, whose end a sanitizer knows: a tensor has room behind it.
pub(crate) fn exact(t: &HostTensor) -> Box<[u8]> {
    let bytes: Box<[u8]> = t.bytes().into();
    assert!(
        bytes.is_empty() || bytes.as_ptr().addr().is_multiple_of(16),
        "the allocator aligns what it gives"
    );
    bytes
}

impl Drop for Library {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Library {
    /// Compiles kernels.
    pub(crate) fn of(kernels: impl IntoIterator<Item = Kernel>) -> Self {
        let all: BTreeMap<String, Kernel> = kernels.into_iter().map(|k| (k.name.clone(), k)).collect();
        Self::of_text(&all.values().map(|k| k.source(Dialect::Host)).collect::<String>())
    }

    /// Compiles the text of kernels. `$CXX` is the compiler, `$CXXFLAGS` what it is told besides.
    pub(crate) fn of_text(text: &str) -> Self {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let folder = std::env::temp_dir().join(format!(
            "streampool-kernels-{}-{}",
            std::process::id(),
            FOLDERS.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&folder).expect("a folder for the compiler");
        let (source, object) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
        std::fs::write(&source, prelude(Dialect::Host) + text).expect("the source is written");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let options = "-std=c++17 -O1 -ffp-contract=off -fno-strict-aliasing -fwrapv -w -shared -fPIC -o";
        let output = Command::new(&compiler)
            .args(options.split(' '))
            .arg(&object)
            .arg(&source)
            .args(std::env::var("CXXFLAGS").unwrap_or_default().split_whitespace())
            // A sanitizer that is loaded before this program is not for the compiler.
            .env_remove("LD_PRELOAD")
            .output()
            .unwrap_or_else(|e| panic!("no C++ compiler '{compiler}' ({e}): install g++ or set CXX"));
        let errors: String = String::from_utf8_lossy(&output.stderr).chars().take(4000).collect();
        assert!(output.status.success(), "the kernels do not compile ({}):\n{errors}", source.display());
        // SAFETY: the library has no constructors but those of empty statics.
        let library = unsafe { libloading::Library::new(&object) }.expect("the library loads");
        Self { library, folder }
    }

    /// Runs a kernel on operands that lie in `data`, with outputs from their first byte on.
    pub(crate) fn launch(
        &self,
        kernel: &Kernel,
        inputs: &[Operand],
        data: &[HostTensor],
        outputs: &mut [HostTensor],
    ) {
        let complaints = self.try_launch(kernel, inputs, data, outputs);
        assert_eq!(complaints, 0, "{}: a device would fail, or wait for ever", kernel.what);
    }

    /// The same; tells how often a device would fail or wait for ever.
    pub(crate) fn try_launch(
        &self,
        kernel: &Kernel,
        inputs: &[Operand],
        data: &[HostTensor],
        outputs: &mut [HostTensor],
    ) -> u64 {
        let mut status = 0u64;
        let data: Vec<Box<[u8]>> = data.iter().map(exact).collect();
        let mut written: Vec<Box<[u8]>> = outputs.iter().map(exact).collect();
        let complaints = self.try_launch_at(kernel, |binding| match binding {
            Binding::Input(i) => {
                let Place::Input(n) = inputs[i].place else { return None };
                let first = data[n as usize].as_ptr().cast_mut();
                Some(first.wrapping_add(inputs[i].layout.offset * inputs[i].dtype.size()))
            }
            Binding::Output(i) => Some(written[i].as_mut_ptr()),
            Binding::Status => Some((&raw mut status).cast()),
            Binding::Scratch => None,
        });
        assert_eq!(status, 0, "{}: the kernel says that its data is wrong", kernel.what);
        outputs.iter_mut().zip(&written).for_each(|(t, bytes)| t.bytes_mut().copy_from_slice(bytes));
        complaints
    }

    /// Runs a kernel; `at` tells where each binding's element 0 is.
    pub(crate) fn launch_at(&self, kernel: &Kernel, at: impl FnMut(Binding) -> Option<*mut u8>) {
        let complaints = self.try_launch_at(kernel, at);
        assert_eq!(complaints, 0, "{}: a device would fail, or wait for ever", kernel.what);
    }

    /// The same; tells how often a device would fail or wait for ever.
    pub(crate) fn try_launch_at(
        &self,
        kernel: &Kernel,
        mut at: impl FnMut(Binding) -> Option<*mut u8>,
    ) -> u64 {
        let mut args: Vec<*mut c_void> = kernel
            .params
            .iter()
            .map(|p| at(p.binding).unwrap_or_else(|| panic!("{:?} is bound to nothing", p.binding)).cast())
            .collect();
        // SAFETY: the library was made from this very kernel, whose parameters these are; buffers have the operands' extents.
        unsafe {
            let entry: libloading::Symbol<'_, unsafe extern "C" fn(*mut *mut c_void)> =
                self.library.get(kernel.name.as_bytes()).expect("the kernel was compiled");
            entry(args.as_mut_ptr());
            let complaints: libloading::Symbol<'_, unsafe extern "C" fn() -> u64> =
                self.library.get(b"complaints_of_kernels").expect("the prelude has it");
            complaints()
        }
    }
}
