//! If, Loop, Scan: unrolled at plan time. Conditions and trip counts are values that planning asks for if they are not constant.

use std::sync::Arc;

use streampool_core::Error;
use streampool_core::op::{DType, Scalar};

use super::{Operator, op};
use crate::ir::{Graph, Node};
use crate::lower::{LResult, Lower, Value, View, axis};

pub(super) const OPS: &[Operator] = &[
    op("If", 1, if_node),
    op("Loop", 1, loop_node),
    op("Scan", 8, |lo, n| scan(lo, n, true)),
    op("Scan", 9, |lo, n| scan(lo, n, false)),
];

fn body(n: &Node, name: &str) -> LResult<Arc<Graph>> {
    Ok(n.attrs
        .graph(name)?
        .cloned()
        .ok_or_else(|| Error::invalid_model(format!("attribute '{name}' (a graph) is missing")))?)
}

fn if_node(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let condition = lo.input(n, 0)?;
    let taken = lo.one(&condition, "the condition")?.to_i64() != 0;
    let graph = body(n, if taken { "then_branch" } else { "else_branch" })?;
    if graph.outputs.len() < n.outputs.len() {
        return Err(Error::invalid_model("a branch has fewer outputs than the node").into());
    }
    lo.graph(&graph)?;
    for (i, o) in graph.outputs.iter().enumerate() {
        let v = lo.value(o.id)?;
        lo.set_value(n, i, v)?;
    }
    Ok(())
}

fn loop_node(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let graph = body(n, "body")?;
    let carried = n.inputs.len().saturating_sub(2);
    if graph.inputs.len() != carried + 2 || graph.outputs.len() < carried + 1 {
        return Err(Error::invalid_model(format!(
            "the body has {} inputs and {} outputs, {carried} carried values need {} and at least {}",
            graph.inputs.len(),
            graph.outputs.len(),
            carried + 2,
            carried + 1
        ))
        .into());
    }
    let trips = match lo.optional(n, 0)? {
        Some(v) => Some(lo.one(&v, "the trip count")?.to_i64()),
        None => None,
    };
    let mut go = match lo.optional(n, 1)? {
        Some(v) => lo.one(&v, "the condition")?.to_i64() != 0,
        None => true,
    };
    let mut state: Vec<Value> = Vec::new();
    for i in 0..carried {
        let id = n.inputs[i + 2].ok_or_else(|| Error::invalid_model("a carried value is missing"))?;
        state.push(lo.value(id)?);
    }
    let scans = graph.outputs.len() - 1 - carried;
    let mut collected: Vec<Vec<View>> = vec![Vec::new(); scans];
    let mut i = 0i64;
    while go && trips.is_none_or(|t| i < t) {
        let index = lo.scalar(Scalar::from_i64(DType::I64, i));
        let flag = lo.scalar(Scalar::from_i64(DType::Bool, 1));
        lo.bind(graph.inputs[0].id, Value::Tensor(index));
        lo.bind(graph.inputs[1].id, Value::Tensor(flag));
        for (input, v) in graph.inputs[2..].iter().zip(&state) {
            lo.bind(input.id, v.clone());
        }
        lo.count_iteration()?;
        lo.graph(&graph)?;
        let next = lo.tensor(graph.outputs[0].id)?;
        state = graph.outputs[1..=carried].iter().map(|o| lo.value(o.id)).collect::<LResult<_>>()?;
        for (k, o) in graph.outputs[1 + carried..].iter().enumerate() {
            let v = lo.tensor(o.id)?;
            collected[k].push(v);
        }
        go = lo.one(&next, "the condition")?.to_i64() != 0;
        i += 1;
    }
    for (i, v) in state.into_iter().enumerate() {
        lo.set_value(n, i, v)?;
    }
    for (k, parts) in collected.into_iter().enumerate() {
        if !n.has_output(carried + k) {
            continue;
        }
        let y = stack(lo, &parts, 0, &graph, 1 + carried + k)?;
        lo.set(n, carried + k, y)?;
    }
    Ok(())
}

/// Joins one value an iteration along a new axis.
fn stack(lo: &mut Lower<'_>, parts: &[View], at: i64, graph: &Graph, output: usize) -> LResult<View> {
    let Some(first) = parts.first() else {
        return Err(Error::unsupported(format!(
            "the scan output '{}' of a loop that never ran has no shape",
            graph.outputs[output].name
        ))
        .into());
    };
    let at = axis(at, first.rank() + 1)?;
    let rows = parts.iter().map(|p| lo.unsqueeze(p, &[at])).collect::<LResult<Vec<_>>>()?;
    lo.concat(&rows, at)
}

/// Per scan input or output: an axis or a direction.
fn listed(n: &Node, name: &str, count: usize) -> LResult<Vec<i64>> {
    let list = n.attrs.ints(name)?.map_or_else(|| vec![0; count], <[i64]>::to_vec);
    if list.len() != count {
        return Err(Error::invalid_model(format!("{name} {list:?} should have {count} entries")).into());
    }
    Ok(list)
}

