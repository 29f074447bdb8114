//! Shape and dtype inference of every operation: what fits, what is refused and how it is said.

use streampool_core::op::*;

fn ty(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape)
}

fn f(shape: &[usize]) -> TensorType {
    ty(DType::F32, shape)
}

fn i(shape: &[usize]) -> TensorType {
    ty(DType::I64, shape)
}

#[track_caller]
fn gives(op: impl Into<Op2>, inputs: &[TensorType], outputs: &[TensorType]) {
    let op = op.into().0;
    assert_eq!(op.infer(inputs).unwrap(), outputs, "{op:?}");
}

#[track_caller]
fn refuses(op: impl Into<Op2>, inputs: &[TensorType], words: &[&str]) {
    let op = op.into().0;
    let e = op.infer(inputs).expect_err("should be refused");
    assert!(e.is_invalid_argument(), "{e:?}");
    let text = e.to_string();
    assert!(text.contains(op.name()), "{text:?} does not name {}", op.name());
    for word in words {
        assert!(text.contains(word), "{text:?} lacks {word:?}");
    }
}

/// So that the tests read without the enum's name.
struct Op2(Op);
macro_rules! into {
    ($($t:ident),*) => { $(impl From<$t> for Op2 { fn from(o: $t) -> Self { Op2(Op::$t(o)) } })* };
}
into!(
    Map,
    Reduce,
    ArgReduce,
    Cumulative,
    MatMul,
    MatMulInteger,
    Attention,
    Conv,
    ConvTranspose,
    Pool,
    Resize,
    Softmax,
    LayerNorm,
    Copy,
    Fill,
    Range,
    Pad,
    Trilu,
    Gather,
    GatherElements,
    GatherNd,
    ScatterElements,
    ScatterNd,
    TopK,
    Unique,
    Random,
    Recurrent,
    Linalg
);

#[test]
fn map_broadcasts_and_types_every_register() {
    gives(Map::binary(Binary::Add), &[f(&[2, 1, 4]), f(&[3, 1])], &[f(&[2, 3, 4])]);
    gives(Map::binary(Binary::Lt), &[i(&[0, 4]), i(&[])], &[ty(DType::Bool, &[0, 4])]);
    gives(Map::select(), &[ty(DType::Bool, &[2]), i(&[1]), i(&[2])], &[i(&[2])]);
    gives(Map::unary(Unary::IsNan), &[ty(DType::F16, &[2])], &[ty(DType::Bool, &[2])]);
    let constant = Map { code: vec![Instr::Const(Scalar::from_f64(DType::F64, 1.0))] };
    gives(constant, &[], &[ty(DType::F64, &[])]);
    let code = vec![Instr::Input(0), Instr::Cast(DType::I8, 0), Instr::Unary(Unary::Neg, 1)];
    assert_eq!(Map { code }.check(&[DType::F32]).unwrap(), [DType::F32, DType::I8, DType::I8]);

    refuses(Map::binary(Binary::Add), &[f(&[2, 3]), f(&[2, 4])], &["(2, 3)", "(2, 4)", "broadcast"]);
    refuses(Map::binary(Binary::Add), &[f(&[2]), i(&[2])], &["float32", "int64"]);
    refuses(Map::binary(Binary::Add), &[f(&[2])], &["operand 1"]);
    refuses(Map::unary(Unary::Not), &[f(&[2])], &["Not", "float32"]);
    refuses(Map::unary(Unary::Exp), &[i(&[2])], &["Exp", "int64"]);
    refuses(Map { code: vec![] }, &[], &["no instruction"]);
    refuses(Map { code: vec![Instr::Unary(Unary::Neg, 0)] }, &[], &["register 0"]);
    refuses(Map { code: vec![Instr::Const(Scalar::from_bits(DType::Bool, 2))] }, &[], &["bool"]);
    refuses(Map { code: vec![Instr::Input(0); 70000] }, &[f(&[])], &["70000"]);
    refuses(Map::unary(Unary::Neg), &vec![f(&[]); 251], &["251"]);
}

