//! Every rewrite gives what the plain plan gives, and really happens.

mod support;

use streampool_core::op::{Activation, DType, F32, HostTensor, Op};
use support::*;

#[test]
fn bias_and_activation_go_into_the_product() {
    let mut rng = Rng::new(1);
    let g = Graph::new()
        .input("x", DType::F32, &["n", "6"])
        .constant("w", &rng.floats(&[6, 5]))
        .constant("b", &rng.floats(&[5]))
        .node(node("MatMul", &["x", "w"], &["p"]))
        .node(node("Add", &["p", "b"], &["s"]))
        .node(node("Relu", &["s"], &["y"]))
        .output("y");
    let plan = fused_equals_plain(g.model(17), &[rng.floats(&[3, 6])]);
    let Op::MatMul(m) = only(&plan) else { panic!("{:?}", ops(&plan)) };
    assert!(m.bias && m.activation == Some(Activation::Relu));
}

#[test]
fn a_three_layer_perceptron_is_three_steps() {
    let mut rng = Rng::new(2);
    let mut g = Graph::new().input("x", DType::F32, &["n", "8"]);
    for (i, (from, to)) in [("x", "h0"), ("h0", "h1"), ("h1", "y")].into_iter().enumerate() {
        let (w, b, z) = (format!("w{i}"), format!("b{i}"), format!("z{i}"));
        g = g
            .constant(&w, &rng.floats(&[8, 8]))
            .constant(&b, &rng.floats(&[8]))
            .node(node("Gemm", &[from, &w, &b], &[&z]).int("transB", 1))
            .node(node(if i < 2 { "Tanh" } else { "Identity" }, &[&z], &[to]));
    }
    let plan = fused_equals_plain(g.output("y").model(13), &[rng.floats(&[4, 8])]);
    assert_eq!(ops(&plan), ["MatMul"; 3]);
    // Two hidden layers live at once, and the last one is written to the output.
    assert_eq!(plan.program.arena_bytes, 2 * 128);
}

#[test]
fn scale_and_residual_go_into_the_product() {
    let mut rng = Rng::new(3);
    let g = Graph::new()
        .input("x", DType::F32, &["2", "3", "4"])
        .input("r", DType::F32, &["2", "3", "5"])
        .constant("w", &rng.floats(&[4, 5]))
        .constant("c", &floats(&[], &[0.25]))
        .node(node("MatMul", &["x", "w"], &["p"]))
        .node(node("Mul", &["c", "p"], &["s"]))
        .node(node("Add", &["r", "s"], &["t"]))
        .node(node("Sigmoid", &["t"], &["y"]))
        .output("y");
    let plan = fused_equals_plain(g.model(17), &[rng.floats(&[2, 3, 4]), rng.floats(&[2, 3, 5])]);
    let Op::MatMul(m) = only(&plan) else { panic!("{:?}", ops(&plan)) };
    assert!(m.residual && !m.bias && m.alpha == F32::new(0.25) && m.activation == Some(Activation::Sigmoid));
}

#[test]
fn a_product_that_two_read_keeps_its_value() {
    let mut rng = Rng::new(4);
    let g = Graph::new()
        .input("x", DType::F32, &["3", "4"])
        .constant("w", &rng.floats(&[4, 5]))
        .node(node("MatMul", &["x", "w"], &["p"]))
        .node(node("Relu", &["p"], &["y"]))
        .output("y")
        .output("p");
    let plan = fused_equals_plain(g.model(17), &[rng.floats(&[3, 4])]);
    assert_eq!(ops(&plan), ["MatMul", "Map"]);
}

fn batch_norm_after_a_convolution(inputs: &[&str]) {
    let mut rng = Rng::new(5);
    let positive = floats(&[3], &[0.5, 1.5, 2.0]);
    let g = Graph::new()
        .input("x", DType::F32, &["n", "2", "7", "6"])
        .constant("w", &rng.floats(&[3, 2, 3, 3]))
        .constant("b", &rng.floats(&[3]))
        .constant("scale", &rng.floats(&[3]))
        .constant("shift", &rng.floats(&[3]))
        .constant("mean", &rng.floats(&[3]))
        .constant("var", &positive)
        .node(node("Conv", inputs, &["c"]).ints("pads", &[1, 1, 1, 1]))
        .node(node("BatchNormalization", &["c", "scale", "shift", "mean", "var"], &["n"]))
        .node(node("LeakyRelu", &["n"], &["y"]).float("alpha", 0.2))
        .output("y");
    let plan = fused_equals_plain(g.model(15), &[rng.floats(&[2, 2, 7, 6])]);
    let Op::Conv(c) = only(&plan) else { panic!("{:?}", ops(&plan)) };
    assert!(c.bias && c.activation == Some(Activation::LeakyRelu(F32::new(0.2))));
}

