//! Matrix products, convolutions and attention as plain loops in double precision (integers wrap): slow, obviously right. The fast kernels are
//! tested against these, and they serve what the fast ones do not take.

use streampool_core::Result;
use streampool_core::op::{
    Activation, Attention, Conv, ConvTranspose, DType, Layout, MatMul, MatMulInteger, Op, Shape,
};

use super::map::number::Float;
use super::nest::broadcast_strides;
use super::{Shared, SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};

struct Reference {
    op: Op,
    inputs: Vec<(DType, Layout)>,
    output: (DType, Shape),
}

/// The kernel for one of these operations.
pub(crate) fn prepare(p: &Prepare<'_>) -> Box<dyn Kernel> {
    Box::new(Reference {
        op: p.op.clone(),
        inputs: p.inputs.iter().map(|o| (o.dtype, o.layout.clone())).collect(),
        output: (p.outputs[0].dtype, p.outputs[0].layout.shape.clone()),
    })
}

/// # Safety
/// Element `i` of `dtype` is readable.
unsafe fn read(dtype: DType, first: *const u8, i: isize) -> f64 {
    // SAFETY: passed on from the caller.
    unsafe {
        match dtype {
            DType::F32 => f64::from(first.cast::<f32>().offset(i).read()),
            DType::F64 => first.cast::<f64>().offset(i).read(),
            DType::F16 => first.cast::<half::f16>().offset(i).read().to_f64(),
            DType::BF16 => first.cast::<half::bf16>().offset(i).read().to_f64(),
            _ => read_whole(dtype, first, i) as f64,
        }
    }
}

/// # Safety
/// Element `i` of the integer type `dtype` is readable.
unsafe fn read_whole(dtype: DType, first: *const u8, i: isize) -> i64 {
    // SAFETY: passed on from the caller.
    unsafe {
        match dtype {
            DType::I8 => i64::from(first.cast::<i8>().offset(i).read()),
            DType::I32 => i64::from(first.cast::<i32>().offset(i).read()),
            DType::I64 => first.cast::<i64>().offset(i).read(),
            _ => i64::from(first.offset(i).read()),
        }
    }
}

/// # Safety
/// Element `i` of `dtype` is writable.
unsafe fn write(dtype: DType, first: *mut u8, i: usize, x: f64) {
    // SAFETY: passed on from the caller.
    unsafe {
        match dtype {
            DType::F32 => first.cast::<f32>().add(i).write(x as f32),
            DType::F64 => first.cast::<f64>().add(i).write(x),
            DType::F16 => first.cast::<half::f16>().add(i).write(half::f16::from_f64(x)),
            _ => first.cast::<half::bf16>().add(i).write(half::bf16::from_f64(x)),
        }
    }
}

fn activate(f: Option<Activation>, x: f64) -> f64 {
    match f {
        None => x,
        Some(Activation::Relu) => super::map::number::Number::relu(x),
        Some(Activation::Sigmoid) => Float::sigmoid(x),
        Some(Activation::Tanh) => x.tanh(),
        Some(Activation::Gelu) => Float::gelu(x),
        Some(Activation::GeluTanh) => Float::gelu_tanh(x),
        Some(Activation::Silu) => x * Float::sigmoid(x),
        Some(Activation::LeakyRelu(alpha)) => {
            if x < 0.0 {
                x * f64::from(alpha.get())
            } else {
                x
            }
        }
        // Comparisons, so that NaN stays NaN and bounds in any order do not panic.
        Some(Activation::Clip(low, high)) => {
            let (low, high) = (f64::from(low.get()), f64::from(high.get()));
            let x = if x < low { low } else { x };
            if x > high { high } else { x }
        }
    }
}

/// Row-major coordinates of element `i`.
fn coordinates(shape: &[usize], mut i: usize) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for (c, &d) in at.iter_mut().zip(shape).rev() {
        *c = i % d;
        i /= d;
    }
    at
}

