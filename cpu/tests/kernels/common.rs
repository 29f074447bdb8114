//! Random inputs, strided operands, comparison.

use streampool_core::Result;
use streampool_core::driver::{Bindings, Driver, Slice};
use streampool_core::op::*;
use streampool_core::timeline::StreamId;
use streampool_cpu::{CpuConfig, CpuDriver, evaluate};

/// A small generator (xorshift64*), seeded per test so that failures repeat.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }

    /// In [low, high).
    pub(crate) fn real(&mut self, low: f64, high: f64) -> f64 {
        low + (self.next() >> 11) as f64 / (1u64 << 53) as f64 * (high - low)
    }

    /// Axis lengths: mostly small, sometimes 0, 1 or a whole block.
    pub(crate) fn shape(&mut self, rank: usize) -> Vec<usize> {
        (0..rank)
            .map(|_| match self.below(12) {
                0 => 0,
                1 | 2 => 1,
                3 if rank <= 2 => 100 + self.below(800),
                _ => 2 + self.below(9),
            })
            .collect()
    }

    /// Elements of `dtype`: floats in [-span, span), integers in a range that fits, bools.
    pub(crate) fn tensor(&mut self, dtype: DType, shape: &[usize], span: f64) -> HostTensor {
        let mut t = HostTensor::zeros(TensorType::new(dtype, shape)).unwrap();
        let size = dtype.size();
        let n = t.ty().shape.len();
        for i in 0..n {
            let value = match dtype {
                DType::Bool => Scalar::from_i64(dtype, self.below(2) as i64),
                DType::U8 => Scalar::from_i64(dtype, self.below((span as usize).min(255) + 1) as i64),
                d if d.is_int() => {
                    Scalar::from_i64(d, self.real(-span.min(127.0), span.min(127.0)).round() as i64)
                }
                d => Scalar::from_f64(d, self.real(-span, span)),
            };
            t.bytes_mut()[i * size..][..size].copy_from_slice(&value.bits().to_le_bytes()[..size]);
        }
        t
    }
}

/// All elements as `f64`.
pub(crate) fn reals(t: &HostTensor) -> Vec<f64> {
    (0..t.ty().shape.len()).map(|i| t.get(i).to_f64()).collect()
}

/// All elements as `i64`.
pub(crate) fn wholes(t: &HostTensor) -> Vec<i64> {
    (0..t.ty().shape.len()).map(|i| t.get(i).to_i64()).collect()
}

/// A unit of the last place of `dtype` near 1.
pub(crate) fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F32 => f64::from(f32::EPSILON),
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        _ => 0.0,
    }
}

/// Whether every element is within `tolerance` (relative, and absolute below 1) of the reference, NaN with NaN and infinity with infinity.
#[track_caller]
pub(crate) fn close(got: &HostTensor, want: &[f64], tolerance: f64, what: impl std::fmt::Debug) {
    let got_reals = reals(got);
    assert_eq!(got_reals.len(), want.len(), "{what:?}");
    for (i, (&g, &w)) in got_reals.iter().zip(want).enumerate() {
        // What the dtype can hold of the reference.
        let w = Scalar::from_f64(got.ty().dtype, w).to_f64();
        let fine = (g.is_nan() && w.is_nan()) || g == w || (g - w).abs() <= tolerance * w.abs().max(1.0);
        assert!(fine, "{what:?}: element {i} of {} is {g}, should be {w}", got.ty());
    }
}

/// One operation on contiguous operands.
#[track_caller]
pub(crate) fn eval(op: impl Into<AnyOp>, inputs: &[&HostTensor]) -> Vec<HostTensor> {
    let op = op.into().0;
    evaluate(&op, inputs).unwrap_or_else(|e| panic!("{op:?}: {e}"))
}

/// The error of one operation.
#[track_caller]
pub(crate) fn fails(op: impl Into<AnyOp>, inputs: &[&HostTensor]) -> streampool_core::Error {
    evaluate(&op.into().0, inputs).expect_err("should fail")
}

/// An operation, made from its struct.
pub(crate) struct AnyOp(pub(crate) Op);
macro_rules! any {
    ($($t:ident)*) => { $(impl From<$t> for AnyOp { fn from(o: $t) -> Self { AnyOp(Op::$t(o)) } })* };
}
any!(Map Reduce ArgReduce Cumulative MatMul MatMulInteger Attention Conv ConvTranspose Pool Resize Softmax LayerNorm
     Copy Fill Range Pad Trilu Gather GatherElements GatherNd ScatterElements ScatterNd TopK Unique Random Recurrent Linalg);

/// A view of a larger tensor: permuted, sliced with steps (also negative), broadcast.
pub(crate) struct View {
    pub(crate) base: HostTensor,
    pub(crate) layout: Layout,
}

