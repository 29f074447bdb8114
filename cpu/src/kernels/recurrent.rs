//! RNN, GRU and LSTM, as ONNX defines them.

use streampool_core::Result;
use streampool_core::op::{Cell, DType, Recurrent, RecurrentActivation, RecurrentDirection};

use super::map::number::Float;
use super::map::number::Number;
use super::reader::load;
use super::storage::{Storage, with_float};
use crate::kernel::{Args, Kernel, Prepare};
use crate::simd::multiversion;

struct RecurrentKernel {
    op: Recurrent,
    dtype: DType,
    time: usize,
    batch: usize,
    input: usize,
}

pub(crate) fn prepare(op: &Recurrent, p: &Prepare<'_>) -> Box<dyn Kernel> {
    let x = &p.inputs[0].layout.shape;
    Box::new(RecurrentKernel {
        op: op.clone(),
        dtype: p.inputs[0].dtype,
        time: x[0],
        batch: x[1],
        input: x[2],
    })
}

multiversion! {
    /// `out[j] += sum_k w[j][k] x[k]`, `w` row-major with rows as long as `x`. Sums have one order for all lengths and cores.
    fn multiply[C: Float](w: &[C], x: &[C], out: &mut [C]) {
        const WIDE: usize = 16;
        let n = x.len();
        if n == 0 {
            return;
        }
        for (row, out) in w.chunks_exact(n).zip(out) {
            let mut acc = [C::ZERO; WIDE];
            let mut rows = row.chunks_exact(WIDE);
            let mut xs = x.chunks_exact(WIDE);
            for (r, x) in (&mut rows).zip(&mut xs) {
                let mut i = 0;
                while i < WIDE {
                    acc[i] = acc[i] + r[i] * x[i];
                    i += 1;
                }
            }
            for ((a, &r), &x) in acc.iter_mut().zip(rows.remainder()).zip(xs.remainder()) {
                *a = *a + r * x;
            }
            let mut width = WIDE / 2;
            while width > 0 {
                let mut i = 0;
                while i < width {
                    acc[i] = acc[i] + acc[i + width];
                    i += 1;
                }
                width /= 2;
            }
            *out = *out + acc[0];
        }
    }
}

fn activate<C: Float>(f: RecurrentActivation, x: C) -> C {
    let c = |v: streampool_core::op::F32| C::of(f64::from(v.get()));
    match f {
        RecurrentActivation::Sigmoid => x.sigmoid(),
        RecurrentActivation::Tanh => x.tanh(),
        RecurrentActivation::Relu => x.relu(),
        RecurrentActivation::LeakyRelu(alpha) => {
            if x < C::ZERO {
                x * c(alpha)
            } else {
                x
            }
        }
        RecurrentActivation::ThresholdedRelu(alpha) => {
            if x > c(alpha) {
                x
            } else {
                C::ZERO
            }
        }
        RecurrentActivation::Affine(alpha, beta) => x * c(alpha) + c(beta),
        RecurrentActivation::Elu(alpha) => {
            if x < C::ZERO {
                c(alpha) * x.exp_m1()
            } else {
                x
            }
        }
        RecurrentActivation::HardSigmoid(alpha, beta) => {
            Number::min(Number::max(x * c(alpha) + c(beta), C::ZERO), C::ONE)
        }
        RecurrentActivation::ScaledTanh(alpha, beta) => c(alpha) * (x * c(beta)).tanh(),
        RecurrentActivation::Softsign => x / (C::ONE + Number::abs(x)),
        RecurrentActivation::Softplus => x.softplus(),
    }
}

/// The operands of one direction, as numbers.
struct Weights<C> {
    w: Vec<C>,
    r: Vec<C>,
    /// Of the input's and of the state's product; zeros if there is none.
    input_bias: Vec<C>,
    state_bias: Vec<C>,
    /// Of gates i, o, f.
    peephole: Option<Vec<C>>,
    activations: Vec<RecurrentActivation>,
}

