//! `streampool inspect`: what a model is, and how it will run.

use std::collections::BTreeMap;

use serde::Serialize;
use streampool::graph::{Dim, InterfaceInfo};
use streampool::{DType, Error, Model, Result, TensorType};

use crate::args::Inspect;
use crate::exit::Failure;
use crate::table::{bytes, table};

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
}

/// Runs the command.
pub(crate) fn run(options: &Inspect) -> Result<(), Failure> {
    let device = options.device.open()?;
    let model = Model::load(&device, &options.model)?;
    let types = types(model.graph().inputs(), &options.shape)?;
    // Given shapes must fit; the shapes that we made up may not, and the rest is still worth showing.
    let plan = match model.plan(&types) {
        Ok(plan) => Ok(plan),
        Err(e) if options.shape.is_empty() => Err(e.to_string()),
        Err(e) => return Err(e.into()),
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
        no_plan: plan.as_ref().err().cloned(),
        plan: plan.ok().map(|p| PlanSummary {
            inputs: p.inputs.iter().map(|(n, ty)| (n.clone(), ty.to_string())).collect(),
            outputs: p.outputs.iter().map(|(n, ty)| (n.clone(), ty.to_string())).collect(),
            steps: p
                .program
                .steps
                .iter()
                .map(|s| StepSummary {
                    name: s.name.clone(),
                    operation: s.op.name(),
                    outputs: s.outputs.iter().map(|o| o.ty().to_string()).collect(),
                })
                .collect(),
            fused: p.report.fused.clone(),
            arena_bytes: p.report.arena_bytes,
            naive_bytes: p.report.naive_bytes,
            constant_bytes: p.report.constant_bytes,
            in_place: p.report.in_place,
        }),
    };
    options.report.say(&show(&summary));
    options.report.write(&summary)?;
    Ok(())
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
    out += &table(&["name", "dtype", "shape"], &rows);
    out += "\noperators: ";
    let mut operators: Vec<_> = s.operators.iter().collect();
    operators.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), name.as_str()));
    out += &operators.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ");
    out += "\n\n";
    let Some(plan) = &s.plan else {
        let why = s.no_plan.as_deref().unwrap_or_default();
        out += &format!("no plan for free axes of length 1 ({why}); give shapes with --shape NAME=AxB\n");
        return out;
    };
    let inputs: Vec<_> = plan.inputs.iter().map(|(n, t)| format!("{n} {t}")).collect();
    out += &format!("plan for {}: {} steps\n", inputs.join(", "), plan.steps.len());
    let rows: Vec<Vec<String>> = plan
        .steps
        .iter()
        .enumerate()
        .map(|(i, step)| vec![format!("{i:4} {}", step.operation), step.outputs.join(" "), step.name.clone()])
        .collect();
    out += &table(&["step", "writes", "from node"], &rows);
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
