//! What a model is and how it will run, for the command line's `inspect`.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use streampool::graph::{Dim, InputSpec, InterfaceInfo, Plan, Planned};
use streampool::{Error, Model, Result, Shape, TensorType};

use crate::dtype;
use crate::errors::OrRaise;
use crate::lock::released;
use crate::model::PyModel;

/// What came of planning.
enum Outcome {
    /// The plan, and a line a step about what the device chose for it.
    Plan(std::sync::Arc<Plan>, Vec<String>),
    /// Why there is none.
    None(String),
}

/// A model's interface, operators, and its plan for inputs of these types: `{"x": (float32, (1, 4))}`. Shapes inside some models depend on
/// the values of inputs; then those are needed, too, as bytes.
///
/// Args:
///     types: dtype and shape of each input.
///     values: the bytes of inputs, row-major.
///     strict: whether types that do not fit are an error, or only the reason why there is no plan.
#[pyfunction]
#[pyo3(signature = (model, types, values=None, *, strict=true))]
fn inspect_model<'py>(
    model: &Bound<'py, PyModel>,
    types: &Bound<'py, PyDict>,
    values: Option<&Bound<'py, PyDict>>,
    strict: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let py = model.py();
    let model: &Model = model.get().inner();
    let graph = model.graph();
    let mut specs = Vec::new();
    let mut bytes: Vec<Option<Vec<u8>>> = Vec::new();
    for info in graph.inputs() {
        let Some(ty) = types.get_item(&info.name)? else {
            return Err(Error::invalid_argument(format!(
                "inspect: no type is given for the input '{}'",
                info.name
            )))
            .or_raise();
        };
        let (dtype, shape): (Bound<'_, PyAny>, Vec<usize>) = ty.extract()?;
        specs.push(InputSpec::new(TensorType::new(dtype::parse(&dtype)?, Shape::from(shape))));
        let value = values.map(|v| v.get_item(&info.name)).transpose()?.flatten();
        bytes.push(value.map(|v| v.extract()).transpose()?);
    }
    let (outcome, depends) = released(py, || plan(model, specs, &bytes, strict))?;

    let summary = PyDict::new(py);
    summary.set_item("producer", graph.producer())?;
    let opsets = PyDict::new(py);
    for (domain, version) in graph.opsets() {
        opsets.set_item(if domain.is_empty() { "ai.onnx" } else { domain }, version)?;
    }
    summary.set_item("opsets", opsets)?;
    let metadata = PyDict::new(py);
    for (key, value) in graph.metadata() {
        metadata.set_item(key, value)?;
    }
    summary.set_item("metadata", metadata)?;
    summary.set_item("inputs", ports(py, graph.inputs())?)?;
    summary.set_item("outputs", ports(py, graph.outputs())?)?;
    let operators = PyDict::new(py);
    let mut nodes = 0;
    for node in graph.nodes() {
        let before: usize = operators.get_item(&node.op_type)?.map_or(Ok(0), |n| n.extract())?;
        operators.set_item(node.op_type, before + 1)?;
        nodes += 1;
    }
    summary.set_item("nodes", nodes)?;
    summary.set_item("operators", operators)?;
    summary.set_item("weight_bytes", graph.weight_bytes())?;
    summary.set_item("plan_depends_on_values_of", depends)?;
    match outcome {
        Outcome::Plan(plan, kernels) => summary.set_item("plan", plan_summary(py, &plan, &kernels)?)?,
        Outcome::None(why) => {
            summary.set_item("plan", py.None())?;
            summary.set_item("no_plan", why)?;
        }
    }
    Ok(summary)
}

/// The plan, given the values that it asks for as far as they are there; and the inputs whose values it asks for.
fn plan(
    model: &Model,
    mut specs: Vec<InputSpec>,
    values: &[Option<Vec<u8>>],
    strict: bool,
) -> Result<(Outcome, Vec<String>)> {
    let graph = model.graph();
    let mut depends: Vec<String> = Vec::new();
    loop {
        match graph.plan(&specs) {
            Ok(Planned::Plan(_)) => {
                let (plan, kernels) = model.explain(&specs)?;
                return Ok((Outcome::Plan(plan, kernels), depends));
            }
            Ok(Planned::NeedValues(which)) => {
                depends.extend(which.iter().map(|&i| graph.inputs()[i].name.clone()));
                for i in which {
                    let Some(value) = values[i].as_ref().filter(|_| specs[i].value.is_none()) else {
                        let why = format!(
                            "the plan depends on the values of '{}', not on shapes alone; give inputs with --input X.npz",
                            depends.join("', '")
                        );
                        return Ok((Outcome::None(why), depends));
                    };
                    specs[i] = InputSpec::new(specs[i].ty.clone()).with_value(value.clone().into());
                }
            }
            Err(e) if !strict => {
                let why = format!("not for free axes of length 1: {e}; give shapes with --shape NAME=AxB");
                return Ok((Outcome::None(why), depends));
            }
            Err(e) => return Err(e),
        }
    }
}

fn ports<'py>(py: Python<'py>, infos: &[InterfaceInfo]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for info in infos {
        let port = PyDict::new(py);
        port.set_item("name", &info.name)?;
        port.set_item("dtype", info.dtype.map(|d| d.name()))?;
        let name = |d: &Dim| match d {
            Dim::Unknown => "?".to_owned(),
            d => d.to_string(),
        };
        port.set_item("dims", info.dims.as_ref().map(|dims| dims.iter().map(name).collect::<Vec<_>>()))?;
        list.append(port)?;
    }
    Ok(list)
}

fn plan_summary<'py>(py: Python<'py>, plan: &Plan, kernels: &[String]) -> PyResult<Bound<'py, PyDict>> {
    let summary = PyDict::new(py);
    for (key, ports) in [("inputs", &plan.inputs), ("outputs", &plan.outputs)] {
        let types = PyDict::new(py);
        for (name, ty) in ports {
            types.set_item(name, ty.to_string())?;
        }
        summary.set_item(key, types)?;
    }
    let steps = PyList::empty(py);
    for (i, step) in plan.program.steps.iter().enumerate() {
        let entry = PyDict::new(py);
        entry.set_item("name", &step.name)?;
        entry.set_item("operation", step.op.name())?;
        entry.set_item("outputs", step.outputs.iter().map(|o| o.ty().to_string()).collect::<Vec<_>>())?;
        if let Some(kernel) = kernels.get(i) {
            // The line begins with the step's name, which has a column of its own.
            entry.set_item("kernel", kernel.strip_prefix(&format!("{}: ", step.name)).unwrap_or(kernel))?;
        }
        steps.append(entry)?;
    }
    summary.set_item("steps", steps)?;
    summary.set_item("fused", plan.report.fused.clone())?;
    summary.set_item("arena_bytes", plan.report.arena_bytes)?;
    summary.set_item("naive_bytes", plan.report.naive_bytes)?;
    summary.set_item("constant_bytes", plan.report.constant_bytes)?;
    summary.set_item("in_place", plan.report.in_place)?;
    Ok(summary)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(inspect_model, m)?)
}