/// Before operator set 9 there is a batch axis, and lengths per sample as first input.
fn scan(lo: &mut Lower<'_>, n: &Node, batched: bool) -> LResult<()> {
    let graph = body(n, "body")?;
    let inputs = if batched {
        if n.has_input(0) {
            return Err(Error::unsupported("Scan with sequence lengths is not supported").into());
        }
        (1..n.inputs.len()).map(|i| lo.input(n, i)).collect::<LResult<Vec<_>>>()?
    } else {
        lo.inputs(n)?
    };
    let scanned = usize::try_from(n.attrs.required_int("num_scan_inputs")?).unwrap_or(0);
    if scanned == 0 || scanned > inputs.len() || graph.inputs.len() != inputs.len() {
        return Err(
            Error::invalid_model("num_scan_inputs and the body's inputs do not fit the node's").into()
        );
    }
    let states = inputs.len() - scanned;
    if graph.outputs.len() < states {
        return Err(Error::invalid_model("the body has fewer outputs than state variables").into());
    }
    let outs = graph.outputs.len() - states;
    if !batched {
        let results = one_scan(lo, n, &graph, &inputs, states, outs)?;
        for (i, v) in results.into_iter().enumerate() {
            lo.set(n, i, v)?;
        }
        return Ok(());
    }
    let batch = inputs[states].shape().first().copied().unwrap_or(0);
    let mut rows: Vec<Vec<View>> = vec![Vec::new(); states + outs];
    for b in 0..batch {
        let mut sample = Vec::new();
        for v in &inputs {
            if v.rank() == 0 || v.shape()[0] != batch {
                return Err(Error::invalid_argument(format!(
                    "{} should have the batch of {batch} first",
                    v.ty()
                ))
                .into());
            }
            let row = lo.slice(v, 0, b, 1, 1);
            sample.push(lo.squeeze(&row, &[0])?);
        }
        for (i, v) in one_scan(lo, n, &graph, &sample, states, outs)?.into_iter().enumerate() {
            rows[i].push(v);
        }
    }
    for (i, parts) in rows.iter().enumerate() {
        let y = stack(lo, parts, 0, &graph, i)?;
        lo.set(n, i, y)?;
    }
    Ok(())
}

fn one_scan(
    lo: &mut Lower<'_>,
    n: &Node,
    graph: &Graph,
    inputs: &[View],
    states: usize,
    outs: usize,
) -> LResult<Vec<View>> {
    let scanned = &inputs[states..];
    let old = n.version < 9;
    let in_axes = if old { vec![0; scanned.len()] } else { listed(n, "scan_input_axes", scanned.len())? };
    let out_axes = if old { vec![0; outs] } else { listed(n, "scan_output_axes", outs)? };
    let in_dirs = listed(n, if old { "directions" } else { "scan_input_directions" }, scanned.len())?;
    let out_dirs = if old { vec![0; outs] } else { listed(n, "scan_output_directions", outs)? };
    let at = in_axes.iter().zip(scanned).map(|(&a, v)| axis(a, v.rank())).collect::<Result<Vec<_>, _>>()?;
    let steps = scanned[0].shape()[at[0]];
    for (v, &a) in scanned.iter().zip(&at) {
        if v.shape()[a] != steps {
            return Err(Error::invalid_argument(format!(
                "scan inputs differ in length: {steps} and {} (axis {a} of {})",
                v.shape()[a],
                v.ty()
            ))
            .into());
        }
    }
    let mut state = inputs[..states].to_vec();
    let mut collected: Vec<Vec<View>> = vec![Vec::new(); outs];
    for step in 0..steps {
        lo.count_iteration()?;
        for (input, v) in graph.inputs.iter().zip(&state) {
            lo.bind(input.id, Value::Tensor(v.clone()));
        }
        for (k, v) in scanned.iter().enumerate() {
            let i = if in_dirs[k] == 0 { step } else { steps - 1 - step };
            let row = lo.slice(v, at[k], i, 1, 1);
            let row = lo.squeeze(&row, &[at[k]])?;
            lo.bind(graph.inputs[states + k].id, Value::Tensor(row));
        }
        lo.graph(graph)?;
        state = graph.outputs[..states].iter().map(|o| lo.tensor(o.id)).collect::<LResult<_>>()?;
        for (k, o) in graph.outputs[states..].iter().enumerate() {
            let v = lo.tensor(o.id)?;
            collected[k].push(v);
        }
    }
    for (k, mut parts) in collected.into_iter().enumerate() {
        if out_dirs[k] != 0 {
            parts.reverse();
        }
        state.push(stack(lo, &parts, out_axes[k], graph, states + k)?);
    }
    Ok(state)
}
