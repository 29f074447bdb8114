//! Tensors for the tests of kernels: made at random, run through a kernel, compared with plain loops in f64.

use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use streampool_core::Result;
use streampool_core::op::{Constant, DType, Layout, Op, Operand, Place, Shape, TensorType};

use super::pack::Aligned;
use crate::kernel::{Args, Kernel, Prepare};
use crate::kernels::Packs;
use crate::team::Team;

/// A small generator of test data (Marsaglia's xorshift), in (-1, 1).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub(crate) fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub(crate) fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// A view of an array.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    words: Vec<u64>,
}

impl Tensor {
    /// Of garbage.
    pub(crate) fn new(dtype: DType, shape: &[usize]) -> Self {
        let layout = Layout::contiguous(shape);
        let words = vec![0x7FC1_7FC1_7FC1_7FC1; (layout.shape.len() * dtype.size()).div_ceil(8).max(1)];
        Self { dtype, layout, words }
    }

    /// Random: floats in (-1, 1), integers in -9..=9 (of i8 and u8 all values).
    pub(crate) fn random(dtype: DType, shape: &[usize], random: &mut Random) -> Self {
        let mut t = Self::new(dtype, shape);
        for i in 0..t.layout.shape.len() {
            let x = f64::from(random.next());
            let x = match dtype {
                DType::I32 | DType::I64 => (x * 9.5).trunc(),
                DType::I8 => (x * 128.0).floor(),
                DType::U8 => (x * 128.0).floor() + 128.0,
                _ => x,
            };
            t.set(i, x);
        }
        t
    }

    pub(crate) fn from_fn(dtype: DType, shape: &[usize], f: impl Fn(usize) -> f64) -> Self {
        let mut t = Self::new(dtype, shape);
        for i in 0..t.layout.shape.len() {
            t.set(i, f(i));
        }
        t
    }

    /// Another view of the same array.
    pub(crate) fn view(&self, f: impl FnOnce(&Layout) -> Layout) -> Self {
        Self { layout: f(&self.layout), ..self.clone() }
    }

    fn set(&mut self, i: usize, x: f64) {
        let p = self.words.as_mut_ptr();
        // SAFETY: (tests) `i` is an element of the array.
        unsafe {
            match self.dtype {
                DType::F32 => *p.cast::<f32>().add(i) = x as f32,
                DType::F64 => *p.cast::<f64>().add(i) = x,
                DType::F16 => *p.cast::<f16>().add(i) = f16::from_f64(x),
                DType::BF16 => *p.cast::<bf16>().add(i) = bf16::from_f64(x),
                DType::I8 => *p.cast::<i8>().add(i) = x as i8,
                DType::U8 => *p.cast::<u8>().add(i) = x as u8,
                DType::I32 => *p.cast::<i32>().add(i) = x as i32,
                DType::I64 => *p.cast::<i64>().add(i) = x as i64,
                DType::Bool => *p.cast::<bool>().add(i) = x != 0.0,
            }
        }
    }

    /// The element at array position `i`.
    pub(crate) fn raw(&self, i: usize) -> f64 {
        let p = self.words.as_ptr();
        // SAFETY: (tests) `i` is an element of the array.
        unsafe {
            match self.dtype {
                DType::F32 => f64::from(*p.cast::<f32>().add(i)),
                DType::F64 => *p.cast::<f64>().add(i),
                DType::F16 => (*p.cast::<f16>().add(i)).to_f64(),
                DType::BF16 => (*p.cast::<bf16>().add(i)).to_f64(),
                DType::I8 => f64::from(*p.cast::<i8>().add(i)),
                DType::U8 => f64::from(*p.cast::<u8>().add(i)),
                DType::I32 => f64::from(*p.cast::<i32>().add(i)),
                DType::I64 => *p.cast::<i64>().add(i) as f64,
                DType::Bool => f64::from(u8::from(*p.cast::<bool>().add(i))),
            }
        }
    }

    /// The element at an index, of which leading axes may be left out or too many (broadcasting).
    pub(crate) fn at(&self, index: &[usize]) -> f64 {
        let skip = index.len() - self.layout.shape.rank().min(index.len());
        let position = self.layout.shape.iter().zip(&self.layout.strides).zip(&index[skip..]);
        let at = position.map(|((&d, &s), &i)| if d == 1 { 0 } else { i as isize * s }).sum::<isize>();
        self.raw((self.layout.offset as isize + at) as usize)
    }

    /// The address of element 0 of the view.
    fn data(&self) -> *const u8 {
        self.words.as_ptr().cast::<u8>().wrapping_add(self.layout.offset * self.dtype.size())
    }

    fn operand(&self) -> Operand {
        Operand { place: Place::Input(0), dtype: self.dtype, layout: self.layout.clone() }
    }

