//! Models.
//!
//! # The interpreter lock on the way of a run
//!
//! To let go of the lock and take it again costs little while nobody wants it; if other threads do, taking it again means to wait until the
//! holder lets go and the system wakes this thread: tens of microseconds, far more than the smallest models run. So a run that is known to
//! be short (the plan's own clock says so), on a device that is done when a submission returns, and that has to wait for nothing, keeps the lock:
//! threads then take turns as with any Python code, and the rate does not fall as they get more. All other runs let go of it.

use std::sync::Arc;
use std::time::Duration;

use numpy::PyUntypedArray;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use smallvec::SmallVec;
use streampool::graph::{Dim, InterfaceInfo};
use streampool::{DType, Device, Input, Model, Shape, Tensor, TensorType};

use crate::device::PyDevice;
use crate::dtype;
use crate::errors::{OrRaise, invalid, invalid_because};
use crate::lock::released;
use crate::numpy_array::{self, ArrayView};
use crate::tensor::PyTensor;

/// A run that takes longer lets go of the interpreter lock. Measured: handing the lock over between threads costs about as much.
const SHORT: Duration = Duration::from_micros(25);

/// A model on a device, from an ONNX file. One object serves all threads; there is no session per thread.
///
/// `model(x)` runs it on arrays or tensors in the model's order, or by name (`model(input_ids=ids)`), and returns the result, or a tuple of
/// several. `model.run({"x": x})` takes a dict and returns one. Arrays in give arrays out; a tensor among the inputs gives tensors.
///
/// The first run with new input shapes compiles a plan, once, however many threads ask.
///
/// Args:
///     path: an ONNX file, or its bytes.
///     device: a Device or its name; the default device if None.
///
/// Raises:
///     InvalidModel: the file is damaged.
///     Unsupported: it has operators that are not implemented; all are listed.
///     FileError: it cannot be read.
#[pyclass(frozen, name = "Model", module = "streampool", weakref)]
pub(crate) struct PyModel {
    inner: Arc<Model>,
    inputs: Vec<Py<PyString>>,
    outputs: Vec<Py<PyString>>,
}

/// An input as it came from Python, kept for as long as it is read.
enum Given<'py> {
    Array(Bound<'py, PyUntypedArray>),
    Tensor(Bound<'py, PyTensor>),
}

pub(crate) type Inputs<'a> = SmallVec<[Input<'a>; 4]>;

impl<'py> Given<'py> {
    fn new(ob: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Some(array) = numpy_array::as_array(ob) {
            return Ok(Given::Array(numpy_array::dense(array)?));
        }
        if let Ok(tensor) = ob.cast::<PyTensor>() {
            return Ok(Given::Tensor(tensor.clone()));
        }
        Self::other(ob)
    }

    /// Numbers, lists, and whatever NumPy makes an array of.
    #[cold]
    fn other(ob: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = numpy_array::module(ob.py())?
            .call_method1("ascontiguousarray", (ob,))
            .map_err(|e| invalid_because(ob.py(), "an input makes no array", e))?;
        Ok(Given::Array(array.cast_into()?))
    }

    fn head(&self) -> PyResult<Option<ArrayView<'_>>> {
        match self {
            Given::Array(array) => {
                let head = numpy_array::view(array)?;
                if head.dtype == DType::Bool && numpy_array::bytes_of(&head).iter().any(|&b| b > 1) {
                    return Err(invalid(
                        "a bool is one byte of 0 or 1, the array has others; compare it with 0 first",
                    ));
                }
                Ok(Some(head))
            }
            Given::Tensor(_) => Ok(None),
        }
    }

    fn input<'a>(&'a self, head: &'a Option<ArrayView<'a>>) -> Input<'a> {
        match (self, head) {
            (Given::Tensor(tensor), _) => Input::Tensor(&tensor.get().inner),
            (Given::Array(_), Some(head)) => {
                Input::Host { dtype: head.dtype, shape: head.shape, bytes: numpy_array::bytes_of(head) }
            }
            (Given::Array(_), None) => unreachable!("every array has a head"),
        }
    }
}

