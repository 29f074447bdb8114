//! What is tried: each family with several dtypes, shapes (odd, empty, rank 0), strides (transposed, negative, broadcast) and values
//! (NaN and infinity among them).

use streampool_core::op::Random as Random_;
use streampool_core::op::*;

use crate::bench::Random;
use crate::case::{Case, dense, set};

pub(crate) const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
const INTS: [DType; 4] = [DType::I8, DType::U8, DType::I32, DType::I64];

/// How close sums come in another order.
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 2e-6,
        DType::F16 => 2e-3,
        _ => 1.2e-2,
    }
}

/// Cases on random inputs.
#[derive(Debug)]
pub struct Cases {
    /// So far.
    pub list: Vec<Case>,
    random: Random,
}

impl Cases {
    /// None yet; inputs are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { list: Vec::new(), random: Random(seed) }
    }

    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.random.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn tensor(&mut self, dtype: DType, shape: &[usize], low: f64, high: f64) -> HostTensor {
        let mut t = HostTensor::zeros(TensorType::new(dtype, shape)).unwrap();
        for i in 0..t.ty().shape.len() {
            let value = match dtype {
                DType::Bool => (self.random.next() & 1) as f64,
                d if d.is_int() => self.uniform(low, high + 1.0).floor(),
                _ => self.uniform(low, high),
            };
            set(&mut t, i, Scalar::from_f64(dtype, value));
        }
        t
    }

    pub(crate) fn add(&mut self, name: &str, op: Op, data: Vec<HostTensor>, tolerance: f64) {
        let inputs = data.iter().zip(0..).map(|(t, n)| dense(Place::Input(n), t.ty())).collect();
        self.add_views(name, op, inputs, data, tolerance);
    }

    fn add_views(&mut self, name: &str, op: Op, inputs: Vec<Operand>, data: Vec<HostTensor>, tolerance: f64) {
        let types: Vec<TensorType> = inputs.iter().map(Operand::ty).collect();
        let results = op.infer(&types).unwrap_or_else(|e| panic!("{name}: {e}"));
        let outputs = results.iter().zip(0..).map(|(ty, n)| dense(Place::Output(n), ty)).collect();
        let name = format!("{} {name} {types:?}", op.name());
        self.list.push(Case { name, op, inputs, outputs, data, tolerance });
    }

    /// All families.
    pub fn all(&mut self) {
        self.maps();
        self.movement();
        self.reductions();
        self.normalisation();
        self.indices();
        self.windows();
        self.products();
        self.attention();
        self.random_numbers();
        self.resizes();
        self.recurrent();
        self.linear_algebra();
    }

    fn resizes(&mut self) {
        use CoordinateMode::*;
        let linear = ResizeMode::Linear { antialias: false };
        let cubic =
            |exclude_outside| ResizeMode::Cubic { a: F32::new(-0.75), exclude_outside, antialias: false };
        let filter =
            |exclude_outside| ResizeMode::Cubic { a: F32::new(-0.5), exclude_outside, antialias: true };
        let crop = TfCropAndResize { extrapolation: F32::new(7.0) };
        let modes = [
            (HalfPixel, linear),
            (HalfPixelSymmetric, linear),
            (PytorchHalfPixel, cubic(false)),
            (AlignCorners, linear),
            (Asymmetric, ResizeMode::Nearest(NearestMode::Floor)),
            (HalfPixel, ResizeMode::Nearest(NearestMode::RoundPreferFloor)),
            (AlignCorners, ResizeMode::Nearest(NearestMode::RoundPreferCeil)),
            (Asymmetric, ResizeMode::Nearest(NearestMode::Ceil)),
            (HalfPixel, cubic(true)),
            (crop, linear),
            (crop, ResizeMode::Nearest(NearestMode::RoundPreferFloor)),
            (HalfPixel, ResizeMode::Linear { antialias: true }),
            (AlignCorners, filter(false)),
            (HalfPixel, filter(true)),
            (Asymmetric, ResizeMode::Linear { antialias: true }),
            (crop, filter(false)),
        ];
        for (which, (coordinates, mode)) in modes.into_iter().enumerate() {
            for (from, to) in
                [(&[2usize, 3, 5, 4][..], &[2usize, 3, 9, 3][..]), (&[37], &[4]), (&[1, 2], &[1, 1])]
            {
                let dtype = [DType::F32, DType::F16, DType::U8, DType::I32, DType::BF16][which % 5];
                let roi = if coordinates == crop {
                    from.iter().map(|_| (F32::new(-0.1), F32::new(0.9))).collect()
                } else {
                    Vec::new()
                };
                let op = Op::Resize(Resize {
                    sizes: to.to_vec(),
                    scales: from.iter().zip(to).map(|(&f, &t)| F32::new(t as f32 / f as f32)).collect(),
                    coordinates,
                    mode,
                    roi,
                });
                let data = vec![self.tensor(dtype, from, 0.0, 100.0)];
                self.add(&format!("{coordinates:?} {mode:?} to {to:?}"), op, data, tolerance(dtype));
            }
        }
    }

    fn random_numbers(&mut self) {
        for dtype in FLOATS {
            for (distribution, shape) in [
                (Distribution::Uniform { low: F32::new(-0.5), high: F32::new(2.0) }, &[3usize, 7, 5][..]),
                // Bounds so close that rounding meets the upper one.
                (Distribution::Uniform { low: F32::new(1.0), high: F32::new(1.001) }, &[300]),
                (Distribution::Uniform { low: F32::new(2.0), high: F32::new(2.0) }, &[5]),
                (Distribution::Normal { mean: F32::new(1.0), std: F32::new(3.0) }, &[1030]),
                (Distribution::Normal { mean: F32::new(0.0), std: F32::new(1.0) }, &[]),
                (Distribution::Normal { mean: F32::new(0.0), std: F32::new(1.0) }, &[0, 3]),
            ] {
                let mut key = HostTensor::zeros(TensorType::new(DType::I64, [2])).unwrap();
                for i in 0..2 {
                    let bits = self.random.next();
                    set(&mut key, i, Scalar::from_i64(DType::I64, bits as i64));
                }
                let op = Op::Random(Random_ { distribution, dtype, shape: shape.into() });
                // Single precision is the same to the bit everywhere; the platform's functions serve double precision.
                self.add("", op, vec![key], if dtype == DType::F64 { 1e-14 } else { 0.0 });
            }
        }
    }

    fn maps(&mut self) {
        use Unary::*;
        let special = |t: &mut HostTensor| {
            for (i, v) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.0, -1.0, 0.5]
                .into_iter()
                .enumerate()
            {
                set(t, i, Scalar::from_f64(t.ty().dtype, v));
            }
        };
        for f in [
            Neg, Abs, Sign, Ceil, Floor, Trunc, Round, Sqrt, Rsqrt, Reciprocal, Exp, Log, Log1p, Expm1, Sin,
            Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Tanh, Asinh, Acosh, Atanh, Erf, Sigmoid, Relu, Gelu,
            GeluTanh, Silu, Softplus, IsNan, IsInf, IsPosInf, IsNegInf,
        ] {
            for dtype in FLOATS {
                let mut x = self.tensor(dtype, &[41], -3.0, 3.0);
                special(&mut x);
                if matches!(f, Gelu | Silu | GeluTanh) {
                    // -inf * 0: the CPU's vector form and the plain one differ there.
                    set(&mut x, 2, Scalar::from_f64(dtype, -2.0));
                }
                self.add(&format!("{f:?}"), Op::Map(Map::unary(f)), vec![x], tolerance(dtype).max(1e-6));
            }
            for dtype in INTS {
                if f.takes(dtype) {
                    let x = self.tensor(dtype, &[40], if dtype == DType::U8 { 0.0 } else { -128.0 }, 127.0);
                    self.add(&format!("{f:?}"), Op::Map(Map::unary(f)), vec![x], 0.0);
                }
            }
        }
        let b = self.tensor(DType::Bool, &[9], 0.0, 1.0);
        self.add("not", Op::Map(Map::unary(Not)), vec![b], 0.0);
        let b = self.tensor(DType::I32, &[9], -99.0, 99.0);
        self.add("bit not", Op::Map(Map::unary(BitNot)), vec![b], 0.0);
        {
            use Binary::*;
            for f in [
                Add, Sub, Mul, Div, FloorDiv, Rem, Mod, Pow, Atan2, Min, Max, Eq, Ne, Lt, Le, Gt, Ge, And,
                Or, Xor, BitAnd, BitOr, BitXor, Shl, Shr,
            ] {
                for dtype in DType::ALL {
                    if !f.takes(dtype) {
                        continue;
                    }
                    let (low, high) = match dtype {
                        DType::U8 | DType::Bool => (0.0, 9.0),
                        _ => (-9.0, 9.0),
                    };
                    let mut x = self.tensor(dtype, &[60], low, high);
                    let mut y = self.tensor(dtype, &[60], low, high);
                    if dtype.is_int() {
                        for (i, v) in [i64::MIN >> 8, i64::MAX >> 8, 0].into_iter().enumerate() {
                            set(&mut x, i, Scalar::from_i64(dtype, v));
                        }
                        if f != Pow {
                            set(&mut y, 5, Scalar::from_i64(dtype, 64));
                        }
                        set(&mut y, 6, Scalar::from_i64(dtype, 0));
                    }
                    if dtype == DType::I32 {
                        set(&mut x, 7, Scalar::from_i64(dtype, i64::from(i32::MIN)));
                        set(&mut y, 7, Scalar::from_i64(dtype, -1));
                    }
                    self.add(&format!("{f:?}"), Op::Map(Map::binary(f)), vec![x, y], tolerance(dtype));
                }
            }
        }
        for from in DType::ALL {
            for to in DType::ALL {
                let low = if matches!(from, DType::U8 | DType::Bool) { 0.0 } else { -100.0 };
                let mut x = self.tensor(from, &[50], low, 100.0);
                if from.is_float() {
                    for (i, v) in [f64::NAN, 1e30, -1e30, 300.0, -300.0, 65519.9, 2.5].into_iter().enumerate()
                    {
                        set(&mut x, i, Scalar::from_f64(from, v));
                    }
                }
                self.add(&format!("to {to}"), Op::Map(Map::cast(to)), vec![x], 0.0);
            }
        }
        // Broadcasting, views, and a large one that takes several elements a thread.
        let add = || Op::Map(Map::binary(Binary::Add));
        for (a, b) in [
            (&[3usize, 1, 5][..], &[4, 1][..]),
            (&[], &[2, 3]),
            (&[7], &[]),
            (&[0, 3], &[3]),
            (&[530_001], &[1]),
        ] {
            let (a, b) = (self.tensor(DType::F32, a, -1.0, 1.0), self.tensor(DType::F32, b, -1.0, 1.0));
            self.add("broadcast", add(), vec![a, b], 0.0);
        }
        for view in self.views(&[5, 6, 7]) {
            let x = self.tensor(DType::F32, &[5, 6, 7], -1.0, 1.0);
            let operand = Operand { place: Place::Input(0), dtype: DType::F32, layout: view };
            let code = vec![
                Instr::Input(0),
                Instr::Const(Scalar::from_f64(DType::F32, 0.1)),
                Instr::Binary(Binary::Mul, 0, 1),
                Instr::Binary(Binary::Lt, 2, 1),
                Instr::Select(3, 0, 2),
            ];
            self.add_views("view", Op::Map(Map { code }), vec![operand], vec![x], 0.0);
        }
    }

    /// Views of a dense tensor of this shape.
    fn views(&mut self, shape: &[usize]) -> Vec<Layout> {
        let l = Layout::contiguous(shape);
        let last = shape.len() - 1;
        vec![
            l.clone(),
            l.permute(&(0..shape.len()).rev().collect::<Vec<_>>()),
            l.slice(0, shape[0] - 1, shape[0], -1),
            l.slice(last, 1, shape[last] / 2, 2),
            l.slice(0, 1, 1, 1)
                .broadcast_to(&[3].iter().chain(&[1]).chain(&shape[1..]).copied().collect())
                .unwrap(),
        ]
    }

    fn movement(&mut self) {
        for dtype in [DType::U8, DType::F16, DType::F32, DType::I64] {
            for shape in [&[5usize, 6, 7][..], &[2, 40, 70]] {
                for layout in self.views(shape) {
                    let x = self.tensor(dtype, shape, 0.0, 100.0);
                    let operand = Operand { place: Place::Input(0), dtype, layout };
                    self.add_views("view", Op::Copy(Copy), vec![operand], vec![x], 0.0);
                }
            }
            self.add(
                "",
                Op::Fill(Fill { value: Scalar::from_f64(dtype, 7.0), shape: Shape::new(&[3, 5]) }),
                vec![],
                0.0,
            );
            let (start, step) = (Scalar::from_f64(dtype, 3.0), Scalar::from_f64(dtype, 2.0));
            self.add("", Op::Range(Range { start, step, len: 50 }), vec![], 0.0);
            for (upper, k) in [(true, 0), (false, 0), (true, -2), (false, 1), (true, i64::MAX)] {
                let x = self.tensor(dtype, &[2, 4, 6], 1.0, 100.0);
                self.add("", Op::Trilu(Trilu { upper, k }), vec![x], 0.0);
            }
            for mode in [
                PadMode::Constant(Scalar::from_f64(dtype, 9.0)),
                PadMode::Edge,
                PadMode::Reflect,
                PadMode::Wrap,
            ] {
                for (before, after) in
                    [(vec![1, 2], vec![0, 3]), (vec![-1, 0], vec![2, -2]), (vec![0, 9], vec![7, 11])]
                {
                    let x = self.tensor(dtype, &[3, 4], 0.0, 100.0);
                    self.add("", Op::Pad(Pad { mode, before, after }), vec![x], 0.0);
                }
            }
        }
        // A region of a larger tensor: one part of a concatenation.
        let x = self.tensor(DType::F32, &[3, 4], 0.0, 1.0);
        let inputs = vec![dense(Place::Input(0), x.ty())];
        let layout = Layout::contiguous([3, 9]).slice(1, 2, 4, 1);
        let outputs = vec![Operand { place: Place::Output(0), dtype: DType::F32, layout }];
        self.list.push(Case {
            name: "concat part".into(),
            op: Op::Copy(Copy),
            inputs,
            outputs,
            data: vec![x],
            tolerance: 0.0,
        });
    }

    fn reductions(&mut self) {
        use ReduceKind::*;
        for kind in [Sum, Mean, Prod, Max, Min, L1, L2, SumSquare, LogSum, LogSumExp] {
            for dtype in [DType::F32, DType::F64, DType::F16, DType::I32, DType::I64, DType::U8] {
                if !dtype.is_float() && matches!(kind, Mean | L2 | LogSum | LogSumExp) {
                    continue;
                }
                for (shape, axes) in [
                    (&[3usize, 5, 7][..], &[1usize][..]),
                    (&[4, 300], &[1]),
                    (&[300, 4], &[0]),
                    (&[2, 3, 40, 5], &[0, 2]),
                    (&[3, 0], &[1]),
                    (&[2, 3], &[]),
                    (&[7], &[0]),
                ] {
                    let (low, high) = if kind == LogSum {
                        (0.1, 2.0)
                    } else if dtype == DType::U8 {
                        (0.0, 3.0)
                    } else {
                        (-1.5, 1.5)
                    };
                    let x = self.tensor(dtype, shape, low, high);
                    let op = Op::Reduce(Reduce { kind, axes: axes.to_vec(), keep_dims: true });
                    self.add(&format!("{kind:?} {axes:?}"), op, vec![x], tolerance(dtype).max(1e-6));
                }
            }
        }
        for kind in [All, Any] {
            let x = self.tensor(DType::Bool, &[5, 3, 40], 0.0, 1.0);
            for axes in [vec![2], vec![0, 1]] {
                self.add("bool", Op::Reduce(Reduce { kind, axes, keep_dims: false }), vec![x.clone()], 0.0);
            }
        }
        let x = self.tensor(DType::F32, &[6, 50], -1.0, 1.0);
        let operand = Operand {
            place: Place::Input(0),
            dtype: DType::F32,
            layout: Layout::contiguous([6, 50]).permute(&[1, 0]),
        };
        let op = Op::Reduce(Reduce { kind: Sum, axes: vec![1], keep_dims: false });
        self.add_views("view", op, vec![operand], vec![x], 1e-6);
        for dtype in [DType::F32, DType::F16, DType::I32, DType::U8] {
            for (max, last) in [(true, false), (false, true), (true, true)] {
                let mut x = self.tensor(dtype, &[3, 9, 4], 0.0, 3.0);
                if dtype.is_float() {
                    set(&mut x, 17, Scalar::from_f64(dtype, f64::NAN));
                    set(&mut x, 21, Scalar::from_f64(dtype, f64::NAN));
                }
                self.add("", Op::ArgReduce(ArgReduce { max, axis: 1, keep_dims: false, last }), vec![x], 0.0);
            }
            for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
                for kind in [CumulativeKind::Sum, CumulativeKind::Prod] {
                    let x = self.tensor(dtype, &[3, 5, 4], 0.0, 2.0);
                    let op = Op::Cumulative(Cumulative { kind, axis: 1, exclusive, reverse });
                    self.add("", op, vec![x], tolerance(dtype) * 4.0);
                }
            }
            for (largest, axis) in [(true, 1), (false, 2)] {
                let mut x = self.tensor(dtype, &[3, 9, 8], 0.0, 5.0);
                if dtype.is_float() {
                    set(&mut x, 30, Scalar::from_f64(dtype, f64::NAN));
                }
                self.add("", Op::TopK(TopK { k: 4, axis, largest, sorted: true }), vec![x], 0.0);
            }
        }
    }

    fn normalisation(&mut self) {
        for dtype in FLOATS {
            for (shape, axis, axes) in [
                (&[3usize, 4, 5][..], 1, 1),
                (&[4, 100], 1, 1),
                (&[2, 3, 33], 1, 2),
                (&[3, 7], 1, 1),
                (&[2, 9000], 1, 1),
            ] {
                for log in [false, true] {
                    let mut x = self.tensor(dtype, shape, -4.0, 4.0);
                    set(&mut x, 3, Scalar::from_f64(dtype, f64::NEG_INFINITY));
                    self.add("", Op::Softmax(Softmax { axis, axes, log }), vec![x], tolerance(dtype) * 2.0);
                }
            }
            for (shape, scale, bias, residual, rms) in [
                (&[5usize, 384][..], true, true, true, false),
                (&[3, 2, 10], false, false, false, false),
                (&[4, 70], true, false, false, true),
                (&[2, 9000], true, true, false, false),
                (&[3, 1], true, true, true, false),
            ] {
                let axis = shape.len() - 1;
                let mut data = vec![self.tensor(dtype, shape, -2.0, 3.0)];
                for there in [scale, bias] {
                    if there {
                        data.push(self.tensor(dtype, &shape[axis..], 0.5, 2.0));
                    }
                }
                if residual {
                    data.push(self.tensor(dtype, shape, -2.0, 3.0));
                }
                let op =
                    Op::LayerNorm(LayerNorm { axis, epsilon: F32::new(1e-5), rms, scale, bias, residual });
                self.add("", op, data, tolerance(dtype) * 4.0);
            }
        }
    }

    /// Takes slices of an axis of 10.
    pub fn gather_with(&mut self, which: &[i64]) {
        let x = self.tensor(DType::F32, &[2, 10, 3], 0.0, 1.0);
        let indices = HostTensor::from_slice([which.len()], which).unwrap();
        self.add("", Op::Gather(Gather { axis: 1 }), vec![x, indices], 0.0);
    }

    fn indices(&mut self) {
        self.gather_with(&[0, 9, -10, 4]);
        for dtype in [DType::F32, DType::F16, DType::I64, DType::U8] {
            for ity in [DType::I32, DType::I64] {
                let x = self.tensor(dtype, &[4, 5, 6], 0.0, 100.0);
                let i = self.tensor(ity, &[2, 3], -5.0, 4.0);
                self.add("", Op::Gather(Gather { axis: 1 }), vec![x.clone(), i], 0.0);
                let i = self.tensor(ity, &[4, 7, 5], -5.0, 4.0);
                self.add("", Op::GatherElements(GatherElements { axis: 1 }), vec![x.clone(), i], 0.0);
                for (batch_dims, shape) in
                    [(0, &[3usize, 2][..]), (1, &[4, 3, 1]), (0, &[2, 3]), (2, &[4, 5, 1])]
                {
                    let i = self.tensor(ity, shape, -4.0, 3.0);
                    self.add("", Op::GatherNd(GatherNd { batch_dims }), vec![x.clone(), i], 0.0);
                }
                use OnScatter::*;
                for reduction in [Replace, Add, Mul, Min, Max] {
                    let i = self.tensor(ity, &[3, 7, 4], -5.0, 4.0);
                    let u = self.tensor(dtype, &[3, 7, 4], 0.0, 3.0);
                    self.add(
                        "",
                        Op::ScatterElements(ScatterElements { axis: 1, reduction }),
                        vec![x.clone(), i, u],
                        tolerance(dtype),
                    );
                    let i = self.tensor(ity, &[7, 2], -4.0, 3.0);
                    let u = self.tensor(dtype, &[7, 6], 0.0, 3.0);
                    self.add(
                        "",
                        Op::ScatterNd(ScatterNd { reduction }),
                        vec![x.clone(), i, u],
                        tolerance(dtype),
                    );
                }
            }
        }
    }

    fn windows(&mut self) {
        for dtype in FLOATS {
            for (shape, kernel, strides, dilations, pads, ceil) in [
                (&[2usize, 3, 9][..], &[3usize][..], &[2usize][..], &[1usize][..], &[1usize][..], true),
                (&[1, 2, 7, 8], &[3, 2], &[2, 1], &[1, 2], &[1, 1], false),
                (&[1, 2, 4, 5, 6], &[2, 3, 2], &[1, 2, 2], &[1, 1, 1], &[0, 1, 1], true),
            ] {
                for kind in [
                    PoolKind::Max { indices: false, column_major: false },
                    PoolKind::Max { indices: true, column_major: true },
                    PoolKind::Average { count_pad: true },
                    PoolKind::Average { count_pad: false },
                    PoolKind::Lp { p: 1 },
                    PoolKind::Lp { p: 2 },
                    PoolKind::Lp { p: 3 },
                ] {
                    let x = self.tensor(dtype, shape, -2.0, 2.0);
                    let op = Op::Pool(Pool {
                        kind,
                        kernel: kernel.to_vec(),
                        strides: strides.to_vec(),
                        dilations: dilations.to_vec(),
                        pads_before: pads.to_vec(),
                        pads_after: pads.to_vec(),
                        ceil,
                    });
                    self.add(&format!("{kind:?}"), op, vec![x], tolerance(dtype) * 2.0);
                }
            }
            for (x, w, strides, dilations, before, after, groups, activation) in [
                (
                    &[2usize, 4, 9, 8][..],
                    &[6usize, 4, 3, 3][..],
                    &[1usize, 2][..],
                    &[1usize, 1][..],
                    &[1usize, 1][..],
                    &[1usize, 0][..],
                    1,
                    Some(Activation::Relu),
                ),
                (&[1, 6, 11], &[6, 1, 3], &[2], &[2], &[2], &[1], 6, None),
                (
                    &[1, 4, 5, 6, 4],
                    &[4, 2, 2, 3, 1],
                    &[1, 1, 1],
                    &[1, 1, 1],
                    &[0, 1, 0],
                    &[1, 0, 0],
                    2,
                    Some(Activation::GeluTanh),
                ),
            ] {
                let y = [x[0], w[0]];
                let bias = self.tensor(dtype, &y[1..], -1.0, 1.0);
                let data = vec![self.tensor(dtype, x, -1.0, 1.0), self.tensor(dtype, w, -1.0, 1.0), bias];
                let op = Op::Conv(Conv {
                    strides: strides.to_vec(),
                    dilations: dilations.to_vec(),
                    pads_before: before.to_vec(),
                    pads_after: after.to_vec(),
                    groups,
                    bias: true,
                    residual: false,
                    activation,
                });
                self.add("", op, data, tolerance(dtype) * 2.0);
            }
            for (x, w, strides, dilations, before, after, extra, groups) in [
                (
                    &[2usize, 4, 5, 4][..],
                    &[4usize, 3, 3, 2][..],
                    &[2usize, 1][..],
                    &[1usize, 2][..],
                    &[1isize, 0][..],
                    &[0isize, 1][..],
                    &[1usize, 0][..],
                    1,
                ),
                (&[1, 6, 5], &[6, 2, 3], &[3], &[1], &[-1], &[1], &[0], 3),
            ] {
                let data = vec![self.tensor(dtype, x, -1.0, 1.0), self.tensor(dtype, w, -1.0, 1.0)];
                let op = Op::ConvTranspose(ConvTranspose {
                    strides: strides.to_vec(),
                    dilations: dilations.to_vec(),
                    pads_before: before.to_vec(),
                    pads_after: after.to_vec(),
                    output_padding: extra.to_vec(),
                    groups,
                    bias: false,
                });
                self.add("", op, data, tolerance(dtype) * 2.0);
            }
        }
    }

    fn products(&mut self) {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::I64] {
            for (a, b, bias, residual, activation) in [
                (&[5usize, 33][..], &[33usize, 20][..], Some(&[20usize][..]), true, Some(Activation::Gelu)),
                (
                    &[2, 1, 4, 7],
                    &[3, 7, 18],
                    Some(&[4, 1]),
                    false,
                    Some(Activation::Clip(F32::new(-0.5), F32::new(0.5))),
                ),
                (&[1, 300], &[300, 70], Some(&[70]), true, Some(Activation::Relu)),
                (&[3, 40], &[40, 9], Some(&[]), false, Some(Activation::LeakyRelu(F32::new(0.1)))),
                (&[2, 0], &[0, 3], None, false, None),
            ] {
                let float = dtype.is_float();
                let mut data = vec![self.tensor(dtype, a, -2.0, 2.0), self.tensor(dtype, b, -2.0, 2.0)];
                let op = MatMul {
                    alpha: F32::new(if float { 0.5 } else { 1.0 }),
                    bias: bias.is_some(),
                    residual,
                    activation: if float { activation } else { None },
                };
                if let Some(bias) = bias {
                    data.push(self.tensor(dtype, bias, -2.0, 2.0));
                }
                if residual {
                    data.push(self.tensor(dtype, &[a[0], b[1]], -2.0, 2.0));
                }
                self.add("", Op::MatMul(op), data, tolerance(dtype) * 2.0);
            }
            // Transposed factors: vectors and tiles.
            for m in [1, 2, 6] {
                let (x, w) =
                    (self.tensor(dtype, &[m, 50], -1.0, 1.0), self.tensor(dtype, &[37, 50], -1.0, 1.0));
                let b = Operand {
                    place: Place::Input(1),
                    dtype,
                    layout: Layout::contiguous([37, 50]).permute(&[1, 0]),
                };
                let a = dense(Place::Input(0), x.ty());
                self.add_views(
                    "transposed",
                    Op::MatMul(MatMul::default()),
                    vec![a, b],
                    vec![x, w],
                    tolerance(dtype) * 2.0,
                );
            }
        }
        for (a_zero, b_zero) in
            [(None, None), (Some(&[][..]), Some(&[][..])), (Some(&[4][..]), Some(&[6][..]))]
        {
            let mut data = vec![
                self.tensor(DType::U8, &[3, 4, 5], 0.0, 255.0),
                self.tensor(DType::I8, &[5, 6], -128.0, 127.0),
            ];
            if let Some(z) = a_zero {
                data.push(self.tensor(DType::U8, z, 0.0, 255.0));
            }
            if let Some(z) = b_zero {
                data.push(self.tensor(DType::I8, z, -9.0, 9.0));
            }
            let op = MatMulInteger { a_zero: a_zero.is_some(), b_zero: b_zero.is_some() };
            self.add("", Op::MatMulInteger(op), data, 0.0);
        }
    }

    fn attention(&mut self) {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (q, g, t, e, causal, mask, merge_heads) in [
                ([1usize, 2, 20, 32], 2, 20, 32, false, None, true),
                ([2, 4, 9, 16], 2, 33, 24, false, Some(&[2usize, 1, 1, 33][..]), false),
                ([1, 2, 17, 48], 1, 17, 8, true, None, true),
                ([1, 1, 5, 16], 1, 3, 8, true, None, false),
                ([1, 2, 3, 5], 2, 70, 3, false, Some(&[3, 70]), true),
            ] {
                let [b, _, _, d] = q;
                let mut data = vec![
                    self.tensor(dtype, &q, -2.0, 2.0),
                    self.tensor(dtype, &[b, g, t, d], -2.0, 2.0),
                    self.tensor(dtype, &[b, g, t, e], -2.0, 2.0),
                ];
                if let Some(shape) = mask {
                    let mut m = self.tensor(dtype, shape, -1.0, 1.0);
                    for i in (0..m.ty().shape.len()).step_by(3) {
                        set(&mut m, i, Scalar::from_f64(dtype, f64::NEG_INFINITY));
                    }
                    data.push(m);
                }
                let op = Op::Attention(Attention {
                    scale: F32::new(0.3),
                    causal,
                    mask: mask.is_some(),
                    merge_heads,
                });
                self.add(&format!("causal {causal}"), op, data, tolerance(dtype) * 2.0);
            }
            // As models have them: (b, s, h, d) in memory, read as (b, h, s, d).
            let data: Vec<HostTensor> =
                (0..3).map(|_| self.tensor(dtype, &[2, 18, 3, 16], -2.0, 2.0)).collect();
            let inputs = (0..3)
                .map(|n| Operand {
                    place: Place::Input(n),
                    dtype,
                    layout: Layout::contiguous([2, 18, 3, 16]).permute(&[0, 2, 1, 3]),
                })
                .collect();
            let op = Op::Attention(Attention {
                scale: F32::new(0.25),
                causal: false,
                mask: false,
                merge_heads: true,
            });
            self.add_views("heads inside", op, inputs, data, tolerance(dtype) * 2.0);
        }
    }
}