impl View {
    /// A random view with elements like [`Rng::tensor`]'s.
    pub(crate) fn random(rng: &mut Rng, dtype: DType, shape: &[usize], span: f64) -> Self {
        let rank = shape.len();
        let mut perm: Vec<usize> = (0..rank).collect();
        for i in (1..rank).rev() {
            perm.swap(i, rng.below(i + 1));
        }
        // The base has room for a step and a margin on every axis; some axes are broadcast.
        let steps: Vec<isize> = (0..rank).map(|_| [1, 1, 1, 2, -1, -2, 0][rng.below(7)]).collect();
        let margins: Vec<usize> = (0..rank).map(|_| rng.below(2)).collect();
        let mut base_shape = vec![0; rank];
        for (i, &p) in perm.iter().enumerate() {
            base_shape[i] = match steps[p] {
                0 => 1 + margins[p],
                s => shape[p] * s.unsigned_abs() + margins[p],
            }
            .max(1);
        }
        let base = rng.tensor(dtype, &base_shape, span);
        let mut layout = Layout::contiguous(base_shape.clone());
        for (i, &p) in perm.iter().enumerate() {
            let last = base_shape[i] - 1;
            layout = match steps[p] {
                0 => {
                    let one = layout.slice(i, margins[p], 1, 1);
                    let mut target = one.shape.to_vec();
                    target[i] = shape[p];
                    one.broadcast_to(&target.into()).unwrap()
                }
                s if s > 0 => layout.slice(i, margins[p].min(last), shape[p], s),
                s => layout.slice(i, last, shape[p], s),
            };
        }
        let mut inverse = vec![0; rank];
        for (i, &p) in perm.iter().enumerate() {
            inverse[p] = i;
        }
        Self { base, layout: layout.permute(&inverse) }
    }

    /// Its elements as a contiguous tensor.
    pub(crate) fn contiguous(&self) -> HostTensor {
        let ty = TensorType::new(self.base.ty().dtype, self.layout.shape.clone());
        let size = ty.dtype.size();
        let mut out = HostTensor::zeros(ty).unwrap();
        for i in 0..self.layout.shape.len() {
            let at = coordinates(&self.layout.shape, i);
            let from = at.iter().zip(&self.layout.strides).map(|(&a, &s)| a as isize * s).sum::<isize>()
                + self.layout.offset as isize;
            let bytes = self.base.bytes()[from as usize * size..][..size].to_vec();
            out.bytes_mut()[i * size..][..size].copy_from_slice(&bytes);
        }
        out
    }
}

/// Row-major coordinates of element `i`.
pub(crate) fn coordinates(shape: &[usize], mut i: usize) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for (c, &d) in at.iter_mut().zip(shape).rev() {
        *c = i % d;
        i /= d;
    }
    at
}

/// Row-major index of coordinates.
pub(crate) fn index(shape: &[usize], at: &[usize]) -> usize {
    at.iter().zip(shape).fold(0, |i, (&a, &d)| i * d + a)
}

/// Runs one operation on views, through a driver's queue. `in_place` binds output 0 to that input's memory, which the view must be all of.
pub(crate) fn run_views(op: &Op, views: &[&View], in_place: Option<usize>) -> Result<Vec<HostTensor>> {
    let types: Vec<TensorType> =
        views.iter().map(|v| TensorType::new(v.base.ty().dtype, v.layout.shape.clone())).collect();
    let results = op.infer(&types)?;
    // Everything lives in the arena, at cache-line steps.
    let mut end = 0;
    let mut place = |bytes: usize| {
        let start = end;
        end = (end + bytes).next_multiple_of(64);
        start
    };
    let inputs: Vec<Operand> = views
        .iter()
        .map(|v| Operand {
            place: Place::Arena(place(v.base.bytes().len())),
            dtype: v.base.ty().dtype,
            layout: v.layout.clone(),
        })
        .collect();
    let outputs: Vec<Operand> = results
        .iter()
        .enumerate()
        .map(|(o, ty)| Operand {
            place: match in_place {
                Some(i) if o == 0 => inputs[i].place,
                _ => Place::Arena(place(ty.bytes())),
            },
            dtype: ty.dtype,
            layout: Layout::contiguous(ty.shape.clone()),
        })
        .collect();
    let start = |o: &Operand| match o.place {
        Place::Arena(s) => s,
        _ => unreachable!(),
    };
    let program = Program {
        name: "test".into(),
        arena_bytes: end,
        steps: vec![Step {
            name: "step".into(),
            op: op.clone(),
            inputs: inputs.clone(),
            outputs: outputs.clone(),
        }],
        ..Program::default()
    };
    let driver = CpuDriver::new(CpuConfig::default());
    let executable = driver.compile(&program)?;
    let segment = driver.allocate(end)?;
    let mut queue = driver.open_queue(StreamId(0))?;
    let arena = Slice::of_segment(&segment, 0, end);
    // Poison, so that what a kernel forgets to write shows.
    queue.write(arena, &vec![0xa5; end], 1)?;
    for (v, o) in views.iter().zip(&inputs) {
        queue.write(arena.part(start(o), v.base.bytes().len()), v.base.bytes(), 1)?;
    }
    queue.launch(&executable, &Bindings { inputs: &[], outputs: &[], arena }, 2)?;
    results
        .into_iter()
        .zip(&outputs)
        .map(|(ty, o)| {
            let mut t = HostTensor::zeros(ty)?;
            let bytes = t.bytes().len();
            queue.read(arena.part(start(o), bytes), t.bytes_mut(), std::time::Instant::now())?;
            Ok(t)
        })
        .collect()
}