/// What goes back to Python.
enum Results<'py> {
    Arrays(SmallVec<[Bound<'py, PyAny>; 4]>),
}

impl PyModel {
    fn load(py: Python<'_>, source: &Bound<'_, PyAny>, device: &Device) -> PyResult<Self> {
        let inner = if let Ok(bytes) = source.cast::<PyBytes>() {
            let bytes = bytes.as_bytes().to_vec();
            released(py, || Model::from_bytes(device, bytes))?
        } else {
            let path = source.extract::<std::path::PathBuf>().map_err(|e| {
                match e.is_instance_of::<PyTypeError>(py) {
                    true => PyTypeError::new_err("a model is a path of an ONNX file, or its bytes"),
                    false => e,
                }
            })?;
            released(py, || Model::load(device, path))?
        };
        let intern =
            |infos: &[InterfaceInfo]| infos.iter().map(|i| PyString::intern(py, &i.name).unbind()).collect();
        let (inputs, outputs) = (intern(inner.graph().inputs()), intern(inner.graph().outputs()));
        Ok(Self { inner: Arc::new(inner), inputs, outputs })
    }

    pub(crate) fn inner(&self) -> &Model {
        &self.inner
    }

    /// The run itself.
    fn results<'py>(&self, py: Python<'py>, given: &[Given<'py>]) -> PyResult<Results<'py>> {
        let heads = given.iter().map(Given::head).collect::<PyResult<SmallVec<[_; 4]>>>()?;
        let inputs: Inputs<'_> = given.iter().zip(&heads).map(|(g, head)| g.input(head)).collect();
        let tensors_wanted = given.iter().any(|g| matches!(g, Given::Tensor(_)));
        let tensors = match self.inner.run_if_short(&inputs, SHORT).or_raise()? {
            Some(outputs) => outputs.into_vec(),
            None => {
                let whole = Whole(&inputs);
                released(py, || {
                    let tensors = self.inner.run_ordered(whole.get())?.into_vec();
                    if !tensors_wanted {
                        // Where the host has to wait for results, it does so without the lock.
                        tensors.iter().try_for_each(Tensor::wait)?;
                    }
                    Ok(tensors)
                })?
            }
        };
        Ok(Results::Arrays(if tensors_wanted {
            tensors
                .into_iter()
                .map(|t| Ok(Bound::new(py, PyTensor::new(t))?.into_any()))
                .collect::<PyResult<_>>()?
        } else {
            tensors.into_iter().map(|t| numpy_array::from_result(py, t)).collect::<PyResult<_>>()?
        }))
    }

    fn by_name<'py>(&self, inputs: &Bound<'py, PyDict>) -> PyResult<SmallVec<[Given<'py>; 4]>> {
        let py = inputs.py();
        let mut given = SmallVec::new();
        for name in &self.inputs {
            match inputs.get_item(name.bind(py))? {
                Some(ob) => given.push(Given::new(&ob)?),
                None => return Err(self.wrong_names(inputs)),
            }
        }
        if inputs.len() != self.inputs.len() {
            return Err(self.wrong_names(inputs));
        }
        Ok(given)
    }

    #[cold]
    fn wrong_names(&self, inputs: &Bound<'_, PyDict>) -> PyErr {
        let want: Vec<_> = self.inner.graph().inputs().iter().map(|i| i.name.as_str()).collect();
        let got: Vec<_> = inputs.keys().iter().map(|k| k.to_string()).collect();
        invalid(format!(
            "the model's inputs are '{}', given were '{}'; give each once, by name",
            want.join("', '"),
            got.join("', '")
        ))
    }

    fn in_order<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<SmallVec<[Given<'py>; 4]>> {
        let py = args.py();
        if args.len() == 1
            && let Ok(dict) = args.get_borrowed_item(0)?.cast::<PyDict>()
            && kwargs.is_none_or(|k| k.is_empty())
        {
            return self.by_name(&dict);
        }
        let named = kwargs.map_or(0, |k| k.len());
        if args.len() + named != self.inputs.len() {
            let want: Vec<_> = self.inner.graph().inputs().iter().map(|i| i.name.as_str()).collect();
            return Err(invalid(format!(
                "the model has {} inputs ('{}'), given were {}",
                want.len(),
                want.join("', '"),
                args.len() + named
            )));
        }
        let mut given = SmallVec::new();
        for arg in args.iter_borrowed() {
            given.push(Given::new(&arg)?);
        }
        if let Some(kwargs) = kwargs {
            for name in &self.inputs[args.len()..] {
                match kwargs.get_item(name.bind(py))? {
                    Some(ob) => given.push(Given::new(&ob)?),
                    None => return Err(self.wrong_names(kwargs)),
                }
            }
        }
        Ok(given)
    }

    fn interface<'py>(py: Python<'py>, infos: &[InterfaceInfo]) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        for info in infos {
            let dtype = info.dtype.map(|d| dtype::object(py, d)).transpose()?;
            let dims = match &info.dims {
                None => None,
                Some(dims) => {
                    let dims = dims
                        .iter()
                        .map(|dim| match dim {
                            Dim::Fixed(n) => Ok(n.into_pyobject(py)?.into_any()),
                            other => Ok(PyString::new(py, &other.to_string()).into_any()),
                        })
                        .collect::<PyResult<Vec<_>>>()?;
                    Some(PyTuple::new(py, dims)?)
                }
            };
            all.set_item(&info.name, (dtype, dims))?;
        }
        Ok(all)
    }
}

