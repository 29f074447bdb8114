//! A case, run by the CPU device and by the kernels.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::targets::HOPPER;
use streampool_conformance::Case;
use streampool_core::Error;
use streampool_core::Result;
use streampool_core::driver::{Bindings, Slice};
use streampool_core::op::{DType, HostTensor, Operand, Place, Program, TensorType};
use streampool_cpu::{CpuConfig, CpuDriver, Executor};
use streampool_kernels::{Binding, Dialect, Kernel, failed_index, lower, prelude};

/// The kernels of many cases, compiled for the host.
pub(crate) struct Library {
    library: libloading::Library,
}

pub(crate) fn kernels(case: &Case) -> Vec<Kernel> {
    lower(&case.op, &case.inputs, &case.outputs, HOPPER.0)
        .unwrap_or_else(|| panic!("{}: no kernels", case.name))
}

/// What the CPU device gives.
pub(crate) fn expected(case: &Case) -> Vec<HostTensor> {
    let mut outputs = case.buffers();
    run_into(&case.program(), &case.data, &mut outputs);
    outputs
}

/// What the CPU device gives of a program, in zeroed buffers of these types.
pub(crate) fn run_on_cpu(program: &Program, data: &[HostTensor], outputs: &[TensorType]) -> Vec<HostTensor> {
    let mut outputs: Vec<HostTensor> =
        outputs.iter().map(|t| HostTensor::zeros(t.clone()).expect("room for a test")).collect();
    run_into(program, data, &mut outputs);
    outputs
}

/// The error that the CPU device gives.
pub(crate) fn fails_on_cpu(case: &Case) -> Error {
    let mut outputs = case.buffers();
    try_run_into(&case.program(), &case.data, &mut outputs).expect_err("the case fails")
}

fn run_into(program: &Program, data: &[HostTensor], outputs: &mut [HostTensor]) {
    try_run_into(program, data, outputs).unwrap_or_else(|e| panic!("{}: {e}", program.name));
}

fn try_run_into(program: &Program, data: &[HostTensor], outputs: &mut [HostTensor]) -> Result<()> {
    let driver = CpuDriver::new(CpuConfig { cores: 1 });
    let executable = driver.compile_program(program)?;
    let mut arena = HostTensor::zeros(TensorType::new(DType::U8, [program.arena_bytes])).expect("an arena");
    let read: Vec<Slice<'_>> = data.iter().map(|t| Slice::host(t.bytes())).collect();
    let written: Vec<Slice<'_>> = outputs.iter_mut().map(|t| Slice::host_mut(t.bytes_mut())).collect();
    let bindings = Bindings { inputs: &read, outputs: &written, arena: Slice::host_mut(arena.bytes_mut()) };
    let team = Arc::clone(driver.team());
    Executor::new(team).run(&executable, &bindings)
}

impl Library {
    /// What the kernels give, and the index that was told if one was out of range.
    pub(crate) fn execute(&self, case: &Case) -> (Vec<HostTensor>, Option<i64>) {
        let (outputs, status) = self.run(case);
        (outputs, failed_index(status))
    }

    /// The status word that the kernels leave.
    pub(crate) fn status(&self, case: &Case) -> u64 {
        self.run(case).1
    }

    fn run(&self, case: &Case) -> (Vec<HostTensor>, u64) {
        let mut outputs = case.buffers();
        let mut status = 0u64;
        let list = kernels(case);
        // Not zeros: kernels find anything there.
        let bytes = list.iter().map(|k| k.scratch).max().unwrap_or(0);
        let mut scratch = vec![0x7e7e_7e7e_7e7e_7e7eu64; bytes.div_ceil(8)];
        for kernel in list {
            let at = |o: &Operand, t: *mut u8| t.wrapping_add(o.layout.offset * o.dtype.size());
            self.launch_at(&kernel, |binding| match binding {
                Binding::Input(i) => Some(at(&case.inputs[i], case.data[i].bytes().as_ptr().cast_mut())),
                Binding::Output(i) => Some(at(&case.outputs[i], outputs[i].bytes_mut().as_mut_ptr())),
                Binding::Status => Some((&raw mut status).cast()),
                Binding::Scratch => Some(scratch.as_mut_ptr().cast()),
            });
        }
        (outputs, status)
    }

    /// Runs a kernel on operands that lie in `data`, with outputs from their first byte on.
    pub(crate) fn launch(
        &self,
        kernel: &Kernel,
        inputs: &[Operand],
        data: &[HostTensor],
        outputs: &mut [HostTensor],
    ) {
        let mut status = 0u64;
        self.launch_at(kernel, |binding| match binding {
            Binding::Input(i) => {
                let Place::Input(n) = inputs[i].place else { return None };
                let first = data[n as usize].bytes().as_ptr().cast_mut();
                Some(first.wrapping_add(inputs[i].layout.offset * inputs[i].dtype.size()))
            }
            Binding::Output(i) => Some(outputs[i].bytes_mut().as_mut_ptr()),
            Binding::Status => Some((&raw mut status).cast()),
            Binding::Scratch => None,
        });
        assert_eq!(status, 0, "{}: the kernel says that its data is wrong", kernel.what);
    }

    /// Runs a kernel; `at` tells where each binding's element 0 is.
    pub(crate) fn launch_at(&self, kernel: &Kernel, mut at: impl FnMut(Binding) -> Option<*mut u8>) {
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
        }
    }

    /// Compiles all kernels of `cases` into one library.
    pub(crate) fn new(cases: &[Case]) -> Self {
        Self::of(cases.iter().flat_map(kernels))
    }

    /// Compiles kernels into one library.
    pub(crate) fn of(kernels: impl IntoIterator<Item = Kernel>) -> Self {
        let all: BTreeMap<String, Kernel> = kernels.into_iter().map(|k| (k.name.clone(), k)).collect();
        let mut text = prelude(Dialect::Host);
        for kernel in all.values() {
            text.push_str(&kernel.source(Dialect::Host));
        }
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let folder = std::env::temp_dir().join(format!(
            "streampool-kernels-{}-{}",
            std::process::id(),
            FOLDERS.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&folder).expect("a folder for the compiler");
        let (source, object) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
        std::fs::write(&source, text).expect("the source is written");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let options = "-std=c++17 -O1 -ffp-contract=off -fno-strict-aliasing -fwrapv -w -shared -fPIC -o";
        let output = Command::new(&compiler)
            .args(options.split(' '))
            .arg(&object)
            .arg(&source)
            .output()
            .unwrap_or_else(|e| panic!("no C++ compiler '{compiler}' ({e}): install g++ or set CXX"));
        let errors: String = String::from_utf8_lossy(&output.stderr).chars().take(4000).collect();
        assert!(output.status.success(), "the kernels do not compile ({}):\n{errors}", source.display());
        // SAFETY: the library has no constructors but those of empty statics.
        let library = unsafe { libloading::Library::new(&object) }.expect("the library loads");
        std::fs::remove_dir_all(&folder).expect("the folder goes");
        Self { library }
    }
}