#[test]
fn reductions_check_axes_and_dtypes() {
    let reduce = |kind, axes: &[usize], keep_dims| Reduce { kind, axes: axes.to_vec(), keep_dims };
    gives(reduce(ReduceKind::Sum, &[0, 2], false), &[f(&[2, 3, 4])], &[f(&[3])]);
    gives(reduce(ReduceKind::Max, &[1], true), &[f(&[2, 0, 4])], &[f(&[2, 1, 4])]);
    gives(reduce(ReduceKind::L2, &[], false), &[i(&[2])], &[i(&[2])]);
    refuses(reduce(ReduceKind::Sum, &[3], true), &[f(&[2, 3, 4])], &["axis 3", "(2, 3, 4)"]);
    refuses(reduce(ReduceKind::Sum, &[1, 1], true), &[f(&[2, 3])], &["repeats"]);
    refuses(reduce(ReduceKind::All, &[0], true), &[f(&[2])], &["bool"]);
    refuses(reduce(ReduceKind::Sum, &[0], true), &[ty(DType::Bool, &[2])], &["bool", "cast"]);

    let arg = |axis| ArgReduce { max: true, axis, keep_dims: false, last: false };
    gives(arg(1), &[f(&[2, 3])], &[i(&[2])]);
    refuses(arg(1), &[f(&[2, 0])], &["empty"]);
    refuses(arg(0), &[f(&[])], &["axis 0"]);
    let sum = |axis| Cumulative { kind: CumulativeKind::Sum, axis, exclusive: false, reverse: false };
    gives(sum(0), &[i(&[3])], &[i(&[3])]);
    refuses(sum(1), &[i(&[3])], &["axis 1"]);
}

#[test]
fn matrix_products_check_both_factors_and_all_extras() {
    gives(MatMul::default(), &[f(&[5, 1, 2, 3]), f(&[4, 3, 7])], &[f(&[5, 4, 2, 7])]);
    gives(MatMul::default(), &[f(&[2, 0]), f(&[0, 3])], &[f(&[2, 3])]);
    gives(MatMul::default(), &[i(&[2, 4]), i(&[4, 3])], &[i(&[2, 3])]);
    let full = MatMul { bias: true, residual: true, ..MatMul::default() };
    gives(full.clone(), &[f(&[2, 3]), f(&[3, 4]), f(&[4]), f(&[2, 4])], &[f(&[2, 4])]);
    refuses(full.clone(), &[f(&[2, 3]), f(&[3, 4]), f(&[3]), f(&[2, 4])], &["bias", "(3,)"]);
    refuses(full.clone(), &[f(&[2, 3]), f(&[3, 4]), f(&[1, 1, 4]), f(&[2, 4])], &["bias"]);
    refuses(full.clone(), &[f(&[2, 3]), f(&[3, 4]), f(&[4]), f(&[1, 4])], &["residual"]);
    refuses(full, &[f(&[2, 3]), f(&[3, 4])], &["4 operand(s)", "got 2"]);
    refuses(MatMul::default(), &[f(&[2, 3]), f(&[4, 3])], &["(2, 3)", "(4, 3)"]);
    refuses(MatMul::default(), &[f(&[3]), f(&[3, 3])], &["rank"]);
    refuses(MatMul::default(), &[f(&[2, 3]), i(&[3, 3])], &["one dtype"]);
    refuses(MatMul::default(), &[ty(DType::I8, &[2, 3]), ty(DType::I8, &[3, 3])], &["int8"]);
    refuses(
        MatMul { activation: Some(Activation::Relu), ..MatMul::default() },
        &[i(&[2, 3]), i(&[3, 3])],
        &["integer"],
    );
    // Each factor can be addressed, the product cannot.
    refuses(MatMul::default(), &[f(&[1 << 40, 1]), f(&[1, 1 << 40])], &["too many elements"]);

    let q = |s: &[usize]| ty(DType::U8, s);
    let int = |a_zero, b_zero| MatMulInteger { a_zero, b_zero };
    let out = ty(DType::I32, &[5, 2, 4]);
    gives(int(true, true), &[q(&[5, 2, 3]), q(&[3, 4]), q(&[2]), q(&[4])], std::slice::from_ref(&out));
    gives(int(true, true), &[q(&[5, 2, 3]), q(&[3, 4]), q(&[]), q(&[1])], std::slice::from_ref(&out));
    gives(int(true, false), &[q(&[5, 2, 3]), q(&[3, 4]), q(&[5, 2, 1])], &[out]);
    refuses(int(true, false), &[q(&[5, 2, 3]), q(&[3, 4]), q(&[3])], &["a_zero"]);
    refuses(int(false, true), &[q(&[2, 3]), q(&[3, 4]), q(&[2])], &["b_zero"]);
    refuses(int(false, false), &[f(&[2, 3]), q(&[3, 4])], &["int8 or uint8"]);

    let attention = |mask, merge_heads| Attention { scale: F32::new(1.0), causal: false, mask, merge_heads };
    let qkv = [f(&[2, 4, 5, 8]), f(&[2, 2, 7, 8]), f(&[2, 2, 7, 3])];
    gives(attention(false, false), &qkv, &[f(&[2, 4, 5, 3])]);
    gives(attention(false, true), &qkv, &[f(&[2, 5, 4, 3])]);
    let masked = [qkv[0].clone(), qkv[1].clone(), qkv[2].clone(), f(&[5, 7])];
    gives(attention(true, false), &masked, &[f(&[2, 4, 5, 3])]);
    refuses(attention(false, false), &[f(&[2, 3, 5, 8]), qkv[1].clone(), qkv[2].clone()], &["multiple"]);
    refuses(attention(false, false), &[qkv[0].clone(), f(&[2, 2, 7, 9]), qkv[2].clone()], &["k is"]);
}