/// Inputs on their way to where the lock is not held.
struct Whole<'a>(&'a [Input<'a>]);

impl<'a> Whole<'a> {
    fn get(&self) -> &'a [Input<'a>] {
        self.0
    }
}

impl<'py> Results<'py> {
    fn list(self) -> SmallVec<[Bound<'py, PyAny>; 4]> {
        let Results::Arrays(list) = self;
        list
    }
}

#[pymethods]
impl PyModel {
    #[new]
    #[pyo3(signature = (path, device=None))]
    fn new(path: &Bound<'_, PyAny>, device: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        Self::load(path.py(), path, &crate::device::parse(device)?)
    }

    /// Runs the model on a dict of inputs by name; returns a dict of outputs by name.
    ///
    /// Raises:
    ///     InvalidArgument: a name, dtype, rank or length does not fit the model.
    ///     OutOfMemoryError, PoolExhaustedError, ForkError, ShutDownError: as everywhere.
    fn run<'py>(&self, inputs: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
        let py = inputs.py();
        let given = match inputs.cast::<PyDict>() {
            Ok(dict) => self.by_name(dict)?,
            Err(_) => {
                let dict = PyDict::new(py);
                if !inputs.hasattr("keys")? {
                    return Err(PyTypeError::new_err("run: needs a dict of inputs by name"));
                }
                dict.call_method1("update", (inputs,))?;
                self.by_name(&dict)?
            }
        };
        let results = self.results(py, &given)?.list();
        let dict = PyDict::new(py);
        for (name, value) in self.outputs.iter().zip(results) {
            dict.set_item(name.bind(py), value)?;
        }
        Ok(dict)
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = args.py();
        let given = self.in_order(args, kwargs)?;
        let mut results = self.results(py, &given)?.list();
        match results.len() {
            1 => Ok(results.remove(0)),
            _ => Ok(PyTuple::new(py, results)?.into_any()),
        }
    }

    /// As a call, without blocking the event loop: `await model.run_async(x)`. A few threads serve all requests; cancelling one frees what it
    /// held if it has not begun.
    #[pyo3(signature = (*args, **kwargs))]
    fn run_async<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.get().inner.device().check().or_raise()?;
        crate::asyncio::submit(slf, args, kwargs)
    }

    /// The device it runs on.
    #[getter]
    fn device(&self) -> PyDevice {
        PyDevice { inner: self.inner.device().clone() }
    }

    /// Inputs by name: (dtype, axis lengths), a length that may vary as its name.
    #[getter]
    fn inputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        Self::interface(py, self.inner.graph().inputs())
    }

    /// Outputs by name: (dtype, axis lengths), None for what the file does not say.
    #[getter]
    fn outputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        Self::interface(py, self.inner.graph().outputs())
    }

    /// The names of the inputs, in order.
    #[getter]
    fn input_names<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.inputs)
    }

    /// The names of the outputs, in order.
    #[getter]
    fn output_names<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.outputs)
    }

    /// How many plans were compiled: one for each set of input shapes, however many threads asked.
    #[getter]
    fn compile_count(&self) -> u64 {
        self.inner.compile_count()
    }

    /// Bytes of the weights in the file.
    #[getter]
    fn weight_bytes(&self) -> usize {
        self.inner.graph().weight_bytes()
    }

    /// Operators and how often the file has them.
    #[getter]
    fn operators<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = PyDict::new(py);
        for node in self.inner.graph().nodes() {
            let n = counts.get_item(&node.op_type)?.map_or(Ok(0u64), |n| n.extract())?;
            counts.set_item(&node.op_type, n + 1)?;
        }
        Ok(counts)
    }

    /// The plan for inputs of these types, `{"x": (float32, (1, 4))}`: a line a step.
    fn plan(&self, py: Python<'_>, types: &Bound<'_, PyDict>) -> PyResult<Vec<String>> {
        let mut list = Vec::new();
        for name in &self.inputs {
            let (dtype, shape): (Bound<'_, PyAny>, Vec<usize>) = match types.get_item(name.bind(py))? {
                Some(ty) => ty.extract()?,
                None => return Err(self.wrong_names(types)),
            };
            list.push(TensorType::new(dtype::parse(&dtype)?, Shape::from(shape)));
        }
        let plan = released(py, || self.inner.plan(&list))?;
        Ok(plan.program.steps.iter().map(|step| format!("{} {}", step.op.name(), step.name)).collect())
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.inner)
    }
}
