//! Prints what planning makes of a model.
//!
//! `cargo run --example show_plan -- MODEL LENGTH...`: the lengths fill the free dimensions in order of first appearance.

use std::time::Instant;

use streampool_core::op::TensorType;
use streampool_graph::{Dim, InputSpec, LoadOptions, Model, Planned};

fn main() -> streampool_core::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("a model");
    let mut lengths = args.map(|a| a.parse::<usize>().expect("a length"));
    let start = Instant::now();
    let model = Model::load(&path, &LoadOptions::default())?;
    println!(
        "loaded in {:?}: {} nodes, {} weight bytes",
        start.elapsed(),
        model.nodes().len(),
        model.weight_bytes()
    );
    let mut bound: Vec<(String, usize)> = Vec::new();
    let mut specs = Vec::new();
    for input in model.inputs() {
        let mut shape = Vec::new();
        for dim in input.dims.iter().flatten() {
            shape.push(match dim {
                Dim::Fixed(n) => *n,
                Dim::Symbol(s) => match bound.iter().find(|b| &b.0 == s) {
                    Some(b) => b.1,
                    None => {
                        let n = lengths.next().unwrap_or(1);
                        bound.push((s.clone(), n));
                        n
                    }
                },
                Dim::Unknown => lengths.next().unwrap_or(1),
            });
        }
        let dtype = input.dtype.expect("inputs have a type");
        specs.push(InputSpec::new(TensorType::new(dtype, shape)));
    }
    for round in 0..2 {
        let start = Instant::now();
        let planned = model.plan(&specs)?;
        println!("plan {round} in {:?}", start.elapsed());
        let Planned::Plan(plan) = planned else {
            println!("needs values: {planned:?}");
            break;
        };
        if round == 1 {
            for line in &plan.report.fused {
                println!("  {line}");
            }
            for step in &plan.program.steps {
                let ins: Vec<String> = step
                    .inputs
                    .iter()
                    .map(|o| {
                        format!("{:?}{}{}", o.place, o.ty(), if o.layout.is_contiguous() { "" } else { "~" })
                    })
                    .collect();
                println!(
                    "{} [{}] {} -> {:?}{}",
                    step.op.name(),
                    step.name,
                    ins.join(" "),
                    step.outputs[0].place,
                    step.outputs[0].ty()
                );
                if let streampool_core::op::Op::Map(m) = &step.op {
                    println!("      {:?}", m.code);
                }
            }
            let r = &plan.report;
            println!(
                "{} steps, arena {} of {} bytes, constants {}, {} in place",
                plan.program.steps.len(),
                r.arena_bytes,
                r.naive_bytes,
                r.constant_bytes,
                r.in_place
            );
        }
    }
    Ok(())
}
