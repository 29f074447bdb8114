//! `streampool inspect`: what a model is, and how it will run.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use streampool::graph::{Dim, InputSpec, InterfaceInfo, Plan, Planned};
use streampool::{DType, Error, HostTensor, Model, Result, TensorType};
use streampool_npz::{Limits, Npz};

use crate::args::Inspect;
use crate::exit::Failure;
use crate::table::{bytes, text_table};

#[derive(Serialize)]
struct Summary {
    model: String,
    producer: String,
    opsets: BTreeMap<String, i64>,
    metadata: BTreeMap<String, String>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    nodes: usize,
    operators: BTreeMap<String, usize>,
    weight_bytes: usize,
    plan: Option<PlanSummary>,
    /// Inputs whose values, not their shapes alone, decide the plan.
    plan_depends_on_values_of: Vec<String>,
    /// Why there is no plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_plan: Option<String>,
}

#[derive(Serialize)]
struct Port {
    name: String,
    dtype: Option<&'static str>,
    /// Lengths; names of free axes; "?" for axes of any length; null if even the rank is open.
    dims: Option<Vec<String>>,
}

#[derive(Serialize)]
struct PlanSummary {
    inputs: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
    steps: Vec<StepSummary>,
    fused: Vec<String>,
    arena_bytes: usize,
    /// What the tensors in between would take without sharing memory.
    naive_bytes: usize,
    constant_bytes: usize,
    in_place: usize,
}

#[derive(Serialize)]
struct StepSummary {
    name: String,
    operation: &'static str,
    outputs: Vec<String>,
    /// What the device chose for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
}

/// What came of planning.
enum Outcome {
    Plan(Arc<Plan>, Vec<String>),
    /// The types or the model are not as they must be for a plan; why.
    None(String),
}

/// Runs the command.
pub(crate) fn run(options: &Inspect) -> Result<(), Failure> {
    let device = options.device.open()?;
    let model = Model::load(&device, &options.model)?;
    let data =
        options.input.as_ref().map(|path| streampool_npz::read(path, Limits::default())).transpose()?;
    let specs = specs(&model, options, data.as_ref())?;
    let (outcome, depends) = plan(&model, specs, data.as_ref(), options)?;
    let (plan, no_plan) = match outcome {
        Outcome::Plan(plan, kernels) => (Some(summary(&plan, kernels)), None),
        Outcome::None(why) => (None, Some(why)),
    };
    let graph = model.graph();
    let mut operators = BTreeMap::new();
    for node in graph.nodes() {
        *operators.entry(node.op_type).or_insert(0) += 1;
    }
    let summary = Summary {
        model: options.model.display().to_string(),
        producer: graph.producer().to_owned(),
        opsets: graph.opsets().iter().map(|(d, v)| (domain(d).to_owned(), *v)).collect(),
        metadata: graph.metadata().iter().cloned().collect(),
        inputs: graph.inputs().iter().map(port).collect(),
        outputs: graph.outputs().iter().map(port).collect(),
        nodes: operators.values().sum(),
        operators,
        weight_bytes: graph.weight_bytes(),
        plan_depends_on_values_of: depends,
        no_plan,
        plan,
    };
    options.report.say(&show(&summary));
    options.report.write(&summary)?;
    Ok(())
}

/// The plan for `specs`, given the values that it asks for if `data` has them; and the inputs whose values it asks for.
fn plan(
    model: &Model,
    mut specs: Vec<InputSpec>,
    data: Option<&Npz>,
    options: &Inspect,
) -> Result<(Outcome, Vec<String>)> {
    let graph = model.graph();
    let name = |i: usize| graph.inputs()[i].name.clone();
    let mut depends: Vec<String> = Vec::new();
    loop {
        match graph.plan(&specs) {
            Ok(Planned::Plan(_)) => {
                let (plan, kernels) = model.explain(&specs)?;
                return Ok((Outcome::Plan(plan, kernels), depends));
            }
            Ok(Planned::NeedValues(which)) => {
                depends.extend(which.iter().map(|&i| name(i)));
                let Some(data) = data else {
                    let why = format!(
                        "the plan depends on the values of '{}', not on shapes alone; give inputs with --input X.npz",
                        depends.join("', '")
                    );
                    return Ok((Outcome::None(why), depends));
                };
                for i in which {
                    if specs[i].value.is_some() {
                        return Err(Error::internal(format!(
                            "planning asks again for the value of '{}'",
                            name(i)
                        )));
                    }
                    let value = array(data, &name(i))?.bytes().to_vec();
                    specs[i] = InputSpec::new(specs[i].ty.clone()).with_value(value.into());
                }
            }
            // What the user gave must fit; the shapes that we made up may not, and the rest is still worth showing.
            Err(e) if options.shape.is_empty() && data.is_none() => {
                let why = format!("not for free axes of length 1: {e}; give shapes with --shape NAME=AxB");
                return Ok((Outcome::None(why), depends));
            }
            Err(e) => return Err(e),
        }
    }
}