fn offset(at: &[usize], strides: &[isize]) -> isize {
    at.iter().zip(strides).map(|(&a, &s)| a as isize * s).sum()
}

impl Reference {
    /// Strides of operand `n` broadcast to `target`.
    fn strides(&self, n: usize, target: &[usize]) -> Vec<isize> {
        let layout = &self.inputs[n].1;
        broadcast_strides(&layout.shape, &layout.strides, target)
    }

    /// # Safety
    /// As [`Kernel::run`]; `i` is an output element.
    unsafe fn matmul(&self, op: &MatMul, inputs: &[*const u8], y: *mut u8, i: usize) {
        let shape = &self.output.1;
        let (rank, at) = (shape.rank(), coordinates(shape, i));
        let (m, n) = (at[rank - 2], at[rank - 1]);
        let (a, b) = (&self.inputs[0].1, &self.inputs[1].1);
        let k = a.shape[a.shape.rank() - 1];
        let batch = |n: usize| {
            let layout = &self.inputs[n].1;
            let lead = layout.shape.rank() - 2;
            let strides =
                broadcast_strides(&layout.shape[..lead], &layout.strides[..lead], &shape[..rank - 2]);
            offset(&at[..rank - 2], &strides)
        };
        let (sa, sb) = (&a.strides[a.strides.len() - 2..], &b.strides[b.strides.len() - 2..]);
        let (a0, b0) = (batch(0) + m as isize * sa[0], batch(1) + n as isize * sb[1]);
        let dtype = self.output.0;
        let extra = |n: usize| offset(&at, &self.strides(n, shape));
        // SAFETY: offsets are those of the operands' layouts.
        unsafe {
            if dtype.is_float() {
                let mut sum = 0.0;
                for l in 0..k as isize {
                    sum += read(dtype, inputs[0], a0 + l * sa[1]) * read(dtype, inputs[1], b0 + l * sb[0]);
                }
                sum *= f64::from(op.alpha.get());
                for (n, &input) in inputs.iter().enumerate().skip(2) {
                    sum += read(dtype, input, extra(n));
                }
                write(dtype, y, i, activate(op.activation, sum));
            } else {
                let mut sum = 0i64;
                for l in 0..k as isize {
                    let x = read_whole(dtype, inputs[0], a0 + l * sa[1]);
                    sum = sum.wrapping_add(x.wrapping_mul(read_whole(dtype, inputs[1], b0 + l * sb[0])));
                }
                for (n, &input) in inputs.iter().enumerate().skip(2) {
                    sum = sum.wrapping_add(read_whole(dtype, input, extra(n)));
                }
                match dtype {
                    DType::I32 => y.cast::<i32>().add(i).write(sum as i32),
                    _ => y.cast::<i64>().add(i).write(sum),
                }
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`]; `i` is an output element.
    unsafe fn matmul_integer(&self, op: &MatMulInteger, inputs: &[*const u8], y: *mut u8, i: usize) {
        let shape = &self.output.1;
        let (rank, at) = (shape.rank(), coordinates(shape, i));
        let (m, n) = (at[rank - 2], at[rank - 1]);
        let k = self.inputs[0].1.shape[self.inputs[0].1.shape.rank() - 1];
        let matrix = |n: usize| {
            let layout = &self.inputs[n].1;
            let lead = layout.shape.rank() - 2;
            let strides =
                broadcast_strides(&layout.shape[..lead], &layout.strides[..lead], &shape[..rank - 2]);
            (offset(&at[..rank - 2], &strides), layout.strides[lead], layout.strides[lead + 1])
        };
        let ((a0, am, ak), (b0, bk, bn)) = (matrix(0), matrix(1));
        // SAFETY: offsets are those of the operands' layouts.
        unsafe {
            let zero = |there: bool, which: usize, rows: bool| {
                if !there {
                    return 0;
                }
                let (dtype, layout) = &self.inputs[which];
                let mut at = at.clone();
                at[rank - if rows { 1 } else { 2 }] = 0;
                let mut whole = shape.to_vec();
                whole[rank - if rows { 1 } else { 2 }] = 1;
                let offset = if layout.shape.len() == 1 {
                    0
                } else if rows && layout.shape.rank() == 1 {
                    m as isize * layout.strides[0]
                } else {
                    offset(&at, &broadcast_strides(&layout.shape, &layout.strides, &whole))
                };
                read_whole(*dtype, inputs[which], offset)
            };
            let (za, zb) = (zero(op.a_zero, 2, true), zero(op.b_zero, inputs.len() - 1, false));
            let mut sum = 0i64;
            for l in 0..k as isize {
                let x = read_whole(self.inputs[0].0, inputs[0], a0 + m as isize * am + l * ak) - za;
                let w = read_whole(self.inputs[1].0, inputs[1], b0 + n as isize * bn + l * bk) - zb;
                sum += x * w;
            }
            y.cast::<i32>().add(i).write(sum as i32);
        }
    }

    /// # Safety
    /// As [`Kernel::run`]; `row` is a query of a head.
    unsafe fn attention(&self, op: &Attention, inputs: &[*const u8], y: *mut u8, row: usize) {
        let dtype = self.output.0;
        let [q, k, v] = [&self.inputs[0].1, &self.inputs[1].1, &self.inputs[2].1];
        let (h, s) = (q.shape[1], q.shape[2]);
        let (g, t, e) = (k.shape[1], k.shape[2], v.shape[3]);
        let (b, head, i) = (row / (h * s), row / s % h, row % s);
        let group = head / (h / g);
        let visible = if op.causal {
            // Query i sees keys 0..=i + (t - s).
            (i as isize + 1 + t as isize - s as isize).clamp(0, t as isize) as usize
        } else {
            t
        };
        let mask = op.mask.then(|| self.strides(3, &[q.shape[0], h, s, t]));
        // SAFETY: offsets are those of the operands' layouts.
        unsafe {
            let mut scores = Vec::with_capacity(visible);
            for j in 0..visible {
                let mut sum = 0.0;
                for d in 0..q.shape[3] {
                    sum += read(dtype, inputs[0], offset(&[b, head, i, d], &q.strides))
                        * read(dtype, inputs[1], offset(&[b, group, j, d], &k.strides));
                }
                sum *= f64::from(op.scale.get());
                if let Some(strides) = &mask {
                    sum += read(dtype, inputs[3], offset(&[b, head, i, j], strides));
                }
                scores.push(sum);
            }
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, super::map::number::Number::max);
            // A query that sees no key gives 0.
            let hidden = top == f64::NEG_INFINITY;
            let weights: Vec<f64> = scores.iter().map(|x| (x - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for c in 0..e {
                let mut sum = 0.0;
                for (j, w) in weights.iter().enumerate() {
                    sum += w * read(dtype, inputs[2], offset(&[b, group, j, c], &v.strides));
                }
                let at = if op.merge_heads {
                    ((b * s + i) * h + head) * e + c
                } else {
                    ((b * h + head) * s + i) * e + c
                };
                write(dtype, y, at, if hidden { 0.0 } else { sum / total });
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`]; `i` is an output element.
    unsafe fn conv(&self, op: &Conv, inputs: &[*const u8], y: *mut u8, i: usize) {
        let (dtype, shape) = (self.output.0, &self.output.1);
        let at = coordinates(shape, i);
        let (x, w) = (&self.inputs[0].1, &self.inputs[1].1);
        let per_group = w.shape[1];
        let group = at[1] / (shape[1] / op.groups);
        let mut sum = 0.0;
        for l in 0..w.shape[1..].iter().product() {
            let k = coordinates(&w.shape[1..], l);
            let mut from = vec![at[0], group * per_group + k[0]];
            let mut inside = true;
            for axis in 0..op.strides.len() {
                let p = at[2 + axis] * op.strides[axis] + k[1 + axis] * op.dilations[axis];
                let p = p.wrapping_sub(op.pads_before[axis]);
                inside &= p < x.shape[2 + axis];
                from.push(p);
            }
            if inside {
                let mut weight = vec![at[1]];
                weight.extend(&k);
                // SAFETY: positions inside the operands.
                sum += unsafe {
                    read(dtype, inputs[0], offset(&from, &x.strides))
                        * read(dtype, inputs[1], offset(&weight, &w.strides))
                };
            }
        }
        // SAFETY: the bias has one element a channel, the residual the output's shape.
        unsafe {
            if op.bias {
                sum += read(dtype, inputs[2], at[1] as isize);
            }
            if op.residual {
                sum += read(dtype, inputs[inputs.len() - 1], i as isize);
            }
            write(dtype, y, i, activate(op.activation, sum));
        }
    }

    /// # Safety
    /// As [`Kernel::run`]; `i` is an output element.
    unsafe fn conv_transpose(&self, op: &ConvTranspose, inputs: &[*const u8], y: *mut u8, i: usize) {
        let (dtype, shape) = (self.output.0, &self.output.1);
        let at = coordinates(shape, i);
        let (x, w) = (&self.inputs[0].1, &self.inputs[1].1);
        let per_group = w.shape[1];
        let (group, column) = (at[1] / per_group, at[1] % per_group);
        let channels = x.shape[1] / op.groups;
        let mut sum = 0.0;
        for l in 0..w.shape[2..].iter().product() {
            let k = coordinates(&w.shape[2..], l);
            let mut from = vec![0; 2];
            let mut inside = true;
            for axis in 0..op.strides.len() {
                // Output o = input * stride + k * dilation - before.
                let p =
                    at[2 + axis] as isize + op.pads_before[axis] - (k[axis] * op.dilations[axis]) as isize;
                let stride = op.strides[axis] as isize;
                inside &= p >= 0 && p % stride == 0 && ((p / stride) as usize) < x.shape[2 + axis];
                from.push((p / stride) as usize);
            }
            if !inside {
                continue;
            }
            for c in 0..channels {
                (from[0], from[1]) = (at[0], group * channels + c);
                let mut weight = vec![from[1], column];
                weight.extend(&k);
                // SAFETY: positions inside the operands.
                sum += unsafe {
                    read(dtype, inputs[0], offset(&from, &x.strides))
                        * read(dtype, inputs[1], offset(&weight, &w.strides))
                };
            }
        }
        // SAFETY: the bias has one element a channel.
        unsafe {
            if op.bias {
                sum += read(dtype, inputs[2], at[1] as isize);
            }
            write(dtype, y, i, sum);
        }
    }
}

impl Kernel for Reference {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let inputs = Shared::all(args.inputs);
        let y = SharedMut(args.outputs[0]);
        let units = match &self.op {
            Op::Attention(_) => self.inputs[0].1.shape[..3].iter().product(),
            _ => self.output.1.len(),
        };
        split::run(args.team, units, self.work(), |range| {
            for i in range {
                // SAFETY: passed on from the caller; each part writes elements of its own.
                unsafe {
                    match &self.op {
                        Op::MatMul(op) => self.matmul(op, inputs.get(), y.get(), i),
                        Op::MatMulInteger(op) => self.matmul_integer(op, inputs.get(), y.get(), i),
                        Op::Attention(op) => self.attention(op, inputs.get(), y.get(), i),
                        Op::Conv(op) => self.conv(op, inputs.get(), y.get(), i),
                        Op::ConvTranspose(op) => self.conv_transpose(op, inputs.get(), y.get(), i),
                        op => unreachable!("no reference for {}", op.name()),
                    }
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("reference {}", self.op.name())
    }

    fn work(&self) -> usize {
        self.output.1.len().saturating_mul(64)
    }
}
