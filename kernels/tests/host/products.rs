//! Products with what follows them in one kernel, against the CPU device's steps one by one.

use std::collections::BTreeSet;

use streampool_core::op::{
    Activation, Binary, DType, F32, HostTensor, Instr, LayerNorm, Layout, Map, MatMul, Op, Operand, Place,
    Port, Program, Scalar, Step, TensorType, Unary,
};
use streampool_kernels::{Aim, Kernel, Product, Target, product};

use crate::library::Library;
use crate::run::run_on_cpu;
use crate::targets::{HOPPER, OLDER, fits};

/// A product, its steps and its kernel.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) data: Vec<HostTensor>,
    /// What the kernel's inputs are bound to: which buffer, and the operand in it.
    pub(crate) bound: Vec<Operand>,
    pub(crate) output: TensorType,
    pub(crate) kernel: Kernel,
    /// The one for low latency.
    pub(crate) quick: Option<Kernel>,
}

/// Numbers like rounded normal ones, from a counter: no two tensors alike.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> f64 {
        // SplitMix64 (Steele, Lea and Flood 2014).
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            sum += (z ^ z >> 31) as f64 / u64::MAX as f64 - 0.5;
        }
        sum * 1.7
    }

    pub(crate) fn tensor(&mut self, dtype: DType, shape: &[usize]) -> HostTensor {
        let mut t = HostTensor::zeros(TensorType::new(dtype, shape)).expect("room for a test");
        for i in 0..t.ty().shape.len() {
            let bits = Scalar::from_f64(dtype, self.next()).bits().to_le_bytes();
            t.bytes_mut()[i * dtype.size()..][..dtype.size()].copy_from_slice(&bits[..dtype.size()]);
        }
        t
    }
}

#[derive(Clone, Copy, Default)]
struct Wish {
    dtype: Option<DType>,
    m: usize,
    n: usize,
    k: usize,
    /// The weight is read transposed.
    across: bool,
    bias: bool,
    residual: bool,
    activation: Option<Activation>,
    gelu: bool,
    norm: Option<bool>,
    siblings: usize,
    alpha: Option<f32>,
}

/// GELU from its parts, as models in float16 have it: with constants that are not quite those of the function.
pub(crate) fn gelu(dtype: DType) -> Map {
    let number = |x: f64| Instr::Const(Scalar::from_f64(dtype, x));
    Map {
        code: vec![
            Instr::Input(0),
            number(1.4140625),
            Instr::Binary(Binary::Div, 0, 1),
            Instr::Unary(Unary::Erf, 2),
            number(1.0),
            Instr::Binary(Binary::Add, 3, 4),
            Instr::Binary(Binary::Mul, 0, 5),
            number(0.5),
            Instr::Binary(Binary::Mul, 6, 7),
        ],
    }
}