#[test]
fn batch_norm_goes_into_the_convolution_with_its_activation() {
    batch_norm_after_a_convolution(&["x", "w"]);
    batch_norm_after_a_convolution(&["x", "w", "b"]);
}

#[test]
fn a_residual_block_of_convolutions_is_two_steps() {
    let mut rng = Rng::new(6);
    let g = Graph::new()
        .input("x", DType::F32, &["1", "4", "5", "5"])
        .constant("w1", &rng.floats(&[4, 4, 3, 3]))
        .constant("w2", &rng.floats(&[4, 4, 3, 3]))
        .constant("b", &rng.floats(&[4]))
        .constant("zero", &floats(&[], &[0.0]))
        .constant("six", &floats(&[], &[6.0]))
        .node(node("Conv", &["x", "w1", "b"], &["c1"]).ints("pads", &[1, 1, 1, 1]))
        .node(node("Clip", &["c1", "zero", "six"], &["r1"]))
        .node(node("Conv", &["r1", "w2", "b"], &["c2"]).ints("pads", &[1, 1, 1, 1]))
        .node(node("Add", &["c2", "x"], &["s"]))
        .node(node("Relu", &["s"], &["y"]))
        .output("y");
    let plan = fused_equals_plain(g.model(13), &[rng.floats(&[1, 4, 5, 5])]);
    assert_eq!(ops(&plan), ["Conv", "Conv"]);
    let Op::Conv(last) = &plan.program.steps[1].op else { unreachable!() };
    assert!(last.residual && last.activation == Some(Activation::Relu));
}

/// LayerNorm as PyTorch exported it before ONNX had one.
fn layer_norm(g: Graph, x: &str, y: &str) -> Graph {
    g.node(node("ReduceMean", &[x], &["ln_m"]).ints("axes", &[-1]))
        .node(node("Sub", &[x, "ln_m"], &["ln_d"]))
        .node(node("Pow", &["ln_d", "two"], &["ln_p"]))
        .node(node("ReduceMean", &["ln_p"], &["ln_v"]).ints("axes", &[-1]))
        .node(node("Add", &["ln_v", "eps"], &["ln_e"]))
        .node(node("Sqrt", &["ln_e"], &["ln_s"]))
        .node(node("Div", &["ln_d", "ln_s"], &["ln_q"]))
        .node(node("Mul", &["ln_q", "gamma"], &["ln_g"]))
        .node(node("Add", &["ln_g", "beta"], &[y]))
}

#[test]
fn layer_norm_from_its_parts_takes_the_residual_too() {
    let mut rng = Rng::new(7);
    let g = Graph::new()
        .input("a", DType::F32, &["2", "3", "8"])
        .input("b", DType::F32, &["2", "3", "8"])
        .constant("two", &floats(&[], &[2.0]))
        .constant("eps", &floats(&[], &[1e-5]))
        .constant("gamma", &rng.floats(&[8]))
        .constant("beta", &rng.floats(&[8]))
        .node(node("Add", &["a", "b"], &["x"]));
    let g = layer_norm(g, "x", "y").output("y");
    let plan = fused_equals_plain(g.model(13), &[rng.floats(&[2, 3, 8]), rng.floats(&[2, 3, 8])]);
    let Op::LayerNorm(n) = only(&plan) else { panic!("{:?}", ops(&plan)) };
    assert!(n.scale && n.bias && n.residual && !n.rms && n.axis == 2);
}

#[test]
fn a_norm_with_another_power_is_left_alone() {
    let mut rng = Rng::new(8);
    let g = Graph::new()
        .input("x", DType::F32, &["3", "8"])
        .constant("two", &floats(&[], &[4.0]))
        .constant("eps", &floats(&[], &[1e-5]))
        .constant("gamma", &rng.floats(&[8]))
        .constant("beta", &rng.floats(&[8]));
    let plan = fused_equals_plain(layer_norm(g, "x", "y").output("y").model(13), &[rng.floats(&[3, 8])]);
    assert!(!ops(&plan).contains(&"LayerNorm"));
}