impl RecurrentKernel {
    /// # Safety
    /// As [`Kernel::run`], with `T` of the operands' dtype.
    unsafe fn all<T: Storage<Compute: Float>>(&self, args: &Args<'_>) {
        let (t, b, i, h) = (self.time, self.batch, self.input, self.op.hidden);
        let gates = self.op.cell.gates();
        let directions = self.op.direction.count();
        let mut next = 3;
        let mut optional = |there: bool| {
            there.then(|| {
                next += 1;
                args.inputs[next - 1]
            })
        };
        let bias = optional(self.op.bias);
        let lengths = optional(self.op.lengths);
        let initial_h = optional(self.op.initial_h);
        let initial_c = optional(self.op.initial_c);
        let peephole = optional(self.op.peephole);
        // SAFETY: every read below lies within the operand as inference gave its shape.
        let read = |first: *const u8, at: usize, n: usize| unsafe {
            let mut v = vec![T::Compute::ZERO; n];
            load(first.cast::<T>().add(at), 1, &mut v);
            v
        };
        let x = read(args.inputs[0], 0, t * b * i);
        let lengths: Vec<usize> = (0..b)
            .map(|n| match lengths {
                // SAFETY: one length per batch entry.
                Some(p) => unsafe { (Ord::max(p.cast::<i32>().add(n).read(), 0) as usize).min(t) },
                None => t,
            })
            .collect();
        for d in 0..directions {
            let zeros = || vec![T::Compute::ZERO; gates * h];
            let weights = Weights {
                w: read(args.inputs[1], d * gates * h * i, gates * h * i),
                r: read(args.inputs[2], d * gates * h * h, gates * h * h),
                input_bias: bias.map_or_else(zeros, |p| read(p, d * 2 * gates * h, gates * h)),
                state_bias: bias.map_or_else(zeros, |p| read(p, (d * 2 + 1) * gates * h, gates * h)),
                peephole: peephole.map(|p| read(p, d * 3 * h, 3 * h)),
                activations: self.op.activations[d * self.op.cell.activations()..]
                    [..self.op.cell.activations()]
                    .to_vec(),
            };
            let state = |p: Option<*const u8>| {
                p.map_or_else(|| vec![T::Compute::ZERO; b * h], |p| read(p, d * b * h, b * h))
            };
            let (mut hidden, mut cell) = (state(initial_h), state(initial_c));
            let backwards = match self.op.direction {
                RecurrentDirection::Forward => false,
                RecurrentDirection::Reverse => true,
                RecurrentDirection::Bidirectional => d == 1,
            };
            let y = args.outputs[0].cast::<T>();
            for (n, &length) in lengths.iter().enumerate() {
                let (hidden, cell) = (&mut hidden[n * h..][..h], &mut cell[n * h..][..h]);
                for step in 0..t {
                    // Past its length a sequence gives zeros and its state stays.
                    let at = if step >= length {
                        step
                    } else if backwards {
                        length - 1 - step
                    } else {
                        step
                    };
                    if step < length {
                        self.step(&weights, &x[(at * b + n) * i..][..i], hidden, cell);
                    }
                    for (k, &state) in hidden.iter().enumerate() {
                        let value = if step < length { state } else { T::Compute::ZERO };
                        // SAFETY: y is (t, d, b, h).
                        unsafe { y.add(((at * directions + d) * b + n) * h + k).write(T::put(value)) };
                    }
                }
            }
            for (o, state) in [(1, &hidden), (2, &cell)] {
                if let Some(to) = args.outputs.get(o) {
                    for (k, &v) in state.iter().enumerate() {
                        // SAFETY: y_h and y_c are (d, b, h).
                        unsafe { to.cast::<T>().add(d * b * h + k).write(T::put(v)) };
                    }
                }
            }
        }
    }