fn conv(rank: usize) -> Conv {
    Conv {
        strides: vec![1; rank],
        dilations: vec![1; rank],
        pads_before: vec![0; rank],
        pads_after: vec![0; rank],
        groups: 1,
        bias: false,
        residual: false,
        activation: None,
    }
}

#[test]
fn windows_refuse_hostile_attributes() {
    let x = f(&[2, 4, 9, 10]);
    let grouped = Conv { strides: vec![2, 3], pads_before: vec![1, 0], groups: 2, ..conv(2) };
    gives(grouped, &[x.clone(), f(&[6, 2, 3, 2])], &[f(&[2, 6, 4, 3])]);
    gives(conv(0), &[f(&[2, 4]), f(&[3, 4])], &[f(&[2, 3])]);
    let w = f(&[6, 4, 3, 3]);
    let both = [x.clone(), w.clone()];
    refuses(Conv { strides: vec![0, 1], ..conv(2) }, &both, &["strides", "0"]);
    refuses(Conv { dilations: vec![1, 0], ..conv(2) }, &both, &["dilations"]);
    refuses(Conv { dilations: vec![usize::MAX, 1], ..conv(2) }, &both, &["does not fit"]);
    refuses(Conv { pads_before: vec![usize::MAX, 0], ..conv(2) }, &both, &["does not fit"]);
    refuses(Conv { pads_after: vec![1 << 50, 1 << 50], ..conv(2) }, &both, &["too many"]);
    refuses(Conv { groups: 0, ..conv(2) }, &both, &["groups"]);
    refuses(Conv { groups: 3, ..conv(2) }, &both, &["3 groups"]);
    refuses(conv(1), &both, &["pads_before", "1 entries"]);
    refuses(conv(2), &[x.clone(), f(&[6, 4, 0, 3])], &["kernel"]);
    refuses(conv(2), &[x.clone(), f(&[6, 3, 3, 3])], &["channels"]);
    refuses(conv(2), &[x.clone(), f(&[6, 4, 10, 3])], &["does not fit"]);

    let transpose = ConvTranspose {
        strides: vec![2],
        dilations: vec![1],
        pads_before: vec![1],
        pads_after: vec![-2],
        output_padding: vec![1],
        groups: 2,
        bias: true,
    };
    let operands = [f(&[1, 4, 5]), f(&[4, 3, 3]), f(&[6])];
    gives(transpose.clone(), &operands, &[f(&[1, 6, 13])]);
    refuses(ConvTranspose { strides: vec![usize::MAX], ..transpose.clone() }, &operands, &["too long"]);
    refuses(ConvTranspose { pads_before: vec![isize::MIN], ..transpose.clone() }, &operands, &["too long"]);
    refuses(ConvTranspose { pads_before: vec![isize::MAX], ..transpose.clone() }, &operands, &["negative"]);
    refuses(ConvTranspose { groups: 1 << 62, ..transpose }, &operands, &["groups"]);

    let pool = Pool {
        kind: PoolKind::Max { indices: true, column_major: false },
        kernel: vec![3],
        strides: vec![2],
        dilations: vec![1],
        pads_before: vec![0],
        pads_after: vec![0],
        ceil: true,
    };
    gives(pool.clone(), &[f(&[1, 1, 6])], &[f(&[1, 1, 3]), i(&[1, 1, 3])]);
    // The last window would start in the right padding.
    let padded = Pool { kernel: vec![2], pads_after: vec![1], strides: vec![3], ..pool.clone() };
    gives(padded, &[f(&[1, 1, 6])], &[f(&[1, 1, 2]), i(&[1, 1, 2])]);
    refuses(Pool { kernel: vec![0], ..pool.clone() }, &[f(&[1, 1, 6])], &["kernel"]);
    refuses(Pool { kernel: vec![usize::MAX], ..pool.clone() }, &[f(&[1, 1, 6])], &["does not fit"]);
    refuses(Pool { kind: PoolKind::Lp { p: 0 }, ..pool.clone() }, &[f(&[1, 1, 6])], &["p is 0"]);
    refuses(pool, &[i(&[1, 1, 6])], &["int64"]);

    let resize = Resize {
        sizes: vec![1, 8],
        scales: vec![F32::new(1.0), F32::new(2.0)],
        coordinates: CoordinateMode::HalfPixel,
        mode: ResizeMode::Linear { antialias: false },
        roi: vec![],
    };
    gives(resize.clone(), &[f(&[1, 4])], &[f(&[1, 8])]);
    refuses(resize.clone(), &[f(&[1, 0])], &["empty"]);
    refuses(resize.clone(), &[f(&[4])], &["1 sizes"]);
    refuses(Resize { sizes: vec![1 << 40, 1 << 40], ..resize.clone() }, &[f(&[1, 4])], &["too many"]);
    refuses(
        Resize { scales: vec![F32::new(f32::NAN), F32::new(0.0)], ..resize },
        &[f(&[1, 4])],
        &["scale of axis 0"],
    );
}

