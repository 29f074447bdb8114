//! Shapes, values, control flow, functions and files.

mod support;

use streampool_core::op::{DType, TensorType};
use streampool_graph::{Dim, InputSpec, LoadOptions, Model, Planned};
use support::*;

fn spec(dims: &[usize]) -> InputSpec {
    InputSpec::new(TensorType::new(DType::F32, dims.to_vec()))
}

fn two_inputs() -> Vec<u8> {
    Graph::new()
        .input("a", DType::F32, &["batch", "4"])
        .input("b", DType::F32, &["batch", "4"])
        .node(node("Add", &["a", "b"], &["y"]))
        .output("y")
        .model(17)
}

#[test]
fn a_dimension_that_disagrees_is_named_with_both_values_and_inputs() {
    let model = load(two_inputs(), true).unwrap();
    assert_eq!(model.inputs()[0].dims.as_ref().unwrap()[0], Dim::Symbol("batch".into()));
    let e = model.plan(&[spec(&[3, 4]), spec(&[2, 4])]).unwrap_err();
    let text = e.to_string();
    assert!(
        e.is_invalid_argument() && ["'batch'", "3", "2", "'a'", "'b'"].iter().all(|p| text.contains(p)),
        "{text}"
    );
}

#[test]
fn wrong_inputs_are_refused_by_name() {
    let model = load(two_inputs(), true).unwrap();
    let int = InputSpec::new(TensorType::new(DType::I64, [3, 4]));
    for (specs, part) in [
        (vec![spec(&[3, 4])], "2: 'a', 'b'"),
        (vec![spec(&[3, 4]), int], "input 'b': float32 is needed"),
        (vec![spec(&[3, 4]), spec(&[3, 4, 1])], "input 'b': rank 2 is needed (batch, 4)"),
        (vec![spec(&[3, 5]), spec(&[3, 4])], "input 'a': axis 1 must have length 4"),
    ] {
        let e = model.plan(&specs).unwrap_err();
        assert!(e.is_invalid_argument() && e.to_string().contains(part), "{e}");
    }
}

#[test]
fn empty_batches_and_scalars_run() {
    let out = results(two_inputs(), &[floats(&[0, 4], &[]), floats(&[0, 4], &[])]).unwrap();
    assert_eq!(out[0].ty(), &TensorType::new(DType::F32, [0, 4]));
    let g = Graph::new().input("x", DType::F32, &[]).node(node("Exp", &["x"], &["y"])).output("y").model(17);
    assert_eq!(results(g, &[floats(&[], &[0.0])]).unwrap()[0].get(0).to_f64(), 1.0);
}

#[test]
fn a_shape_that_is_an_input_is_asked_for_once() {
    let g = Graph::new()
        .input("x", DType::F32, &["n"])
        .input("shape", DType::I64, &["2"])
        .node(node("Reshape", &["x", "shape"], &["r"]))
        .node(node("Neg", &["r"], &["y"]))
        .output("y")
        .model(17);
    let model = load(g.clone(), true).unwrap();
    let x = InputSpec::new(TensorType::new(DType::F32, [6]));
    let shape = InputSpec::new(TensorType::new(DType::I64, [2]));
    assert!(model.value_inputs().is_empty());
    let Planned::NeedValues(which) = model.plan(&[x, shape]).unwrap() else { panic!("values are needed") };
    assert_eq!((which, model.value_inputs()), (vec![1], vec![1]));
    let out = results(g, &[floats(&[6], &[1., 2., 3., 4., 5., 6.]), ints(&[2], &[3, -1])]).unwrap();
    assert_eq!(out[0].ty(), &TensorType::new(DType::F32, [3, 2]));
    assert_eq!(out[0].get(5).to_f64(), -6.0);
}

#[test]
fn shapes_of_data_fold_at_plan_time() {
    let g = Graph::new()
        .input("x", DType::F32, &["2", "3"])
        .node(node("NonZero", &["x"], &["y"]))
        .output("y")
        .model(17);
    let out = results(g, &[floats(&[2, 3], &[0., 1., 0., 2., 0., 3.])]).unwrap();
    assert_eq!(out[0].as_slice::<i64>().unwrap(), [0, 1, 1, 1, 0, 2]);
}

#[test]
fn shape_arithmetic_needs_no_step() {
    // As exporters write `x.view(x.size(0), -1)`.
    let g = Graph::new()
        .input("x", DType::F32, &["n", "3", "4"])
        .constant("zero", &ints(&[], &[0]))
        .constant("axes", &ints(&[1], &[0]))
        .constant("rest", &ints(&[1], &[-1]))
        .node(node("Shape", &["x"], &["s"]))
        .node(node("Gather", &["s", "zero"], &["n"]))
        .node(node("Unsqueeze", &["n", "axes"], &["n1"]))
        .node(node("Concat", &["n1", "rest"], &["shape"]).int("axis", 0))
        .node(node("Reshape", &["x", "shape"], &["r"]))
        .node(node("Abs", &["r"], &["y"]))
        .output("y")
        .model(17);
    let model = load(g, true).unwrap();
    let plan = plan(&model, &[Rng::new(1).floats(&[5, 3, 4])]).unwrap();
    only(&plan);
    assert_eq!(plan.outputs[0].1, TensorType::new(DType::F32, [5, 12]));
}