fn array<'a>(data: &'a Npz, name: &str) -> Result<&'a HostTensor> {
    data.get(name).ok_or_else(|| {
        let names: Vec<_> = data.names().collect();
        Error::invalid_argument(format!(
            "--input: the data have no array '{name}'; they have '{}'",
            names.join("', '")
        ))
    })
}

/// What to plan for: the types of the given arrays, or those of the given shapes.
fn specs(model: &Model, options: &Inspect, data: Option<&Npz>) -> Result<Vec<InputSpec>> {
    let inputs = model.graph().inputs();
    let types = match data {
        None => types(inputs, &options.shape)?,
        Some(data) => inputs.iter().map(|i| Ok(array(data, &i.name)?.ty().clone())).collect::<Result<_>>()?,
    };
    Ok(types.into_iter().map(InputSpec::new).collect())
}

fn summary(plan: &Plan, kernels: Vec<String>) -> PlanSummary {
    let ports =
        |ports: &[(String, TensorType)]| ports.iter().map(|(n, ty)| (n.clone(), ty.to_string())).collect();
    let mut kernels = kernels.into_iter();
    PlanSummary {
        inputs: ports(&plan.inputs),
        outputs: ports(&plan.outputs),
        steps: plan
            .program
            .steps
            .iter()
            .map(|s| StepSummary {
                name: s.name.clone(),
                operation: s.op.name(),
                outputs: s.outputs.iter().map(|o| o.ty().to_string()).collect(),
                // The line begins with the step's name, which has a column of its own.
                kernel: kernels
                    .next()
                    .map(|k| k.strip_prefix(&format!("{}: ", s.name)).unwrap_or(&k).to_owned()),
            })
            .collect(),
        fused: plan.report.fused.clone(),
        arena_bytes: plan.report.arena_bytes,
        naive_bytes: plan.report.naive_bytes,
        constant_bytes: plan.report.constant_bytes,
        in_place: plan.report.in_place,
    }
}