/// What `wish` asks for, if such a device has a kernel for it.
fn case(wish: Wish, target: Target, numbers: &mut Numbers) -> Option<Case> {
    let Wish { m, n, k, .. } = wish;
    let dtype = wish.dtype.unwrap_or(DType::F16);
    let count = wish.siblings.max(1);
    let op = MatMul {
        alpha: F32::new(wish.alpha.unwrap_or(1.0)),
        bias: wish.bias,
        residual: wish.residual,
        activation: wish.activation,
    };
    let mut data = vec![numbers.tensor(dtype, &[m, k])];
    let weights = if wish.across { [count * n, k] } else { [count * k, n] };
    data.push(numbers.tensor(dtype, &weights));
    let operand = |place, shape: &[usize], offset| {
        let mut layout = Layout::contiguous(shape);
        layout.offset = offset;
        Operand { place, dtype, layout }
    };
    let weight = |s: usize| {
        let shape = if wish.across { [n, k] } else { [k, n] };
        let mut o = operand(Place::Input(1), &shape, s * n * k);
        if wish.across {
            o.layout = o.layout.permute(&[1, 0]);
        }
        o
    };
    let mut inputs = vec![operand(Place::Input(0), &[m, k], 0), weight(0)];
    if wish.bias {
        data.push(numbers.tensor(dtype, &[count * n]));
        inputs.push(operand(Place::Input(2), &[n], 0));
    }
    if wish.residual {
        inputs.push(operand(Place::Input(data.len() as u32), &[m, n], 0));
        data.push(numbers.tensor(dtype, &[m, n]));
    }
    // A gap between siblings shows what is written beyond a result.
    let step = m * n + if count > 1 { 16 } else { 0 };
    let mut steps = Vec::new();
    let follows = wish.gelu || wish.norm.is_some();
    let result = |s: usize| operand(Place::Output(0), &[m, n], s * step);
    for s in 0..count {
        let mut inputs = inputs.clone();
        inputs[1] = weight(s);
        if wish.bias {
            inputs[2].layout.offset = s * n;
        }
        let out = if follows { operand(Place::Arena(0), &[m, n], 0) } else { result(s) };
        steps.push(Step { name: "product".into(), op: Op::MatMul(op.clone()), inputs, outputs: vec![out] });
    }
    let map = gelu(dtype);
    let mut bound = inputs.clone();
    let between = operand(Place::Arena(0), &[m, n], 0);
    let mut norm_inputs = vec![between.clone()];
    let norm = wish.norm.map(|rms| LayerNorm {
        axis: 1,
        epsilon: F32::new(1e-5),
        rms,
        scale: true,
        bias: !rms,
        residual: false,
    });
    if wish.gelu {
        steps.push(Step {
            name: "gelu".into(),
            op: Op::Map(map.clone()),
            inputs: vec![between],
            outputs: vec![result(0)],
        });
    } else if let Some(norm) = &norm {
        for _ in 0..1 + usize::from(norm.bias) {
            let o = operand(Place::Input(data.len() as u32), &[n], 0);
            data.push(numbers.tensor(dtype, &[n]));
            norm_inputs.push(o.clone());
            bound.push(o);
        }
        steps.push(Step {
            name: "norm".into(),
            op: Op::LayerNorm(norm.clone()),
            inputs: norm_inputs.clone(),
            outputs: vec![result(0)],
        });
    }
    let output = TensorType::new(dtype, [(count - 1) * step + m * n]);
    let asked = Product {
        op: &op,
        inputs: &inputs,
        output: &result(0),
        constant: true,
        target,
        siblings: (wish.siblings > 0).then_some((count, step)),
        then: wish.gelu.then_some(&map),
        norm: norm.as_ref().map(|n| (n, &norm_inputs[..])),
        aim: Aim::Throughput,
    };
    let kernel = product(&asked, |_| true)?;
    let quick = product(&Product { aim: Aim::Latency, ..asked }, |_| true);
    let name = format!("{dtype} {}", kernel.what);
    let port = |t: &TensorType| Port { dtype: t.dtype, bytes: t.bytes() };
    let program = Program {
        name: name.clone(),
        inputs: data.iter().map(|t| port(t.ty())).collect(),
        outputs: vec![port(&output)],
        arena_bytes: m * n * dtype.size(),
        steps,
        ..Program::default()
    };
    Some(Case { name, program, data, bound, output, kernel, quick })
}

fn wishes() -> Vec<Wish> {
    let bf16 = Some(DType::BF16);
    vec![
        // Of MiniLM: queries, keys and values; the intermediate product; both with layer norm.
        Wish { m: 37, n: 384, k: 384, bias: true, siblings: 3, ..Wish::default() },
        Wish { m: 33, n: 1536, k: 384, bias: true, gelu: true, ..Wish::default() },
        Wish { m: 40, n: 384, k: 384, bias: true, residual: true, norm: Some(false), ..Wish::default() },
        Wish { m: 16, n: 384, k: 1536, bias: true, residual: true, norm: Some(false), ..Wish::default() },
        Wish { m: 34, n: 384, k: 1536, bias: true, residual: true, norm: Some(false), ..Wish::default() },
        // Edges: rows, columns and inner lengths that no tile divides.
        Wish { m: 70, n: 384, k: 384, bias: true, siblings: 3, ..Wish::default() },
        Wish { m: 130, n: 136, k: 192, across: true, residual: true, gelu: true, ..Wish::default() },
        Wish { m: 5, n: 8, k: 8, ..Wish::default() },
        Wish { m: 66, n: 96, k: 64, bias: true, siblings: 2, ..Wish::default() },
        Wish { m: 19, n: 136, k: 512, bias: true, norm: Some(false), ..Wish::default() },
        Wish { m: 50, n: 72, k: 200, dtype: bf16, bias: true, residual: true, ..Wish::default() },
        Wish { m: 17, n: 136, k: 40, across: true, activation: Some(Activation::Relu), ..Wish::default() },
        Wish { m: 20, n: 64, k: 1096, across: true, bias: true, alpha: Some(0.3), ..Wish::default() },
        Wish { m: 9, n: 104, k: 2056, residual: true, gelu: true, ..Wish::default() },
        Wish { m: 7, n: 200, k: 264, dtype: bf16, norm: Some(true), across: true, ..Wish::default() },
        Wish { m: 18, n: 768, k: 1160, residual: true, norm: Some(false), ..Wish::default() },
        Wish { m: 21, n: 72, k: 24, dtype: bf16, bias: true, siblings: 2, across: true, ..Wish::default() },
    ]
}