#[test]
fn rms_norm_from_its_parts() {
    let mut rng = Rng::new(9);
    let g = Graph::new()
        .input("x", DType::F32, &["3", "8"])
        .constant("one", &floats(&[], &[1.0]))
        .constant("eps", &floats(&[], &[1e-6]))
        .constant("gamma", &rng.floats(&[8]))
        .node(node("Mul", &["x", "x"], &["p"]))
        .node(node("ReduceMean", &["p"], &["v"]).ints("axes", &[-1]))
        .node(node("Add", &["v", "eps"], &["e"]))
        .node(node("Sqrt", &["e"], &["s"]))
        .node(node("Div", &["one", "s"], &["r"]))
        .node(node("Mul", &["x", "r"], &["q"]))
        .node(node("Mul", &["q", "gamma"], &["y"]))
        .output("y");
    let plan = fused_equals_plain(g.model(13), &[rng.floats(&[3, 8])]);
    let Op::LayerNorm(n) = only(&plan) else { panic!("{:?}", ops(&plan)) };
    assert!(n.rms && n.scale && !n.bias);
}

#[test]
fn gelu_from_its_parts_goes_into_the_product() {
    let mut rng = Rng::new(10);
    let g = Graph::new()
        .input("x", DType::F32, &["n", "6"])
        .constant("w", &rng.floats(&[6, 5]))
        .constant("b", &rng.floats(&[5]))
        .constant("root", &floats(&[], &[std::f32::consts::SQRT_2]))
        .constant("one", &floats(&[], &[1.0]))
        .constant("half", &floats(&[], &[0.5]))
        .node(node("MatMul", &["x", "w"], &["p"]))
        .node(node("Add", &["p", "b"], &["s"]))
        .node(node("Div", &["s", "root"], &["d"]))
        .node(node("Erf", &["d"], &["e"]))
        .node(node("Add", &["e", "one"], &["f"]))
        .node(node("Mul", &["s", "f"], &["g"]))
        .node(node("Mul", &["g", "half"], &["y"]))
        .output("y");
    let plan = fused_equals_plain(g.model(13), &[rng.floats(&[3, 6])]);
    let Op::MatMul(m) = only(&plan) else { panic!("{:?}", ops(&plan)) };
    assert_eq!((m.bias, m.activation), (true, Some(Activation::Gelu)));
}