#[test]
fn movement_and_creation_refuse_what_cannot_be() {
    gives(Copy, &[i(&[2, 3])], &[i(&[2, 3])]);
    refuses(Copy, &[], &["takes 1"]);
    gives(Fill { value: Scalar::from_f64(DType::F16, 1.0), shape: [2].into() }, &[], &[ty(DType::F16, &[2])]);
    refuses(Fill { value: Scalar::from_f64(DType::F16, 1.0), shape: [1 << 62].into() }, &[], &["too many"]);
    refuses(Fill { value: Scalar::from_f64(DType::F16, 1.0), shape: vec![1; 17].into() }, &[], &["rank 17"]);
    let range = |start, step| Range { start, step, len: 3 };
    gives(range(Scalar::from_i64(DType::I8, 1), Scalar::from_i64(DType::I8, 2)), &[], &[ty(DType::I8, &[3])]);
    refuses(range(Scalar::from_i64(DType::I8, 1), Scalar::from_i64(DType::I64, 2)), &[], &["int8", "int64"]);

    let zero = PadMode::Constant(Scalar::from_f64(DType::F32, 0.0));
    let pad = |mode, before: &[isize], after: &[isize]| Pad {
        mode,
        before: before.to_vec(),
        after: after.to_vec(),
    };
    gives(pad(zero, &[1, -2], &[2, 0]), &[f(&[3, 4])], &[f(&[6, 2])]);
    gives(pad(zero, &[1], &[0]), &[f(&[0])], &[f(&[1])]);
    refuses(pad(PadMode::Edge, &[1], &[0]), &[f(&[0])], &["empty"]);
    refuses(pad(zero, &[-3], &[-2]), &[f(&[4])], &["cannot be extended"]);
    refuses(pad(zero, &[isize::MAX], &[isize::MAX]), &[f(&[4])], &["cannot be extended"]);
    refuses(pad(zero, &[isize::MIN], &[0]), &[f(&[4])], &["cannot be extended"]);
    refuses(pad(zero, &[1], &[1, 2]), &[f(&[4])], &["border"]);
    refuses(pad(zero, &[1], &[1]), &[i(&[4])], &["int64"]);
    refuses(Trilu { upper: true, k: 0 }, &[f(&[4])], &["rank"]);

    let random = |dtype, shape: &[usize]| Random {
        distribution: Distribution::Uniform { low: F32::new(0.0), high: F32::new(1.0) },
        dtype,
        shape: shape.into(),
    };
    gives(random(DType::BF16, &[2]), &[i(&[2])], &[ty(DType::BF16, &[2])]);
    refuses(random(DType::I32, &[2]), &[i(&[2])], &["int32"]);
    refuses(random(DType::F32, &[2]), &[i(&[3])], &["key"]);
}