    /// One step of one sequence.
    fn step<C: Float>(&self, weights: &Weights<C>, x: &[C], hidden: &mut [C], cell: &mut [C]) {
        let h = hidden.len();
        let f = |n: usize| weights.activations[n];
        let clip = |x: C| match self.op.clip {
            Some(c) => {
                let c = C::of(f64::from(c.get()));
                Number::min(Number::max(x, Number::neg(c)), c)
            }
            None => x,
        };
        let mut gates = weights.input_bias.clone();
        multiply(&weights.w, x, &mut gates);
        match self.op.cell {
            Cell::Rnn => {
                add_state(&mut gates, weights, hidden, 0..h);
                for (s, &g) in hidden.iter_mut().zip(&gates) {
                    *s = activate(f(0), clip(g));
                }
            }
            Cell::Gru { linear_before_reset } => {
                add_state(&mut gates, weights, hidden, 0..2 * h);
                for g in &mut gates[..2 * h] {
                    *g = activate(f(0), clip(*g));
                }
                let (zr, candidate) = gates.split_at_mut(2 * h);
                let (z, r) = zr.split_at(h);
                let rows = &weights.r[2 * h * h..];
                let mut recurrent = vec![C::ZERO; h];
                if linear_before_reset {
                    recurrent.copy_from_slice(&weights.state_bias[2 * h..]);
                    multiply(rows, hidden, &mut recurrent);
                    for (c, (&m, &r)) in candidate.iter_mut().zip(recurrent.iter().zip(r)) {
                        *c = *c + r * m;
                    }
                } else {
                    let reset: Vec<C> = hidden.iter().zip(r).map(|(&s, &r)| s * r).collect();
                    recurrent.copy_from_slice(&weights.state_bias[2 * h..]);
                    multiply(rows, &reset, &mut recurrent);
                    for (c, &m) in candidate.iter_mut().zip(&recurrent) {
                        *c = *c + m;
                    }
                }
                for ((s, &c), &z) in hidden.iter_mut().zip(&*candidate).zip(z) {
                    *s = (C::ONE - z) * activate(f(1), clip(c)) + z * *s;
                }
            }
            Cell::Lstm { input_forget } => {
                add_state(&mut gates, weights, hidden, 0..4 * h);
                let peep = |gate: usize, k: usize, c: C| match &weights.peephole {
                    Some(p) => p[gate * h + k] * c,
                    None => C::ZERO,
                };
                for k in 0..h {
                    let old = cell[k];
                    let i = activate(f(0), clip(gates[k] + peep(0, k, old)));
                    let forget = if input_forget {
                        C::ONE - i
                    } else {
                        activate(f(0), clip(gates[2 * h + k] + peep(2, k, old)))
                    };
                    let new = forget * old + i * activate(f(1), clip(gates[3 * h + k]));
                    let o = activate(f(0), clip(gates[h + k] + peep(1, k, new)));
                    cell[k] = new;
                    hidden[k] = o * activate(f(2), new);
                }
            }
        }
    }
}

/// Adds the state's part of the gates `rows`.
fn add_state<C: Float>(gates: &mut [C], weights: &Weights<C>, hidden: &[C], rows: std::ops::Range<usize>) {
    let h = hidden.len();
    let part = &mut gates[rows.clone()];
    for (g, &b) in part.iter_mut().zip(&weights.state_bias[rows.clone()]) {
        *g = *g + b;
    }
    multiply(&weights.r[rows.start * h..rows.end * h], hidden, part);
}

impl Kernel for RecurrentKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        // SAFETY: passed on from the caller.
        with_float!(self.dtype, T => unsafe { self.all::<T>(args) });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("{:?} {:?}, {} steps of {}", self.op.cell, self.op.direction, self.time, self.op.hidden)
    }

    fn work(&self) -> usize {
        let per_step = self.op.cell.gates() * self.op.hidden * (self.op.hidden + self.input);
        self.time * self.batch * self.op.direction.count() * per_step
    }
}