    /// The bits of a contiguous tensor.
    pub(crate) fn bits(&self) -> Vec<u64> {
        (0..self.layout.shape.len()).map(|i| self.raw(i).to_bits()).collect()
    }

    /// The whole array, as a constant.
    fn constant(&self) -> Arc<Constant> {
        let elements = self.words.len() * 8 / self.dtype.size();
        let bytes: Vec<u8> = self.words.iter().flat_map(|w| w.to_le_bytes()).collect();
        // One byte in, so that it is unaligned as in a mapped file.
        let mut shifted = vec![0u8];
        shifted.extend(bytes);
        Constant::new(TensorType::new(self.dtype, [elements]), Bytes::from(shifted).slice(1..))
    }
}

/// All indices of a shape.
pub(crate) fn indices(shape: &Shape) -> impl Iterator<Item = Vec<usize>> {
    let shape = shape.clone();
    (0..shape.len()).map(move |mut i| {
        let mut index = vec![0; shape.rank()];
        for axis in (0..shape.rank()).rev() {
            index[axis] = i % shape[axis];
            i /= shape[axis];
        }
        index
    })
}

/// A kernel run once.
pub(crate) struct Trial<'a> {
    pub(crate) op: &'a Op,
    pub(crate) inputs: &'a [&'a Tensor],
    /// Which inputs are constants that the kernel packs: it gets no address for them.
    pub(crate) packed: &'a [usize],
    pub(crate) out: (DType, &'a [usize]),
}

impl Trial<'_> {
    /// Makes the kernel, and runs it.
    pub(crate) fn run(
        &self,
        make: impl FnOnce(&Prepare<'_>) -> Result<Box<dyn Kernel>>,
        team: &Team,
    ) -> Tensor {
        let mut out = Tensor::new(self.out.0, self.out.1);
        let operands: Vec<Operand> = self.inputs.iter().map(|t| t.operand()).collect();
        let constants: Vec<Option<Arc<Constant>>> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(i, t)| self.packed.contains(&i).then(|| t.constant()))
            .collect();
        let packs = Packs::default();
        let kernel = make(&Prepare {
            op: self.op,
            inputs: &operands,
            outputs: &[out.operand()],
            constants: &constants,
            packs: &packs,
        })
        .unwrap();
        let empty = out.layout.shape.is_empty();
        assert!(empty || self.packed.iter().all(|&i| kernel.holds_input(i)), "not packed");
        drop(constants);
        assert!(!kernel.describe().is_empty());
        let guard = 64;
        let mut scratch = Aligned::zeros(kernel.scratch_bytes() / 4 + guard).unwrap();
        // SAFETY: (tests) the arrays are as long as the layouts say, the scratch memory as the kernel asked.
        unsafe {
            let words = kernel.scratch_bytes().div_ceil(4);
            for i in 0..words + guard {
                *scratch.as_mut_ptr().add(i) = f32::NAN;
            }
            let inputs: Vec<*const u8> = self
                .inputs
                .iter()
                .enumerate()
                .map(|(i, t)| if kernel.holds_input(i) { std::ptr::null() } else { t.data() })
                .collect();
            let outputs = [out.words.as_mut_ptr().cast::<u8>()];
            kernel
                .run(&Args { inputs: &inputs, outputs: &outputs, scratch: scratch.as_mut_ptr().cast(), team })
                .unwrap();
            for i in words..words + guard {
                assert!((*scratch.as_ptr().add(i)).is_nan(), "wrote beyond the scratch memory");
            }
        }
        out
    }
}

/// An activation in f64, by the definitions.
pub(crate) fn activation64(f: Option<streampool_core::op::Activation>, x: f64) -> f64 {
    use streampool_core::op::Activation as A;
    match f {
        None => x,
        Some(A::Relu) => x.max(0.0),
        Some(A::Sigmoid) => 1.0 / (1.0 + (-x).exp()),
        Some(A::Tanh) => x.tanh(),
        Some(A::Silu) => x / (1.0 + (-x).exp()),
        Some(A::LeakyRelu(s)) => {
            if x < 0.0 {
                x * f64::from(s.get())
            } else {
                x
            }
        }
        Some(A::Clip(lo, hi)) => x.max(f64::from(lo.get())).min(f64::from(hi.get())),
        Some(A::GeluTanh) => {
            x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Some(A::Gelu) => {
            // erf by Simpson's rule over its definition.
            let steps = 400;
            let h = x / std::f64::consts::SQRT_2 / f64::from(steps);
            let f = |i: f64| (-(i * h).powi(2)).exp();
            let sum: f64 =
                (0..steps).map(f64::from).map(|i| h / 6.0 * (f(i) + 4.0 * f(i + 0.5) + f(i + 1.0))).sum();
            x / 2.0 * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
        }
    }
}