#[test]
fn indexing_follows_onnx() {
    gives(Gather { axis: 1 }, &[f(&[2, 3, 4]), ty(DType::I32, &[5, 6])], &[f(&[2, 5, 6, 4])]);
    gives(Gather { axis: 0 }, &[f(&[2]), i(&[])], &[f(&[])]);
    refuses(Gather { axis: 1 }, &[f(&[2]), i(&[])], &["axis 1"]);
    refuses(Gather { axis: 0 }, &[f(&[2]), f(&[])], &["indices", "int32 or int64"]);
    refuses(Gather { axis: 0 }, &[f(&[2; 9]), i(&[2; 9])], &["rank"]);

    gives(GatherElements { axis: 0 }, &[f(&[2, 3]), i(&[7, 2])], &[f(&[7, 2])]);
    refuses(GatherElements { axis: 0 }, &[f(&[2, 3]), i(&[7, 4])], &["longer"]);
    gives(GatherNd { batch_dims: 1 }, &[f(&[2, 3, 4]), i(&[2, 5, 1])], &[f(&[2, 5, 4])]);
    refuses(GatherNd { batch_dims: 1 }, &[f(&[2, 3, 4]), i(&[3, 5, 1])], &["share"]);
    refuses(GatherNd { batch_dims: 9 }, &[f(&[2, 3, 4]), i(&[2, 5, 1])], &["share"]);
    refuses(GatherNd { batch_dims: 0 }, &[f(&[2, 3]), i(&[2, 5, 3])], &["tuples of 3"]);

    let elements = |reduction| ScatterElements { axis: 1, reduction };
    gives(elements(OnScatter::Add), &[f(&[2, 3]), i(&[1, 8]), f(&[1, 8])], &[f(&[2, 3])]);
    refuses(elements(OnScatter::Add), &[f(&[2, 3]), i(&[1, 8]), f(&[1, 7])], &["updates"]);
    let b = |s: &[usize]| ty(DType::Bool, s);
    gives(elements(OnScatter::Replace), &[b(&[2, 3]), i(&[1, 1]), b(&[1, 1])], &[b(&[2, 3])]);
    refuses(elements(OnScatter::Add), &[b(&[2, 3]), i(&[1, 1]), b(&[1, 1])], &["bool"]);
    let nd = |reduction| ScatterNd { reduction };
    gives(nd(OnScatter::Max), &[f(&[2, 3, 4]), i(&[5, 2]), f(&[5, 4])], &[f(&[2, 3, 4])]);
    refuses(nd(OnScatter::Max), &[f(&[2, 3, 4]), i(&[5, 2]), f(&[5, 3])], &["updates", "(5, 4)"]);

    let top = |k| TopK { k, axis: 0, largest: true, sorted: true };
    gives(top(2), &[f(&[3, 2])], &[f(&[2, 2]), i(&[2, 2])]);
    refuses(top(4), &[f(&[3, 2])], &["k is 4"]);
    let unique = |count| Unique { count, sorted: true };
    gives(unique(2), &[f(&[3])], &[f(&[2]), i(&[2]), i(&[3]), i(&[2])]);
    refuses(unique(4), &[f(&[3])], &["4 distinct"]);
}

