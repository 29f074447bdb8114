//! ONNX Runtime by its C interface, which many threads may call on one session (the safe binding asks for `&mut`).

use std::ffi::CString;
use std::path::Path;
use std::ptr;

use ort::AsPointer;
use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::sys;
use streampool::{DType, Error, HostTensor, Result};

use crate::engine::{Call, Engine};

pub(crate) struct OnnxRuntime {
    session: Session,
    inputs: Vec<CString>,
    output: CString,
}

// SAFETY: OrtApi::Run may be called from many threads on one session (ONNX Runtime's documentation of InferenceSession::Run), and
// nothing else of the session is used after loading.
unsafe impl Sync for OnnxRuntime {}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::internal(format!("ONNX Runtime: {e}"))
}

/// Turns a status into a result and releases it.
fn check(status: sys::OrtStatusPtr) -> Result<()> {
    let status = status.0;
    if status.is_null() {
        return Ok(());
    }
    // SAFETY: a status that is not null is valid until it is released, which happens once, here.
    unsafe {
        let text =
            std::ffi::CStr::from_ptr((ort::api().GetErrorMessage)(status)).to_string_lossy().into_owned();
        (ort::api().ReleaseStatus)(status);
        Err(failed(text))
    }
}

/// Loads the library. Once per process.
pub(crate) fn open(library: &Path) -> Result<Environment> {
    ort::init_from(library).map_err(failed)?.build().map_err(failed)
}

impl OnnxRuntime {
    /// `environment` from [`open`]; `threads` is how many cores one call uses.
    pub(crate) fn load(
        environment: &Environment,
        model: &Path,
        threads: usize,
        inputs: &[(String, HostTensor)],
    ) -> Result<Self> {
        let session = Session::builder(environment)
            .map_err(failed)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(failed)?
            .with_intra_threads(threads)
            .map_err(failed)?
            .commit_from_file(model)
            .map_err(failed)?;
        let output =
            session.outputs().first().map(|o| o.name().to_owned()).ok_or_else(|| failed("no outputs"))?;
        let name = |n: &str| CString::new(n).map_err(failed);
        Ok(Self {
            inputs: inputs.iter().map(|(n, _)| name(n)).collect::<Result<_>>()?,
            output: name(&output)?,
            session,
        })
    }
}

/// An OrtValue of our own.
struct Value(*mut sys::OrtValue);

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: made by ONNX Runtime, released once.
        unsafe { (ort::api().ReleaseValue)(self.0) }
    }
}

impl Value {
    /// A view of `t`, which must outlive it.
    fn of(t: &HostTensor) -> Result<Self> {
        let dims: Vec<i64> = t.ty().shape.iter().map(|&d| d as i64).collect();
        let ty = match t.ty().dtype {
            DType::F32 => sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
            DType::I64 => sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
            other => return Err(failed(format!("inputs of {other} are not wired up"))),
        };
        let mut info = ptr::null_mut();
        let mut value = ptr::null_mut();
        // SAFETY: out pointers are valid; the data are only read, and the caller keeps them alive; `info` is released once, after the
        // value that copies it was made.
        unsafe {
            check((ort::api().CreateCpuMemoryInfo)(
                sys::OrtAllocatorType::OrtArenaAllocator,
                sys::OrtMemType::OrtMemTypeDefault,
                &mut info,
            ))?;
            let made = check((ort::api().CreateTensorWithDataAsOrtValue)(
                info,
                t.bytes().as_ptr().cast_mut().cast(),
                t.bytes().len(),
                dims.as_ptr(),
                dims.len(),
                ty,
                &mut value,
            ));
            (ort::api().ReleaseMemoryInfo)(info);
            made?;
        }
        Ok(Self(value))
    }
}

impl OnnxRuntime {
    fn run(&self, values: &[Value]) -> Result<Value> {
        let mut names = [ptr::null(); 8];
        let mut inputs = [ptr::null::<sys::OrtValue>(); 8];
        for (i, (name, value)) in self.inputs.iter().zip(values).enumerate() {
            names[i] = name.as_ptr();
            inputs[i] = value.0;
        }
        let mut out = ptr::null_mut();
        // SAFETY: names and values live through the call; one output is asked for and `out` has room for it; Run is thread-safe.
        check(unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                ptr::null(),
                names.as_ptr(),
                inputs.as_ptr(),
                values.len(),
                &self.output.as_ptr(),
                1,
                &mut out,
            )
        })?;
        Ok(Value(out))
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &'static str {
        "ONNX Runtime"
    }

    fn caller<'a>(&'a self, inputs: &'a [(String, HostTensor)]) -> Result<Call<'a>> {
        let values = inputs.iter().map(|(_, t)| Value::of(t)).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(move || self.run(&values).map(drop)))
    }

    fn first_output(&self, inputs: &[(String, HostTensor)]) -> Result<Vec<f32>> {
        let values = inputs.iter().map(|(_, t)| Value::of(t)).collect::<Result<Vec<_>>>()?;
        let out = self.run(&values)?;
        let (mut data, mut shape, mut n) = (ptr::null_mut(), ptr::null_mut(), 0);
        // SAFETY: `out` is a float tensor that lives to the end of this function; `n` is its element count.
        unsafe {
            check((ort::api().GetTensorMutableData)(out.0, &mut data))?;
            check((ort::api().GetTensorTypeAndShape)(out.0, &mut shape))?;
            check((ort::api().GetTensorShapeElementCount)(shape, &mut n))?;
            (ort::api().ReleaseTensorTypeAndShapeInfo)(shape);
            Ok(std::slice::from_raw_parts(data.cast::<f32>(), n).to_vec())
        }
    }
}