fn domain(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

fn port(info: &InterfaceInfo) -> Port {
    let dim = |d: &Dim| match d {
        Dim::Unknown => "?".to_owned(),
        d => d.to_string(),
    };
    Port {
        name: info.name.clone(),
        dtype: info.dtype.map(DType::name),
        dims: info.dims.as_ref().map(|dims| dims.iter().map(dim).collect()),
    }
}

/// The types to plan for: shapes given by the user, else the model's with free axes set to 1. A free axis that one given shape names is
/// that long in the others, too.
fn types(inputs: &[InterfaceInfo], given: &[(String, Vec<usize>)]) -> Result<Vec<TensorType>> {
    if let Some((name, _)) = given.iter().find(|(n, _)| inputs.iter().all(|i| i.name != *n)) {
        let names: Vec<_> = inputs.iter().map(|i| i.name.as_str()).collect();
        return Err(Error::invalid_argument(format!(
            "--shape: the model has no input '{name}'; its inputs are '{}'",
            names.join("', '")
        )));
    }
    let shape_of = |name: &str| given.iter().rfind(|(n, _)| n == name).map(|(_, s)| s);
    let mut symbols = BTreeMap::new();
    for input in inputs {
        for (dim, &len) in input.dims.iter().flatten().zip(shape_of(&input.name).into_iter().flatten()) {
            if let Dim::Symbol(s) = dim {
                symbols.insert(s.as_str(), len);
            }
        }
    }
    let length = |d: &Dim| match d {
        Dim::Fixed(n) => *n,
        Dim::Symbol(s) => symbols.get(s.as_str()).copied().unwrap_or(1),
        Dim::Unknown => 1,
    };
    Ok(inputs
        .iter()
        .map(|i| {
            let shape = match shape_of(&i.name) {
                Some(shape) => shape.clone(),
                None => i.dims.iter().flatten().map(length).collect(),
            };
            TensorType::new(i.dtype.unwrap_or(DType::F32), shape)
        })
        .collect())
}

fn show(s: &Summary) -> String {
    let opsets: Vec<_> = s.opsets.iter().map(|(d, v)| format!("{d} {v}")).collect();
    let mut out = format!("{}: {} nodes, opset {}", s.model, s.nodes, opsets.join(", "));
    if !s.producer.is_empty() {
        out += &format!(", made by {}", s.producer);
    }
    out += &format!("\nweights: {}\n\n", bytes(s.weight_bytes as u64));
    let ports = s.inputs.iter().map(|p| ("input", p)).chain(s.outputs.iter().map(|p| ("output", p)));
    let rows: Vec<Vec<String>> = ports
        .map(|(kind, p)| {
            let dims = p.dims.as_ref().map_or("any shape".to_owned(), |d| format!("({})", d.join(", ")));
            vec![format!("{kind:6} {}", p.name), p.dtype.unwrap_or("any").to_owned(), dims]
        })
        .collect();
    out += &text_table(&["name", "dtype", "shape"], &rows);
    out += "\noperators: ";
    let mut operators: Vec<_> = s.operators.iter().collect();
    operators.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), name.as_str()));
    out += &operators.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ");
    out += "\n\n";
    let Some(plan) = &s.plan else {
        out += &format!("no plan: {}\n", s.no_plan.as_deref().unwrap_or_default());
        return out;
    };
    let inputs: Vec<_> = plan.inputs.iter().map(|(n, t)| format!("{n} {t}")).collect();
    out += &format!("plan for {}: {} steps\n", inputs.join(", "), plan.steps.len());
    if !s.plan_depends_on_values_of.is_empty() {
        out += &format!(
            "it depends on the values of '{}', too: another plan is made for each\n",
            s.plan_depends_on_values_of.join("', '")
        );
    }
    let rows: Vec<Vec<String>> = plan
        .steps
        .iter()
        .enumerate()
        .map(|(i, step)| {
            let mut row =
                vec![format!("{i:4} {}", step.operation), step.outputs.join(" "), step.name.clone()];
            row.extend(step.kernel.clone());
            row
        })
        .collect();
    let head = ["step", "writes", "from node", "kernel"];
    let kernels = plan.steps.iter().any(|step| step.kernel.is_some());
    out += &text_table(&head[..if kernels { 4 } else { 3 }], &rows);
    if !plan.fused.is_empty() {
        out += &format!("\nfusions:\n  {}\n", plan.fused.join("\n  "));
    }
    out += &format!(
        "\nmemory per run: arena {} ({} without sharing, {} results in place); constants {} for all runs together\n",
        bytes(plan.arena_bytes as u64),
        bytes(plan.naive_bytes as u64),
        plan.in_place,
        bytes(plan.constant_bytes as u64)
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, dims: &[Dim]) -> InterfaceInfo {
        InterfaceInfo { name: name.into(), dtype: Some(DType::I64), dims: Some(dims.to_vec()) }
    }

    #[test]
    fn free_axes_are_1_or_what_the_user_says_of_any_input() {
        let (b, s) = (Dim::Symbol("batch".into()), Dim::Symbol("sequence".into()));
        let inputs = [
            input("ids", &[b.clone(), s.clone()]),
            input("mask", &[b, s]),
            input("k", &[Dim::Fixed(3), Dim::Unknown]),
        ];
        let shapes = |given: &[(&str, &[usize])]| -> Vec<String> {
            let given: Vec<_> = given.iter().map(|(n, s)| ((*n).to_owned(), s.to_vec())).collect();
            types(&inputs, &given).unwrap().iter().map(|t| t.shape.to_string()).collect()
        };
        assert_eq!(shapes(&[]), ["(1, 1)", "(1, 1)", "(3, 1)"]);
        assert_eq!(shapes(&[("mask", &[2, 128])]), ["(2, 128)", "(2, 128)", "(3, 1)"]);
        let e = types(&inputs, &[("idz".into(), vec![1])]).unwrap_err();
        assert!(e.is_invalid_argument() && e.to_string().contains("'ids', 'mask', 'k'"), "{e}");
    }
}