#[test]
fn normalisation_recurrence_and_linear_algebra_check_shapes() {
    let soft = |axis, axes| Softmax { axis, axes, log: false };
    gives(soft(1, 2), &[f(&[2, 3, 4])], &[f(&[2, 3, 4])]);
    refuses(soft(1, 3), &[f(&[2, 3, 4])], &["3 axes"]);
    refuses(soft(1, usize::MAX), &[f(&[2, 3, 4])], &["axes"]);
    refuses(soft(0, 1), &[i(&[2])], &["int64"]);

    let norm =
        LayerNorm { axis: 1, epsilon: F32::new(1e-5), rms: false, scale: true, bias: true, residual: true };
    let x = f(&[2, 3, 4]);
    gives(norm.clone(), &[x.clone(), f(&[3, 4]), f(&[4]), x.clone()], std::slice::from_ref(&x));
    refuses(norm.clone(), &[x.clone(), f(&[2, 3, 4]), f(&[4]), x.clone()], &["scale"]);
    refuses(norm.clone(), &[x.clone(), f(&[4]), f(&[4]), f(&[1, 3, 4])], &["residual"]);
    assert!(Op::LayerNorm(norm.clone()).in_place(3) && !Op::LayerNorm(norm).in_place(1));

    let lstm = Recurrent {
        cell: Cell::Lstm { input_forget: false },
        direction: RecurrentDirection::Bidirectional,
        hidden: 5,
        activations: vec![RecurrentActivation::Tanh; 6],
        clip: None,
        bias: true,
        lengths: true,
        initial_h: false,
        initial_c: false,
        peephole: false,
    };
    let operands = [f(&[7, 2, 3]), f(&[2, 20, 3]), f(&[2, 20, 5]), f(&[2, 40]), ty(DType::I32, &[2])];
    gives(lstm.clone(), &operands, &[f(&[7, 2, 2, 5]), f(&[2, 2, 5]), f(&[2, 2, 5])]);
    refuses(Recurrent { hidden: usize::MAX, ..lstm.clone() }, &operands, &["hidden"]);
    refuses(Recurrent { activations: vec![], ..lstm.clone() }, &operands, &["activations"]);
    refuses(lstm, &operands[..4], &["5 operand(s)", "lengths"]);

    gives(Linalg::Svd, &[f(&[9, 5, 3])], &[f(&[9, 5, 3]), f(&[9, 3]), f(&[9, 3, 3])]);
    gives(Linalg::Det, &[f(&[9, 3, 3])], &[f(&[9])]);
    gives(Linalg::Solve, &[f(&[3, 3]), f(&[3, 2])], &[f(&[3, 2])]);
    refuses(Linalg::Solve, &[f(&[3, 3]), f(&[2, 2])], &["b is"]);
    refuses(Linalg::Inv, &[f(&[2, 3])], &["square"]);
    refuses(Linalg::Inv, &[ty(DType::F16, &[3, 3])], &["float16"]);
}

#[test]
fn an_operand_that_cannot_be_addressed_is_refused_before_all_else() {
    refuses(Copy, &[f(&[0, 1 << 60, 1 << 60])], &["operand 0", "too many"]);
}