#[test]
fn if_takes_the_branch_its_condition_says() {
    let branch = |op: &str, out: &str| Graph::new().node(node(op, &["x"], &[out])).output(out);
    let g = Graph::new()
        .input("c", DType::Bool, &[])
        .input("x", DType::F32, &["2"])
        .node(
            node("If", &["c"], &["y"])
                .graph("then_branch", &branch("Neg", "t"))
                .graph("else_branch", &branch("Exp", "e")),
        )
        .output("y")
        .model(17);
    let x = floats(&[2], &[0.0, 1.0]);
    let flag = |b: bool| streampool_core::op::HostTensor::from_slice(Vec::new(), &[b]).unwrap();
    assert_eq!(results(g.clone(), &[flag(true), x.clone()]).unwrap()[0].as_slice::<f32>().unwrap()[1], -1.0);
    assert_eq!(results(g, &[flag(false), x]).unwrap()[0].as_slice::<f32>().unwrap()[0], 1.0);
}

fn counting_loop() -> Graph {
    let body = Graph::new()
        .input("i", DType::I64, &[])
        .input("go", DType::Bool, &[])
        .input("acc", DType::F32, &["2"])
        .node(node("Identity", &["go"], &["go_out"]))
        .node(node("Add", &["acc", "x"], &["acc_out"]))
        .node(node("Mul", &["acc_out", "x"], &["row"]))
        .output("go_out")
        .output("acc_out")
        .output("row");
    Graph::new()
        .input("trips", DType::I64, &[])
        .input("x", DType::F32, &["2"])
        .node(node("Loop", &["trips", "", "x"], &["last", "rows"]).graph("body", &body))
        .output("last")
        .output("rows")
}

#[test]
fn loops_unroll_and_stack_what_they_collect() {
    let out = results(counting_loop().model(17), &[ints(&[], &[3]), floats(&[2], &[1.0, -2.0])]).unwrap();
    assert_eq!(out[0].as_slice::<f32>().unwrap(), [4.0, -8.0]);
    assert_eq!(out[1].ty(), &TensorType::new(DType::F32, [3, 2]));
    assert_eq!(out[1].as_slice::<f32>().unwrap(), [2.0, 8.0, 3.0, 12.0, 4.0, 16.0]);
}

#[test]
fn a_loop_without_end_is_an_error_in_bounded_time() {
    let model = load(counting_loop().model(17), true).unwrap();
    let e = plan(&model, &[ints(&[], &[i64::MAX]), floats(&[2], &[1.0, 1.0])]).unwrap_err();
    assert!(e.is_unsupported() && e.to_string().contains("100000 nodes"), "{e}");
}

#[test]
fn nodes_out_of_order_are_sorted() {
    let g = Graph::new()
        .input("x", DType::F32, &["2"])
        .node(node("Neg", &["e"], &["y"]))
        .node(node("Exp", &["x"], &["e"]))
        .output("y")
        .model(17);
    assert_eq!(results(g, &[floats(&[2], &[0.0, 0.0])]).unwrap()[0].as_slice::<f32>().unwrap(), [-1.0, -1.0]);
}

#[test]
fn local_functions_are_inlined_with_their_attributes() {
    let f = Message::default()
        .str(1, "Scaled")
        .str(4, "a")
        .str(5, "r")
        .str(6, "slope")
        .message(7, &node("LeakyRelu", &["a"], &["t"]).reference("alpha", "slope").0)
        .message(7, &node("Neg", &["t"], &["r"]).0)
        .message(9, &Message::default().int(2, 17))
        .str(10, "local");
    let mut g = Graph::new()
        .input("x", DType::F32, &["2"])
        .node(node("Scaled", &["x"], &["u"]).domain("local").float("slope", 0.5))
        .node(node("Scaled", &["u"], &["y"]).domain("local").float("slope", 0.25))
        .output("y");
    g.functions.push(f);
    let out = results(g.model(17), &[floats(&[2], &[-4.0, 4.0])]).unwrap();
    // -4 -> -2 -> 2 -> 2 -> -2, and 4 -> 4 -> -4 -> -1 -> 1.
    assert_eq!(out[0].as_slice::<f32>().unwrap(), [-2.0, 1.0]);
}

