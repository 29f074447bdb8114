//! One case: a step with its operands and inputs, run by the CPU device and by the kernels.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::process::Command;
use std::sync::Arc;

use streampool_core::driver::{Bindings, Driver, Slice};
use streampool_core::op::{DType, HostTensor, Op, Operand, Place, Port, Program, Scalar, Step, TensorType};
use streampool_cpu::{CpuConfig, CpuDriver, Executor};
use streampool_kernels::{Binding, Dialect, Kernel, failed_index, lower, prelude};

/// A step on inputs of its own; operands may be views.
pub struct Case {
    pub name: String,
    pub op: Op,
    pub inputs: Vec<Operand>,
    pub outputs: Vec<Operand>,
    pub data: Vec<HostTensor>,
    /// Largest relative error (L2) that rounding in another order may make.
    pub tolerance: f64,
}

pub struct Library {
    library: libloading::Library,
}

impl Case {
    pub fn kernels(&self) -> Vec<Kernel> {
        lower(&self.op, &self.inputs, &self.outputs).unwrap_or_else(|| panic!("{}: no kernels", self.name))
    }

    fn buffers(&self) -> Vec<HostTensor> {
        // Whatever is not written shows.
        self.outputs
            .iter()
            .map(|o| {
                let mut t = HostTensor::zeros(TensorType::new(o.dtype, [o.layout.end()])).unwrap();
                t.bytes_mut().fill(if o.dtype == DType::Bool { 1 } else { 0x5a });
                t
            })
            .collect()
    }

    /// What the kernels give, and the index that was told if one was out of range.
    pub fn execute(&self, library: &Library) -> (Vec<HostTensor>, Option<i64>) {
        let mut outputs = self.buffers();
        let mut status = 0u64;
        for kernel in self.kernels() {
            let mut args: Vec<*mut c_void> = kernel
                .params
                .iter()
                .map(|p| {
                    let at =
                        |o: &Operand, t: *mut u8| t.wrapping_add(o.layout.offset * o.dtype.size()).cast();
                    match p.binding {
                        Binding::Input(i) => at(&self.inputs[i], self.data[i].bytes().as_ptr().cast_mut()),
                        Binding::Output(i) => at(&self.outputs[i], outputs[i].bytes_mut().as_mut_ptr()),
                        Binding::Status => (&raw mut status).cast(),
                    }
                })
                .collect();
            // SAFETY: the library was made from this very kernel, whose parameters these are; buffers have the operands' extents.
            unsafe {
                let entry: libloading::Symbol<'_, unsafe extern "C" fn(*mut *mut c_void)> =
                    library.library.get(kernel.name.as_bytes()).expect("the kernel was compiled");
                entry(args.as_mut_ptr());
            }
        }
        (outputs, failed_index(status))
    }

    fn expected(&self) -> Vec<HostTensor> {
        let driver = CpuDriver::new(CpuConfig { cores: 1 });
        let port = |o: &Operand| Port { dtype: o.dtype, bytes: o.layout.end() * o.dtype.size() };
        let program = Program {
            name: self.name.clone(),
            inputs: self.inputs.iter().map(port).collect(),
            outputs: self.outputs.iter().map(port).collect(),
            steps: vec![Step {
                name: self.name.clone(),
                op: self.op.clone(),
                inputs: self.inputs.clone(),
                outputs: self.outputs.clone(),
            }],
            ..Program::default()
        };
        let program = driver.compile_program(&program).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let mut outputs = self.buffers();
        let read: Vec<Slice<'_>> = self.data.iter().map(|t| Slice::host(t.bytes())).collect();
        let written: Vec<Slice<'_>> = outputs.iter_mut().map(|t| Slice::host_mut(t.bytes_mut())).collect();
        let bindings = Bindings { inputs: &read, outputs: &written, arena: Slice::EMPTY };
        let team = Arc::clone(driver.team());
        Executor::new(team).run(&program, &bindings).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let _ = driver.info();
        outputs
    }

    pub fn compare(&self, library: &Library) -> Result<(), String> {
        let expected = self.expected();
        let (got, failed) = self.execute(library);
        if let Some(index) = failed {
            return Err(format!("{}: index {index} is out of range", self.name));
        }
        for (n, (e, g)) in expected.iter().zip(&got).enumerate() {
            let (mut error, mut size) = (0.0, 0.0);
            for i in 0..e.ty().shape.len() {
                let (x, y) = (e.get(i), g.get(i));
                let differs = |what: &str| {
                    Err(format!("{}: output {n} element {i} is {y:?}, should be {x:?} ({what})", self.name))
                };
                if !x.dtype().is_float() {
                    if x != y {
                        return differs("exact");
                    }
                    continue;
                }
                let (x, y) = (x.to_f64(), y.to_f64());
                if x.is_nan() != y.is_nan() || (x.is_infinite() || y.is_infinite()) && x != y {
                    return differs("NaN or infinity");
                }
                if x.is_finite() {
                    error += (x - y) * (x - y);
                    size += x * x;
                }
            }
            let relative = error.sqrt() / size.sqrt().max(1e-30);
            if error > 0.0 && relative > self.tolerance {
                return Err(format!("{}: output {n} is off by {relative:.2e}", self.name));
            }
        }
        Ok(())
    }
}

/// Compiles all kernels into one library.
pub fn compile(cases: &[Case]) -> Library {
    let kernels: BTreeMap<String, Kernel> =
        cases.iter().flat_map(Case::kernels).map(|k| (k.name.clone(), k)).collect();
    let mut text = prelude(Dialect::Host);
    for kernel in kernels.values() {
        text.push_str(&kernel.source(Dialect::Host));
    }
    let folder =
        std::env::temp_dir().join(format!("streampool-kernels-{}-{}", std::process::id(), kernels.len()));
    std::fs::create_dir_all(&folder).expect("a folder for the compiler");
    let (source, object) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
    std::fs::write(&source, text).expect("the source is written");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let output = Command::new(&compiler)
        .args([
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-fwrapv",
            "-w",
            "-shared",
            "-fPIC",
            "-o",
        ])
        .arg(&object)
        .arg(&source)
        .output()
        .unwrap_or_else(|e| panic!("no C++ compiler '{compiler}' ({e}): install g++ or set CXX"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the kernels do not compile ({}):\n{}",
        source.display(),
        &errors[..errors.len().min(4000)]
    );
    // SAFETY: the library has no constructors but those of empty statics.
    let library = unsafe { libloading::Library::new(&object) }.expect("the library loads");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    Library { library }
}

/// A dense operand on a buffer of its own.
pub fn dense(place: Place, ty: &TensorType) -> Operand {
    Operand { place, dtype: ty.dtype, layout: streampool_core::op::Layout::contiguous(ty.shape.clone()) }
}

/// One element of a tensor.
pub fn set(tensor: &mut HostTensor, i: usize, value: Scalar) {
    let size = value.dtype().size();
    tensor.bytes_mut()[i * size..][..size].copy_from_slice(&value.bits().to_le_bytes()[..size]);
}
