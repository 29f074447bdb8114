//! Runs ONNX node cases from a folder: one folder a case, with `model.onnx`, `tol` ("rtol atol") and `test_data_set_0/{input,output}_N.pb`.
//!
//! `cargo run --example node_cases -- FOLDER [NAME PART]`: one line a case that did not pass, then the totals.

use std::collections::BTreeMap;
use std::path::Path;

use streampool_core::driver::{Bindings, Segment, Slice};
use streampool_core::op::{DType, HostTensor};
use streampool_core::{Error, Result};
use streampool_cpu::{CpuConfig, CpuDriver, Executor};
use streampool_graph::{InputSpec, LoadOptions, Model, Planned, tensor_from_proto};

fn tensors(folder: &Path, kind: &str) -> Result<Vec<HostTensor>> {
    let mut out = Vec::new();
    while let Ok(bytes) = std::fs::read(folder.join(format!("{kind}_{}.pb", out.len()))) {
        out.push(tensor_from_proto(bytes)?.1);
    }
    Ok(out)
}

fn run(case: &Path, driver: &CpuDriver) -> Result<()> {
    let data = case.join("test_data_set_0");
    let tol = std::fs::read_to_string(case.join("tol")).unwrap_or_default();
    let mut tol = tol.split_whitespace().map(|t| t.parse::<f64>().unwrap_or(1e-3));
    let (rtol, atol) = (tol.next().unwrap_or(1e-3), tol.next().unwrap_or(1e-7));
    let options = LoadOptions { fuse: std::env::var_os("NO_FUSE").is_none() };
    let model = Model::load(case.join("model.onnx"), &options)?;
    let (inputs, expected) = (tensors(&data, "input")?, tensors(&data, "output")?);
    let mut specs: Vec<InputSpec> = inputs.iter().map(|t| InputSpec::new(t.ty().clone())).collect();
    let plan = loop {
        match model.plan(&specs)? {
            Planned::Plan(plan) => break plan,
            Planned::NeedValues(which) => {
                for i in which {
                    specs[i].value = Some(inputs[i].bytes().to_vec().into());
                }
            }
        }
    };
    plan.check()?;
    let program = driver.compile_program(&plan.program)?;
    let mut outputs =
        plan.outputs.iter().map(|(_, ty)| HostTensor::zeros(ty.clone())).collect::<Result<Vec<_>>>()?;
    let segment: Segment =
        streampool_core::driver::Driver::allocate(driver, plan.program.arena_bytes.max(64))?;
    let read: Vec<Slice<'_>> = inputs.iter().map(|t| Slice::host(t.bytes())).collect();
    let written: Vec<Slice<'_>> = outputs.iter_mut().map(|t| Slice::host_mut(t.bytes_mut())).collect();
    let arena = Slice::of_segment(&segment, 0, plan.program.arena_bytes);
    Executor::new(driver.team().clone())
        .run(&program, &Bindings { inputs: &read, outputs: &written, arena })?;
    if expected.len() != outputs.len() {
        return Err(Error::internal(format!("{} outputs, expected {}", outputs.len(), expected.len())));
    }
    for (n, (got, want)) in outputs.iter().zip(&expected).enumerate() {
        if got.ty() != want.ty() {
            return Err(Error::internal(format!("output {n} is {}, expected {}", got.ty(), want.ty())));
        }
        for i in 0..want.ty().shape.len() {
            let (a, b) = (got.get(i).to_f64(), want.get(i).to_f64());
            let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs();
            if !same {
                return Err(Error::internal(format!("output {n} element {i} is {a}, expected {b}")));
            }
        }
    }
    Ok(())
}

fn in_scope(case: &Path) -> bool {
    let data = case.join("test_data_set_0");
    let Ok(files) = std::fs::read_dir(&data) else { return false };
    files.filter_map(|f| f.ok()).all(|f| {
        let path = f.path();
        path.extension().is_some_and(|e| e == "pb")
            && std::fs::read(&path)
                .ok()
                .and_then(|b| tensor_from_proto(b).ok())
                .is_some_and(|(_, t)| !matches!(t.ty().dtype, DType::F64 | DType::BF16))
    })
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect("a folder of cases");
    let part = args.next().unwrap_or_default();
    let mut cases: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder can be read")
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.to_string_lossy().contains(&part))
        .collect();
    cases.sort();
    let driver = CpuDriver::new(CpuConfig::default());
    let mut totals: BTreeMap<(bool, &str), usize> = BTreeMap::new();
    std::panic::set_hook(Box::new(|_| {}));
    for case in cases {
        let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let scope = in_scope(&case);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&case, &driver)));
        let (kind, text) = match result {
            Ok(Ok(())) => ("passed", String::new()),
            Ok(Err(e)) if e.is_unsupported() => ("unsupported", e.to_string()),
            Ok(Err(e)) if e.is_internal() => ("WRONG", e.to_string()),
            Ok(Err(e)) => ("error", e.to_string()),
            Err(p) => {
                let text = p.downcast_ref::<String>().cloned();
                (
                    "PANIC",
                    text.or_else(|| p.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default(),
                )
            }
        };
        *totals.entry((scope, kind)).or_default() += 1;
        if kind != "passed" && (scope || kind != "unsupported") {
            println!("{kind} {name}: {text}");
        }
    }
    for ((scope, kind), count) in totals {
        println!("{} {kind}: {count}", if scope { "in scope" } else { "other dtypes" });
    }
}