/// Attention over two heads of three, mask included.
fn attention(scale_on_scores: bool, keep_scores: bool) -> Graph {
    let mut g = Graph::new()
        .input("q", DType::F32, &["b", "s", "6"])
        .input("k", DType::F32, &["b", "t", "6"])
        .input("v", DType::F32, &["b", "t", "6"])
        .input("mask", DType::F32, &["b", "1", "1", "t"])
        .constant("heads", &ints(&[4], &[0, 0, 2, 3]))
        .constant("flat", &ints(&[3], &[0, 0, 6]))
        .constant("c", &floats(&[], &[0.577]));
    for (x, perm) in [("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])] {
        let (h, p) = (format!("{x}h"), format!("{x}p"));
        g = g
            .node(node("Reshape", &[x, "heads"], &[&h]))
            .node(node("Transpose", &[&h], &[&p]).ints("perm", &perm));
    }
    let q = if scale_on_scores { "qp" } else { "qs" };
    if !scale_on_scores {
        g = g.node(node("Mul", &["qp", "c"], &["qs"]));
    }
    g = g.node(node("MatMul", &[q, "kp"], &["a0"]));
    let a = if scale_on_scores {
        g = g.node(node("Div", &["a0", "c"], &["a1"]));
        "a1"
    } else {
        "a0"
    };
    g = g
        .node(node("Add", &[a, "mask"], &["a2"]))
        .node(node("Softmax", &["a2"], &["p"]).int("axis", -1))
        .node(node("MatMul", &["p", "vp"], &["o"]))
        .node(node("Transpose", &["o"], &["ot"]).ints("perm", &[0, 2, 1, 3]))
        .node(node("Reshape", &["ot", "flat"], &["y"]))
        .output("y");
    if keep_scores { g.output("p") } else { g }
}

#[test]
fn attention_from_its_parts_is_one_step_with_heads_merged() {
    for scale_on_scores in [false, true] {
        let mut rng = Rng::new(11);
        let inputs = [
            rng.floats(&[2, 5, 6]),
            rng.floats(&[2, 4, 6]),
            rng.floats(&[2, 4, 6]),
            rng.floats(&[2, 1, 1, 4]),
        ];
        let plan = fused_equals_plain(attention(scale_on_scores, false).model(17), &inputs);
        let Op::Attention(a) = only(&plan) else { panic!("{:?}", ops(&plan)) };
        assert!(a.mask && a.merge_heads && !a.causal);
    }
}

#[test]
fn attention_whose_weights_are_wanted_is_left_alone() {
    let mut rng = Rng::new(12);
    let inputs =
        [rng.floats(&[2, 5, 6]), rng.floats(&[2, 4, 6]), rng.floats(&[2, 4, 6]), rng.floats(&[2, 1, 1, 4])];
    let plan = fused_equals_plain(attention(true, true).model(17), &inputs);
    assert!(!ops(&plan).contains(&"Attention"));
}

#[test]
fn views_cost_no_step_where_the_reader_takes_strides() {
    let mut rng = Rng::new(13);
    let g = Graph::new()
        .input("x", DType::F32, &["4", "6"])
        .constant("starts", &ints(&[2], &[0, 5]))
        .constant("ends", &ints(&[2], &[4, -100]))
        .constant("axes", &ints(&[2], &[0, 1]))
        .constant("steps", &ints(&[2], &[2, -1]))
        .node(node("Slice", &["x", "starts", "ends", "axes", "steps"], &["s"]))
        .node(node("Transpose", &["s"], &["t"]))
        .node(node("Exp", &["t"], &["y"]))
        .output("y");
    let x = rng.floats(&[4, 6]);
    let plan = fused_equals_plain(g.model(13), std::slice::from_ref(&x));
    only(&plan);
    let y = run(&plan, std::slice::from_ref(&x)).unwrap();
    let at = |i: usize, j: usize| x.get(2 * j * 6 + (5 - i)).to_f64().exp();
    for i in 0..6 {
        for j in 0..2 {
            assert!((y[0].get(i * 2 + j).to_f64() - at(i, j)).abs() < 1e-5);
        }
    }
}

/// A mask as exporters write it: picked by indices that count up, expanded to a row for each query, and only then computed with.
#[test]
fn a_mask_is_computed_once_for_each_key() {
    let mut rng = Rng::new(12);
    let positions: Vec<i64> = (0..10).collect();
    let g = Graph::new()
        .input("mask", DType::I64, &["2", "5"])
        .input("x", DType::F32, &["2", "3", "5", "5"])
        .constant("flat", &ints(&[1], &[-1]))
        .constant("positions", &ints(&[2, 1, 1, 5], &positions))
        .constant("queries", &ints(&[4], &[2, 1, 5, 5]))
        .constant("seen", &floats(&[], &[0.5]))
        .constant("hidden", &floats(&[], &[-7.0]))
        .node(node("Cast", &["mask"], &["bits"]).int("to", 9))
        .node(node("Reshape", &["bits", "flat"], &["row"]))
        .node(node("Gather", &["row", "positions"], &["keys"]))
        .constant("all", &HostTensor::from_slice([5, 5], &[true; 25]).unwrap())
        .node(node("And", &["keys", "all"], &["both"]))
        .node(node("Expand", &["both", "queries"], &["rows"]))
        .node(node("Where", &["rows", "seen", "hidden"], &["values"]))
        .node(node("Add", &["x", "values"], &["y"]))
        .output("y");
    let mask = ints(&[2, 5], &[1, 0, 1, 1, 0, 1, 1, 1, 0, 0]);
    let plan = fused_equals_plain(g.model(17), &[mask, rng.floats(&[2, 3, 5, 5])]);
    assert_eq!(ops(&plan), ["Map", "Map"]);
    assert_eq!(plan.program.steps[0].outputs[0].layout.shape.len(), 10);
}

#[test]
fn known_indices_that_are_equally_far_apart_make_a_view() {
    let mut rng = Rng::new(13);
    for (indices, steps) in
        [(&[1i64, 3, 5][..], 1), (&[-1, -2, -3], 1), (&[2], 1), (&[1, 2, 4], 2), (&[3, 3], 2)]
    {
        let g = Graph::new()
            .input("x", DType::F32, &["6", "4"])
            .constant("i", &ints(&[indices.len()], indices))
            .node(node("Gather", &["x", "i"], &["p"]).int("axis", 0))
            .node(node("Neg", &["p"], &["y"]))
            .output("y");
        let x = rng.floats(&[6, 4]);
        let plan = fused_equals_plain(g.model(17), std::slice::from_ref(&x));
        assert_eq!(ops(&plan).len(), steps, "{indices:?}");
        let found = run(&plan, std::slice::from_ref(&x)).unwrap();
        let (found, x) = (found[0].as_slice::<f32>().unwrap(), x.as_slice::<f32>().unwrap());
        for (k, &v) in found.iter().enumerate() {
            let row = indices[k / 4].rem_euclid(6) as usize;
            assert_eq!(v, -x[row * 4 + k % 4], "{indices:?}, element {k}");
        }
    }
}

#[test]
fn equal_work_is_done_once_and_unread_work_not_at_all() {
    let mut rng = Rng::new(14);
    let g = Graph::new()
        .input("x", DType::F32, &["2", "3", "4"])
        .node(node("Softmax", &["x"], &["a"]).int("axis", -1))
        .node(node("Softmax", &["x"], &["b"]).int("axis", 2))
        .node(node("CumSum", &["x", "axis"], &["unused"]))
        .constant("axis", &ints(&[], &[1]))
        .node(node("Mul", &["a", "b"], &["y"]))
        .output("y");
    let plan = fused_equals_plain(g.model(17), &[rng.floats(&[2, 3, 4])]);
    assert_eq!(ops(&plan), ["Softmax", "Map"]);
}

#[test]
fn random_expressions_mean_the_same_fused() {
    for seed in 0..60 {
        let mut rng = Rng::new(100 + seed);
        let shapes: [&[usize]; 4] = [&[3, 4], &[4], &[3, 1], &[]];
        let mut g = Graph::new();
        let mut inputs = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for (i, s) in shapes.iter().enumerate() {
            let dims: Vec<String> = s.iter().map(usize::to_string).collect();
            let dims: Vec<&str> = dims.iter().map(String::as_str).collect();
            g = g.input(&format!("i{i}"), DType::F32, &dims);
            inputs.push(rng.floats(s));
            names.push(format!("i{i}"));
        }
        for n in 0..12 {
            let pick = |rng: &mut Rng| names[rng.next() as usize % names.len()].clone();
            let (a, b) = (pick(&mut rng), pick(&mut rng));
            let out = format!("t{n}");
            let binary = ["Add", "Sub", "Mul", "Max", "Min"];
            let unary = ["Tanh", "Sigmoid", "Relu", "Neg", "Abs"];
            g = match rng.next() % 12 {
                r @ 0..5 => g.node(node(binary[r as usize], &[&a, &b], &[&out])),
                r @ 5..10 => g.node(node(unary[r as usize - 5], &[&a], &[&out])),
                10 => g.node(node("ReduceMax", &[&a], &[&out]).int("keepdims", 1)),
                _ => g
                    .node(node("Add", &[&a, "i0"], &[&format!("{out}_")]))
                    .node(node("Transpose", &[&format!("{out}_")], &[&format!("{out}__")]))
                    .node(node("Transpose", &[&format!("{out}__")], &[&out])),
            };
            names.push(out);
        }
        // A last sum with the full input makes sure that something is not zero.
        g = g.node(node("Add", &["t11", "i0"], &["y"])).output("y").output("t7").output("t9");
        let plan = plan(&load(g.model(13), true).unwrap(), &inputs).unwrap();
        let plain = support::plan(&load(g.model(13), false).unwrap(), &inputs).unwrap();
        let (a, b) = (run(&plan, &inputs).unwrap(), run(&plain, &inputs).unwrap());
        for (a, b) in a.iter().zip(&b) {
            for i in 0..a.ty().shape.len() {
                let (x, y) = (a.get(i).to_f64(), b.get(i).to_f64());
                assert!((x - y).abs() <= 1e-5 * (1.0 + y.abs()), "seed {seed}, element {i}: {x} and {y}");
            }
        }
    }
}