#[test]
fn an_output_may_be_an_input_a_constant_or_given_twice() {
    let g = Graph::new()
        .input("x", DType::F32, &["2", "3"])
        .constant("c", &floats(&[2], &[7.0, 8.0]))
        .node(node("Transpose", &["x"], &["t"]))
        .node(node("Exp", &["x"], &["e"]))
        .node(node("Identity", &["e"], &["e2"]))
        .output("x")
        .output("c")
        .output("t")
        .output("e")
        .output("e2")
        .model(17);
    let x = floats(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
    let out = results(g, std::slice::from_ref(&x)).unwrap();
    assert_eq!(out[0], x);
    assert_eq!(out[1].as_slice::<f32>().unwrap(), [7.0, 8.0]);
    assert_eq!(out[2].as_slice::<f32>().unwrap(), [1., 4., 2., 5., 3., 6.]);
    assert_eq!(out[3], out[4]);
}

#[test]
fn the_same_weights_serve_every_shape() {
    let mut rng = Rng::new(3);
    let g = Graph::new()
        .input("x", DType::F32, &["n", "3"])
        .constant("w", &rng.floats(&[4, 3]))
        .constant("half", &floats(&[], &[0.5]))
        .node(node("Mul", &["w", "half"], &["wh"]))
        .node(node("Transpose", &["wh"], &["wt"]))
        .node(node("MatMul", &["x", "wt"], &["y"]))
        .output("y")
        .model(17);
    let model = load(g, true).unwrap();
    let ids = |n: usize| -> Vec<u64> {
        let p = plan(&model, &[Rng::new(1).floats(&[n, 3])]).unwrap();
        p.program.constants.iter().map(|c| c.id()).collect()
    };
    assert_eq!(ids(2), ids(5));
    assert_eq!(ids(2).len(), 1);
}

#[test]
fn models_and_plans_can_be_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Model>();
    shared::<streampool_graph::Plan>();
}

fn folder(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("streampool-graph-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn external(location: &str, offset: i64, length: i64) -> Message {
    let entry = |k: &str, v: &str| Message::default().str(1, k).str(2, v);
    Message::default()
        .int(1, 4)
        .int(2, 1)
        .str(8, "w")
        .message(13, &entry("location", location))
        .message(13, &entry("offset", &offset.to_string()))
        .message(13, &entry("length", &length.to_string()))
        .int(14, 1)
}

fn with_external(t: Message) -> Vec<u8> {
    Graph::new()
        .input("x", DType::F32, &["4"])
        .raw_constant(t)
        .node(node("Add", &["x", "w"], &["y"]))
        .output("y")
        .model(17)
}

#[test]
fn external_data_is_read_from_beside_the_model() {
    let dir = folder("external");
    let data: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    std::fs::write(dir.join("w.bin"), data).unwrap();
    std::fs::write(dir.join("m.onnx"), with_external(external("w.bin", 8, 16))).unwrap();
    let model = Model::load(dir.join("m.onnx"), &LoadOptions::default()).unwrap();
    let x = [floats(&[4], &[0.0; 4])];
    let out = run(&plan(&model, &x).unwrap(), &x).unwrap();
    assert_eq!(out[0].as_slice::<f32>().unwrap(), [2.0, 3.0, 4.0, 5.0]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn external_data_that_leads_away_or_is_short_is_refused() {
    let outer = folder("hostile");
    let dir = outer.join("model");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(outer.join("secret.bin"), [0; 64]).unwrap();
    std::fs::write(dir.join("w.bin"), [0; 20]).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(outer.join("secret.bin"), dir.join("link.bin")).unwrap();
    let absolute = outer.join("secret.bin").to_string_lossy().into_owned();
    let cases = [
        ("../secret.bin", 0, 16, "'..'"),
        ("sub/../../secret.bin", 0, 16, "'..'"),
        (absolute.as_str(), 0, 16, "absolute"),
        #[cfg(unix)]
        ("link.bin", 0, 16, "link"),
        ("sub", 0, 16, "not a file"),
        ("none.bin", 0, 16, "cannot be opened"),
        ("w.bin", 8, 16, "has 20"),
        ("w.bin", i64::MAX, 16, "has 20"),
        ("w.bin", 0, 12, "length 12"),
        ("w.bin", -1, 16, "'-1'"),
    ];
    for (location, offset, length, part) in cases {
        let file = dir.join("m.onnx");
        std::fs::write(&file, with_external(external(location, offset, length))).unwrap();
        let e = Model::load(&file, &LoadOptions::default()).unwrap_err();
        let text = e.to_string();
        assert!(e.is_invalid_model() && text.contains(part) && text.contains("'w'"), "{location}: {text}");
    }
    std::fs::remove_dir_all(outer).unwrap();
}

#[test]
fn a_file_that_is_not_there_is_an_io_error() {
    assert!(Model::load("/nonexistent/m.onnx", &LoadOptions::default()).unwrap_err().is_io());
}