/// Products of all kinds, as the newest device has them.
pub(crate) fn cases() -> Vec<Case> {
    let mut numbers = Numbers(1);
    wishes().into_iter().filter_map(|w| case(w, HOPPER.0, &mut numbers)).collect()
}

#[test]
fn fused_products_agree_with_the_steps_that_they_replace() {
    let mut numbers = Numbers(std::time::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64);
    on_each_target(&wishes(), 13, |&w, target| case(w, target, &mut numbers));
}

/// What `make` makes of the wishes agrees: all of them for the newest device, and for each older one those that it has other kernels for. An older one has
/// kernels for `least` of them.
pub(crate) fn on_each_target<W>(
    wishes: &[W],
    least: usize,
    mut make: impl FnMut(&W, Target) -> Option<Case>,
) {
    let mut seen = BTreeSet::new();
    for (target, architecture) in [HOPPER].into_iter().chain(OLDER) {
        let made: Vec<Case> = wishes.iter().filter_map(|w| make(w, target)).collect();
        let (count, all) = (made.len(), wishes.len());
        assert!(
            count >= if target == HOPPER.0 { all } else { least },
            "{architecture}: {count} of {all} kernels"
        );
        let new: Vec<Case> = made.into_iter().filter(|c| seen.insert(c.kernel.name.clone())).collect();
        println!("{architecture}: {count} kernels, {} cases that no newer one has", new.len());
        agree(&new, (target, architecture));
    }
}

/// Every kernel gives what its program gives on the CPU device and needs no more than `target` has, and the one for low latency gives the same bits.
pub(crate) fn agree(cases: &[Case], (target, architecture): (Target, &str)) {
    let kernels = || cases.iter().flat_map(|c| [&c.kernel].into_iter().chain(&c.quick));
    kernels().for_each(|k| fits(k, target));
    crate::nvrtc::check(kernels(), &[architecture]);
    let library = Library::of(kernels().cloned());
    for case in cases {
        let expected = run_on_cpu(&case.program, &case.data, std::slice::from_ref(&case.output));
        let mut got = HostTensor::zeros(case.output.clone()).expect("room");
        // What is not written must look alike on both sides.
        got.bytes_mut().fill(0);
        let zeros = got.clone();
        library.launch(&case.kernel, &case.bound, &case.data, std::slice::from_mut(&mut got));
        if let Some(quick) = &case.quick {
            let mut also = zeros;
            library.launch(quick, &case.bound, &case.data, std::slice::from_mut(&mut also));
            assert!(also.bytes() == got.bytes(), "{}: other bits than {}", quick.what, case.name);
        }
        let (mut error, mut size) = (0.0, 0.0);
        for i in 0..case.output.shape.len() {
            let (x, y) = (expected[0].get(i).to_f64(), got.get(i).to_f64());
            assert!(y.is_finite(), "{}: element {i} is {y}, should be {x}", case.name);
            error += (x - y) * (x - y);
            size += x * x;
        }
        let relative = (error / size).sqrt();
        println!("{}: off by {relative:.1e}", case.name);
        let tolerance = if case.output.dtype == DType::BF16 { 8e-3 } else { 1e-3 };
        assert!(relative < tolerance, "{}: off by {relative:.2e}", case.name);
    }
}

/// The result may be the very memory of the residual, as plans have it.
#[test]
fn a_result_may_replace_the_residual() {
    let mut numbers = Numbers(7);
    for (norm, k) in [(None, 1200), (Some(false), 256)] {
        let wish = Wish { m: 35, n: 136, k, bias: true, residual: true, norm, ..Wish::default() };
        let case = case(wish, HOPPER.0, &mut numbers).expect("a kernel");
        let library = Library::of([case.kernel.clone()]);
        let expected = run_on_cpu(&case.program, &case.data, std::slice::from_ref(&case.output));
        let mut data = case.data.clone();
        let mut in_place = data.remove(3);
        data.insert(3, in_place.clone());
        let at: *mut u8 = in_place.bytes_mut().as_mut_ptr();
        library.launch_at(&case.kernel, |binding| match binding {
            streampool_kernels::Binding::Input(3) | streampool_kernels::Binding::Output(_) => Some(at),
            streampool_kernels::Binding::Input(i) => {
                let Place::Input(n) = case.bound[i].place else { return None };
                Some(data[n as usize].bytes().as_ptr().cast_mut())
            }
            streampool_kernels::Binding::Status | streampool_kernels::Binding::Scratch => None,
        });
        let worst = (0..case.output.shape.len())
            .map(|i| (expected[0].get(i).to_f64() - in_place.get(i).to_f64()).abs())
            .fold(0.0, f64::max);
        assert!(worst < 0.1, "{}: off by {worst}", case.name);
    }
}
